"""Hooks of mkdocs for links out of docs/ and for formulas.

Pages may link to files of the repository outside docs/, and the site contains copies of these files. On a code host the same
links lead to the files themselves. Formulas in LaTeX become MathML, which browsers draw without a script or a font.
"""

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)")
COPIES = "repository"
"""The folder of the site that holds the copies."""
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
"""A formula as the extension arithmatex marks it in a page: inline in a span, displayed in a div."""


def _outside(page: str, link: str) -> str | None:
    """Return the path in the repository that a page's link leads to, or None if it is within docs/."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith("docs/") else target


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a copy of each file outside docs/ that a page links to."""
    root = Path(config.docs_dir).parent
    for page in list(files.documentation_pages()):
        for _, link in LINK.findall(page.content_string):
            target = _outside(page.src_uri, link)
            copy = f"{COPIES}/{target}"
            if target and (root / target).is_file() and files.get_file_from_path(copy) is None:
                files.append(
                    File.generated(config, copy, abs_src_path=str(root / target), inclusion=InclusionLevel.NOT_IN_NAV)
                )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to the copies."""
    here = posixpath.dirname(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        target = _outside(page.file.src_uri, match[2])
        return match[0] if target is None else match[1] + posixpath.relpath(f"{COPIES}/{target}", here or ".")

    return LINK.sub(lead, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the formulas of a page into MathML."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return convert(html.unescape(match[3]).strip(), display=display)

    return FORMULA.sub(mathml, content)
