"""The code of the guide to solvers runs and prints what the page shows."""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "solvers.md"


def words(text):
    """The text without its numbers, which differ between machines, and without line breaks."""
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "N", " ".join(text.split()))


def test_the_guide_prints_what_it_shows(capsys):
    parts = re.findall(r"```python\n(.*?)```\n((?:\n|    [^\n]*\n)*)", GUIDE.read_text(), flags=re.S)
    assert len(parts) == 5
    names = {}
    for code, shown in parts:
        exec(compile(code, str(GUIDE), "exec"), names)
        assert words(capsys.readouterr().out) == words(shown)
