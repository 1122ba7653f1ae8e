"""A small study, and what it found."""

import yaml

from loopscope.studies import StudyFolder

TINY = {
    "name": "tiny",
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8, 16], "strings": 60, "test_strings": 20},
    "model": {"width": 16, "heads": 2},
    "training": {"steps": 12, "batch_size": 8, "max_iterations": 4, "compile": False, "checkpoint_interval": 3},
    "evaluation": {"iterations": 12, "examples": 10},
    "examination": {"effort": "quick", "examples": 6, "iterations": 40},
    "grid": {"model.norm": ["outer"], "training.learning_rate": [1e-3, 1e30]},
    "also": [{"model.architecture": "fixed-depth", "model.recall": "none", "model.blocks": 2}],
    "workers": 1,
}


def written(path, **changes):
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


def outcomes(folder):
    """Return what a study found, apart from the time it took."""
    found = {}
    for name, record in StudyFolder(folder).ledger.records().items():
        examination = dict(record.examination or {})
        examination.pop("seconds", None)
        found[name] = (record.status, record.evaluation, examination)
    return found
