"""The page of the lab in a headless browser: seconds to the first page, milliseconds from a click to the screen, and memory.

    python benchmarks/lab.py
    python benchmarks/lab.py --model chess --clicks 60 --json

A click is timed in the browser, from the event to the first frame with the new iteration. The clock also counts what other
programs take from the cores, so run this on a quiet machine; the processor time of the server, and the smallest time of a click, are
disturbed least.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from output import print_results
from playwright.sync_api import Page, sync_playwright

sys.path.append(str(Path(__file__).parents[1]))

from experiments.pictures.browser import launch

FIRST_PAGE, ITERATION, GROWTH = 5.0, 50.0, 40.0
"""Bounds: seconds, milliseconds and MiB."""
ROUNDS = 25
"""Rounds of clicks whose effect on memory is measured."""
CLICK = """async (name) => {
    const shown = () => document.querySelector(".iteration b").innerText;
    const before = shown();
    const button = [...document.querySelectorAll("button")].find((one) => one.innerText.trim() === name);
    const began = performance.now();
    button.click();
    while (shown() === before) await new Promise(requestAnimationFrame);
    // A message that is sent in a frame is received after the frame was painted.
    await new Promise((done) => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = done;
        channel.port2.postMessage(0);
    }));
    return performance.now() - began;
}"""


@dataclass(frozen=True)
class Row:
    """One quantity.

    Attributes:
        quantity: what was measured.
        unit: its unit.
        value: the value; the median of several.
        smallest: the smallest of several values.
        largest: the largest of several values.
        bound: what the value should not exceed; None where there is no bound.
    """

    quantity: str
    unit: str
    value: float
    smallest: float
    largest: float
    bound: float | None = None


COLUMNS: dict[str, Callable[[Row], str]] = {
    "quantity": lambda row: row.quantity,
    "value": lambda row: f"{row.value:,.1f} {row.unit}",
    "from": lambda row: f"{row.smallest:,.1f}",
    "to": lambda row: f"{row.largest:,.1f}",
    "at most": lambda row: "" if row.bound is None else f"{row.bound:,.0f}",
    "kept": lambda row: "" if row.bound is None else "yes" if row.value <= row.bound else "no",
}


def row(quantity: str, unit: str, values: list[float], bound: float | None = None) -> Row:
    return Row(quantity, unit, statistics.median(values), min(values), max(values), bound)


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mebibytes(pid: int) -> float:
    """Return the memory of a process."""
    (kibibytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kibibytes) / 1024


@contextmanager
def served() -> Iterator[tuple[str, int, float]]:
    """Serve the models that ship; give the address, the process, and when it was started."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "loopscope.cli", "lab", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            (address,) = re.findall(r"http://\S+", process.stderr.readline())
            yield address.replace("localhost", "127.0.0.1"), process.pid, began
        finally:
            process.terminate()


def import_of_torch() -> float:
    """Return the seconds of importing torch, with those of starting Python."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began


def press(page: Page, name: str) -> float:
    """Press a button, and return the milliseconds until the iteration that follows is on the screen."""
    return float(page.evaluate(CLICK, name))


def choose(page: Page, model: str) -> None:
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name=model, exact=True).click()
    page.get_by_role("heading", name=model, exact=True).wait_for()


def pushed(page: Page) -> None:
    """Push the state, and wait until that is over."""
    page.get_by_role("button", name="Push it", exact=True).click()
    page.locator("[data-finding=push].told").wait_for()


def iterations(page: Page, process: int, what: str, clicks: int) -> list[Row]:
    """Time single iterations of the model on the page."""
    for _ in range(10):
        press(page, "One step")
    spent = processor_seconds(process)
    times = [press(page, "One step") for _ in range(clicks)]
    spent = 1000 * (processor_seconds(process) - spent) / clicks
    return [
        row(f"one iteration of {what}, from click to screen", "ms", times, ITERATION),
        row("processor time of the server for it", "ms", [spent]),
    ]


def growth(page: Page, process: int, rounds: int) -> Row:
    """Return the memory that the server takes in addition after some rounds of four clicks."""
    before = mebibytes(process)
    for _ in range(rounds):
        for name in ("Start again", "One step", "One step", "One step"):
            press(page, name)
    return row(f"memory after {4 * rounds} clicks more", "MiB", [mebibytes(process) - before], GROWTH)


def measure(model: str, clicks: int) -> list[Row]:
    torch = min(import_of_torch() for _ in range(3))
    with sync_playwright() as playwright:
        browser = launch(playwright)
        with served() as (address, process, began):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(address)
            page.wait_for_selector("#stage .board")
            first = time.perf_counter() - began - torch
            rows = [row("first page, beside the import of torch", "s", [first], FIRST_PAGE)]
            rows.append(
                row("processor time of the server until then, torch included", "s", [processor_seconds(process)])
            )
            choose(page, model)
            rows += iterations(page, process, model, clicks)
            pushed(page)
            rows += iterations(page, process, f"{model} beside a pushed orbit", clicks)
            growth(page, process, 3)  # what is made once is made now
            rows.append(growth(page, process, ROUNDS))
            page.close()
        browser.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("sudoku", "chess", "prefix-sums"), default="sudoku")
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    chosen = parser.parse_args()
    from setting import setting  # imports torch, whose import is timed

    rows = measure(chosen.model, chosen.clicks)
    ran = setting(model=chosen.model, clicks=chosen.clicks, load=round(os.getloadavg()[0], 1))
    print_results(rows, COLUMNS, ran, chosen.json)


if __name__ == "__main__":
    main()
