"""One lab and one browser for all tests. The browser notes every error, and every request that leaves this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from experiments.pictures.browser import launch

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
PATIENCE = 120_000
"""Milliseconds that a slow machine is given for anything."""
SHIPPED = ("sudoku", "chess", "prefix-sums", "prefix-sums-without-recall")
LOOPS = ("with_recall", "letters", "language", "drawn", "rotating", "exploding", "failing", "slow")
"""Functions of ``lab_loops`` that the lab shows beside the models that ship."""
EXPECTED = "RuntimeError: the cable"
"""What the one traceback ends with that a test provokes in the terminal."""


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
def serving(folder: Path, *subjects: str) -> Iterator[Lab]:
    """Serve a lab until the end of the context. What the command says besides the expected traceback is an error."""
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
                time.sleep(0.1)
            yield Lab(found[0].replace("localhost", "127.0.0.1"), process, folder)
        finally:
            process.terminate()
    said = log.read_text()
    assert process.returncode == 0
    said = re.sub(rf"^Traceback.*?^{EXPECTED}\n.*?\n", "", said, flags=re.M | re.S)
    assert [line for line in said.splitlines() if not line.startswith(("the lab is open", "closed"))] == []


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a headless browser."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory, browser) -> Iterator[Lab]:
    """Serve the models that ship and the loops of ``lab_loops``. It outlives the pages, which would complain of its end."""
    with serving(tmp_path_factory.mktemp("lab"), *SHIPPED, *(f"lab_loops:{name}" for name in LOOPS)) as lab:
        yield lab


@pytest.fixture(scope="session")
def wrong() -> list[str]:
    """Return what is wrong with the pages: what they logged, raised, or asked other machines for."""
    return []


@pytest.fixture(scope="session")
def open_page(lab, browser, wrong):
    """Return a function that opens the lab on a page of its own."""

    def asked(url: str) -> None:
        if urlparse(url).scheme not in ("data", "blob") and urlparse(url).hostname != "127.0.0.1":
            wrong.append(f"asked for {url}")

    def logged(kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            wrong.append(f"logged {text}")

    def opened() -> Page:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked(request.url))
        page.on("pageerror", lambda error: wrong.append(f"raised {error}"))
        page.on("console", lambda message: logged(message.type, message.text))
        page.goto(lab.address)
        page.wait_for_selector("#stage .board")
        return page

    return opened


@pytest.fixture(scope="session")
def shared(open_page) -> Iterator[Page]:
    """Return the page that the tests share, because opening one takes seconds."""
    page = open_page()
    yield page
    page.close()


@pytest.fixture(autouse=True)
def _nothing_is_wrong(wrong) -> Iterator[None]:
    yield
    noted = list(wrong)
    wrong.clear()
    assert noted == []
