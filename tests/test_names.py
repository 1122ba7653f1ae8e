"""Every name that code uses is defined. The linter cannot tell, since the shapes of jaxtyping look undefined to it."""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parent.parent
MODULES = [path for folder in ("src", "experiments") for path in (ROOT / folder).rglob("*.py")]
OF_EVERY_MODULE = {*vars(builtins), "__annotations__", "__file__", "__name__", "__doc__", "__path__", "__spec__"}


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a module's code and that of everything defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def undefined(source: str) -> set[str]:
    """Return the global names that a module's code reads and never binds. Annotations are text, and not read."""
    module = compile(source, "module", "exec", flags=0, dont_inherit=True)
    bound, read = set(), set()
    for code in codes(module):
        for instruction in dis.get_instructions(code):
            name, known = instruction.argval, instruction.argval in code.co_names
            if instruction.opname == "STORE_GLOBAL" or (code is module and instruction.opname == "STORE_NAME"):
                bound.add(name)
            elif (known and instruction.opname == "LOAD_GLOBAL") or (
                code is module and instruction.opname == "LOAD_NAME"
            ):
                read.add(name)
    return read - bound - OF_EVERY_MODULE


def test_a_name_that_is_not_imported_is_found():
    assert undefined("import os\ndef f(x: 'batch'):\n    return os.sep + glob(x)\nclass A:\n    y = len([f])") == {
        "glob"
    }
    assert undefined("from __future__ import annotations\ndef f(x: Missing) -> Missing: return x") == set()


def test_no_module_uses_an_undefined_name():
    found = {str(path.relative_to(ROOT)): undefined(path.read_text()) for path in MODULES}
    assert {module: names for module, names in found.items() if names} == {}
