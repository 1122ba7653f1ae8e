"""The map of CONTRIBUTING.md against the imports: every room imports only what stands above it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "loopscope"


def floors() -> list[list[str]]:
    """Return the rooms of the map, from the top of its table down."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| room |") : text.index("`experiments/`")]
    return [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[2:] if line.startswith("|")]


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the rooms that a module imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "loopscope":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loopscope."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("loopscope.")}
    return found - {room_of(path)}


def test_the_map_names_every_room_once():
    named = [room for floor in floors() for room in floor]
    assert sorted(named) == sorted({room_of(path) for path in modules()})


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_above_it(path):
    above: list[str] = []
    for floor in floors():
        above += floor
        if room_of(path) in floor:
            break
    assert imported(path) <= set(above), path


CORE = {
    "errors",
    "extras",
    "schema",
    "strict_yaml",
    "files",
    "progress",
    "trees",
    "loop",
    "readouts",
    "kinds",
    "contexts",
    "checks",
    "weights",
    "jacobian",
    "gmres",
}


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("models", CORE),
        ("adapters", CORE),
        ("fixed_points", CORE),
        ("stability", CORE | {"fixed_points", "evidence", "metrics", "reports"}),
        ("tasks", CORE | {"shipped"}),
        ("studies", CORE | {"parsing", "stability", "evaluation", "training", "subjects"}),
    ],
)
def test_neither_side_of_the_loop_knows_the_other(room, allowed):
    """Models know no measurement, measurements know no model, tasks know no model; studies know no report."""
    for path in modules():
        if room_of(path) == room:
            assert imported(path) <= allowed, path


def test_nothing_in_the_package_imports_the_experiments():
    assert not [path for path in modules() if re.search(r"^\s*(from|import) experiments\b", path.read_text(), re.M)]
