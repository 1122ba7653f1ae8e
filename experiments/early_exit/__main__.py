"""Draw the curves of early-exit rules and print their table: python -m experiments.early_exit

It reads what these commands wrote into experiments/early_exit/results (FOLDER holds the chess puzzles):

    loopscope exits src/loopscope/shipped/models/prefix-sums --split "128 bits" --examples 100 --out .../prefix-sums.json
    loopscope exits src/loopscope/shipped/models/sudoku --split "10-99 guesses" --examples 100 --out .../sudoku.json
    LOOPSCOPE_DATA=FOLDER loopscope exits src/loopscope/shipped/models/chess --split "up to 1600" --examples 300 --out .../chess.json
    loopscope exits experiments.early_exit.models:dory --out .../dory.json
    loopscope exits experiments.early_exit.models:gated --out .../gated.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from loopscope.files import read_json_as
from loopscope.reports.early_exit import exits_panel, rule_row, rule_styles
from loopscope.reports.kit.charts import Panel, draw_panels, png
from loopscope.schema import from_plain
from loopscope.stability.early_exit.comparison import ExitComparison

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "exits.png"
NAMES = {
    "prefix-sums": "prefix sums, 128 bits",
    "sudoku": "sudoku, 10-99 guesses",
    "chess": "chess, up to 1600",
    "dory": "Dory, sorting letters",
    "gated": "looped transformer with a gate, sorting letters",
}
COLUMNS = ("model", "rule", "AUC", "95%", "0 points lost", "1 point lost", "5 points lost")


def stored(folder: Path = RESULTS) -> dict[str, ExitComparison]:
    """Return the stored comparisons by title."""
    return {
        title: from_plain(
            read_json_as(folder / f"{name}.json", dict[str, Any], "run the command again"), ExitComparison
        )
        for name, title in NAMES.items()
    }


def table(compared: dict[str, ExitComparison]) -> str:
    """Return the rules of all models as a table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for title, one in compared.items():
        for rule in one.rules:
            lines.append("| " + " | ".join((title, *rule_row(rule, one))) + " |")
        lines.append(f"| {title} | oracle | – | – | {one.oracle.iterations:.1f} | | |")
    return "\n".join(lines)


def picture(compared: dict[str, ExitComparison]) -> bytes:
    """Return the curves of all models as a PNG file, with one legend."""
    styles = {name: style for one in compared.values() for name, style in rule_styles(one).items()}

    def panel(title: str, one: ExitComparison) -> Panel:
        inner = exits_panel(one)

        def draw(axes: Axes) -> None:
            inner.draw(axes)
            axes.set_title(title, loc="left", fontweight="bold", fontsize=9)

        return Panel(draw, width=4.6, height=3.3)

    def key(axes: Axes) -> None:
        for name, style in styles.items():
            axes.plot([], [], label=name, lw=1.8, **style.line)
        axes.plot([], [], "*", c="#1c2331", ms=11, label="oracle")
        axes.legend(loc="center", fontsize=10)
        axes.set_axis_off()

    figure, _ = draw_panels([*(panel(*one) for one in compared.items()), Panel(key, width=4.6, height=3.3)], columns=3)
    return png(figure)


if __name__ == "__main__":
    found = stored()
    PICTURE.write_bytes(picture(found))
    print(table(found))
    for title, one in found.items():
        print(f"\n{title}: {one}")
