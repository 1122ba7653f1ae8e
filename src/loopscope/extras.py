"""Optional packages. Each belongs to an extra of this package, which the error names if it is missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from loopscope.errors import LoopscopeError

EXTRAS = {
    "chess": "chess",
    "gradio": "lab",
    "numba": "data",
    "plotly": "pages",
    "pytorch_lightning": "watch",
    "ray": "cluster",
    "sklearn": "analysis",
    "transformers": "models",
    "zstandard": "data",
}
"""The extra in pyproject.toml that installs each package."""
NAMES = {
    "chess": "python-chess",
    "gradio": "Gradio",
    "pytorch_lightning": "Lightning",
    "ray": "Ray",
    "sklearn": "scikit-learn",
}
"""Names of packages that differ from the names of their modules."""


def install_command(package: str) -> str:
    """Return the command that installs an optional package.

    Args:
        package: the name of its top module, one of ``EXTRAS``.

    Example:
        >>> install_command("plotly")
        'pip install "loopscope[pages]"'
    """
    return f'pip install "loopscope[{EXTRAS[package]}]"'


def is_installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return find_spec(package) is not None


def check_installed(package: str, purpose: str) -> None:
    """Refuse to continue without an optional package.

    Args:
        package: the name of its top module, one of ``EXTRAS``.
        purpose: what needs it, as the subject of a sentence: "reading .zst files".

    Raises:
        LoopscopeError: it is not installed; the message says how to install it.
    """
    if not is_installed(package):
        name = NAMES.get(package, package)
        raise LoopscopeError(f"{purpose} needs {name}, which is not installed: {install_command(package)}")


def require(package: str, purpose: str) -> ModuleType:
    """Import and return an optional package; see ``check_installed``."""
    check_installed(package, purpose)
    return import_module(package)
