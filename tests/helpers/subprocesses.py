"""Programs run in a process of their own, as users run them: no test's imports are there yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def run_python(program: str, *arguments: str, cwd=None, path: str | None = None) -> str:
    """Run a program and return its standard output; a failure shows its standard error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({} if path is None else {"PYTHONPATH": path})
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_loaded_by(program: str, *arguments: str) -> set[str]:
    """Return the names of the modules that are loaded when a program has ended."""
    reported = f"{program}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    return set(json.loads(run_python(reported, *arguments).splitlines()[-1]))


def without(names) -> str:
    """Return the beginning of a program in which these packages cannot be imported, as if they were not installed."""
    return f"import sys\nsys.modules.update(dict.fromkeys({sorted(names)!r}))\n"
