import inspect
from pathlib import Path

import pytest
from torch import nn

from loopscope.adapters import families
from loopscope.adapters.registry import FAMILIES, adapt
from loopscope.errors import LoopscopeError

FILES = sorted(path for path in Path(families.__file__).parent.glob("*.py") if path.stem not in ("__init__", "family"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_family_is_one_short_file_that_imports_no_package_of_models(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 80
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {"__future__", "typing", "collections", "contextlib", "inspect", "torch", "loopscope"}


def test_every_family_is_registered_and_has_a_test():
    assert len(FAMILIES) == len(FILES)
    assert {path.stem for path in FILES} <= {
        path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")
    }
    names = [name for family in FAMILIES for name in family.classes]
    assert len(names) == len(set(names))


def test_a_class_that_derives_from_a_known_one_is_known():
    class DoryForCausalLM(nn.Module):
        pass

    class Tuned(DoryForCausalLM):
        pass

    assert next(family for family in FAMILIES if family.has(Tuned())).name == "Dory"


@pytest.mark.parametrize(("given", "kind"), [(None, "NoneType"), (nn.Linear, "type")])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model_is_refused(given, kind):
    with pytest.raises(LoopscopeError, match=f"the model is of type {kind}, expected a torch.nn.Module"):
        adapt(given)


def test_an_unknown_class_is_told_how_to_go_on():
    with pytest.raises(
        LoopscopeError, match=r"Linear is of no known family \(Dory, .*\): name the call.*ls\.find_loops"
    ):
        adapt(nn.Linear(2, 2))


def test_every_refusal_and_setting_has_a_docstring():
    assert all(inspect.getdoc(__import__(f"loopscope.adapters.families.{path.stem}", fromlist=["x"])) for path in FILES)
