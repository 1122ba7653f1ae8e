"""Serving: one clear line where it cannot be done, loopback only, and nothing left running."""

from __future__ import annotations

import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from commands import refusal

from loopscope.lab import Exhibit
from loopscope.lab.gradio_without_stubs import without_stubs
from loopscope.lab.server import check_address

HELPERS = Path(__file__).parents[1] / "helpers"
AUDITED = """
import sys

def audit(event, arguments):
    if event == "socket.connect":
        print("connect", arguments[1], file=sys.stderr, flush=True)
    elif event == "socket.bind":
        print("bind", arguments[1], file=sys.stderr, flush=True)
    elif event == "open" and str(arguments[0]).endswith(".pyi"):
        print("stub", arguments[0], file=sys.stderr, flush=True)

sys.addaudithook(audit)
from loopscope.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture
def taken():
    """Return a port that something listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use_is_one_line(taken, capsys):
    line = refusal(capsys, ["lab", "prefix-sums", "--port", taken])
    assert line == (
        f"loopscope: port {taken} of 127.0.0.1 is in use: stop what uses it, or give another with --port (0 takes any free one)"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "port is 70000, expected a number from 0 to 65535"),
        (["--host", "192.0.2.1", "--port", "0"], "cannot serve on 192.0.2.1: "),
        (["no/such/run", "--port", "0"], "no/such/run"),
        (["lab_loops:unproven", "--port", "0"], "the loop does not reproduce its model"),
        (["hf:./nowhere", "--port", "0"], "there is no folder ./nowhere"),
        (["sudoku", "--text", "prompts.txt", "--port", "0"], "--text is for third-party models, hf:FOLDER_OR_NAME"),
        (["--at", "core", "--port", "0"], "--at is for third-party models"),
        (
            ["prefix-sums", "--trained-iterations", "0", "--port", "0"],
            "trained_iterations is 0, expected a number above 0",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys, monkeypatch):
    monkeypatch.syspath_prepend(HELPERS)
    assert said in refusal(capsys, ["lab", *arguments])


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    line = refusal(capsys, ["lab"])
    assert line == 'loopscope: the lab needs Gradio, which is not installed: pip install "loopscope[lab]"'


def test_port_0_takes_a_free_one():
    assert check_address("127.0.0.1", 0) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_on_loopback_alone_and_an_interrupt_leaves_nothing_running(number):
    arguments = [sys.executable, "-c", AUDITED, "lab", "lab_loops:with_recall", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])}
    lines = []
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as server:
        try:
            for line in server.stderr:
                lines.append(line)
                if "the lab is open at" in line:
                    break
            address = re.search(r"http://\S+", lines[-1])[0].replace("localhost", "127.0.0.1")
            with urllib.request.urlopen(address, timeout=60) as answer:
                page = answer.read().decode()
            server.send_signal(number)
            assert server.wait(timeout=60) == 0
            lines += server.stderr.readlines()
        finally:
            server.kill()
    assert "Loopscope lab" in page
    assert [url for url in re.findall(r"(?:src|href)=\"(https?://[^\"]+)", page) if "127.0.0.1" not in url] == []
    assert lines[-1] == "closed\n"
    assert [line for line in lines if line.startswith("stub")] == []
    hosts = {re.search(r"'([^']*)'", line)[1] for line in lines if line.startswith(("connect", "bind")) and "'" in line}
    assert hosts <= {"127.0.0.1", "localhost"}
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)


def test_only_the_writer_of_stubs_finds_no_files():
    def create_or_modify_pyi(kind):
        return inspect.getfile(kind)

    found = inspect.getfile
    with without_stubs():
        assert inspect.getfile(Exhibit) == found(Exhibit)
        with pytest.raises(OSError, match="no stubs"):
            create_or_modify_pyi(Exhibit)
    assert inspect.getfile is found
    assert create_or_modify_pyi(Exhibit) == found(Exhibit)
