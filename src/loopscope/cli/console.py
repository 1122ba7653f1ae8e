"""What commands print: messages and progress on standard error, tables on standard output."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.table import Table

# Paths and errors may contain brackets and colons, which must not be read as markup.
console = Console(stderr=True, markup=False, emoji=False)


def say(message: str) -> None:
    """Print a message on standard error, on one line however long it is."""
    console.print(message, soft_wrap=True)


def columns() -> int:
    """Return the width of standard output in characters; 80 if it is not a terminal."""
    return Console().width


def tell(message: str) -> None:
    """Print a message on standard output, in lines that end between words."""
    print("\n".join(textwrap.wrap(message, columns(), break_long_words=False, break_on_hyphens=False)))


def show(table: Table) -> None:
    """Print a table on standard output."""
    Console(markup=False, emoji=False).print(table)
