"""Studies: grids of runs, their ledger and their workers."""

from loopscope.studies.ledger import Ledger, Record
from loopscope.studies.plan import PlannedRun, StudyPlan, read_plan
from loopscope.studies.runner import RunStatus, StudyFolder, StudyOutcome, run_study

__all__ = [
    "Ledger",
    "PlannedRun",
    "Record",
    "RunStatus",
    "StudyFolder",
    "StudyOutcome",
    "StudyPlan",
    "read_plan",
    "run_study",
]
