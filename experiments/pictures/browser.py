"""The browser that draws pictures and drives the lab: a Chromium or Chrome of the system, or the one of Playwright."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
"""Options without which the browser itself asks the network for this and that."""


def launch(playwright: Playwright) -> Browser:
    """Return a headless browser.

    Raises:
        SystemExit: there is none; the message says what to install.
    """
    own = playwright.chromium.executable_path
    found = next((place for name in NAMES if (place := shutil.which(name))), own if Path(own).exists() else None)
    if found is None:
        raise SystemExit(f"no browser was found (looked for {', '.join(NAMES)}): apt-get install chromium")
    return playwright.chromium.launch(executable_path=found, args=[*QUIET])
