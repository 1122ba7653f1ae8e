"""A lab that is served by the command, and a browser that notes every error and every request that leaves this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
"""Options without which the browser itself asks the network for this and that."""
PATIENCE = 120_000
"""Milliseconds that a slow machine is given for anything."""


@dataclass(frozen=True)
class Lab:
    """A lab that is being served.

    Args:
        address: of its page.
        process: the command.
        folder: the folder that the command runs in.
    """

    address: str
    process: subprocess.Popen
    folder: Path

    def memory(self) -> int:
        """Return the bytes of memory that the command holds."""
        (line,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return 1024 * int(line)


@contextmanager
def serving(folder: Path, *subjects: str, complaint: str = "") -> Iterator[Lab]:
    """Serve a lab until the end of the context, in which the command says nothing but the complaint that is expected."""
    command = [sys.executable, "-m", "loopscope.cli", "lab", *subjects, "--port", "0"]
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    log = folder / "lab.log"
    with (
        log.open("w") as out,
        subprocess.Popen(command, stderr=out, cwd=folder, env={**os.environ, "PYTHONPATH": path}) as process,
    ):
        try:
            while not (found := re.search(r"http://\S+", log.read_text())):
                assert process.poll() is None, log.read_text()
            yield Lab(found[0].replace("localhost", "127.0.0.1"), process, folder)
        finally:
            process.terminate()
    said = "\n".join(
        line for line in log.read_text().splitlines() if not line.startswith(("the lab is open", "closed"))
    )
    assert complaint in said
    assert complaint or not said


@pytest.fixture(scope="session")
def serve():
    """Return the context in which a lab of some subjects is served."""
    return serving


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a headless browser."""
    found = next((place for name in BROWSERS if (place := shutil.which(name))), None)
    assert found, f"no browser was found (looked for {', '.join(BROWSERS)}): apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shipped(tmp_path_factory) -> Iterator[Lab]:
    """Serve the models that ship."""
    with serving(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def visit(browser):
    """Return a function that opens a lab at a width; what the page logs and asks for is checked at the end."""
    pages: list[Page] = []
    wrong: list[str] = []

    def watch(page: Page) -> None:
        def asked(url: str) -> None:
            if urlparse(url).scheme not in ("data", "blob") and urlparse(url).hostname != "127.0.0.1":
                wrong.append(f"asked for {url}")

        page.on("request", lambda request: asked(request.url))
        page.on("pageerror", lambda error: wrong.append(f"raised {error}"))
        page.on(
            "console",
            lambda message: wrong.append(f"logged {message.text}") if message.type in ("error", "warning") else None,
        )

    def open_at(lab: Lab, width: int = 1400) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(PATIENCE)
        watch(page)
        pages.append(page)
        page.goto(lab.address)
        page.wait_for_selector("#stage .board")
        return page

    yield open_at
    for page in pages:
        if not page.is_closed():
            page.close()
    assert wrong == []
