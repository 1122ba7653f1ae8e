"""What commands print: messages and progress on standard error, tables on standard output."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

# Paths and errors may contain brackets and colons, which must not be read as markup.
console = Console(stderr=True, markup=False, emoji=False)


def say(message: str) -> None:
    """Print a message on standard error, on one line however long it is."""
    console.print(message, soft_wrap=True)


def show(table: Table) -> None:
    """Print a table on standard output."""
    Console(markup=False, emoji=False).print(table)
