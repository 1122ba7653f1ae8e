"""Formulas of the documentation, which the site shows as MathML."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import markdown
import pytest

DOCS = Path(__file__).parent.parent / "docs"
FORMULAS = [
    path.relative_to(DOCS) for path in sorted(DOCS.glob("**/*.md")) if "$\\" in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def rendered():
    """Return the function that turns Markdown into the HTML of the site, as far as formulas are concerned."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    extensions = {"pymdownx.arithmatex": {"generic": True}}

    def render(text):
        page = markdown.markdown(text, extensions=["tables", *extensions], extension_configs=extensions)
        return hooks.on_page_content(page, None, None, None)

    return render


def test_an_inline_formula_becomes_mathml(rendered):
    page = rendered(r"The radius is $\rho < 1$ here.")
    (formula,) = ElementTree.fromstring(page)
    assert formula.tag.endswith("math")
    assert formula.get("display") == "inline"
    assert [part.text for part in formula.iter() if part.text] == ["ρ", "<", "1"]


def test_a_displayed_formula_becomes_a_block(rendered):
    page = rendered("Hence\n\n$$\\frac{a}{b}$$\n\nand so on.")
    assert 'display="block"' in page
    assert "<mfrac>" in page


def test_dollars_in_code_are_no_formulas(rendered):
    assert "<math" not in rendered("    $ loopscope solve chess\n    $ loopscope data chess\n\nand `$OUT` and `$HOME`")


@pytest.mark.parametrize("page", FORMULAS, ids=str)
def test_every_formula_of_a_page_is_rendered(page, rendered):
    found = rendered((DOCS / page).read_text(encoding="utf-8"))
    assert "<math" in found
    assert "arithmatex" not in found
    assert "\\" not in found.replace("\\|", "")
