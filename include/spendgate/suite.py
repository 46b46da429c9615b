"""`./spendgate test`: lint, types, import rules, SQL rules, all tests and their coverage. It checks, never fixes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

from spendgate.settings import ROOT
from spendgate.show import tell

LEAST_COVERAGE = 90
# Much of the time goes by waiting for servers that start: more workers than the two cores of a small machine. A
# file stays with one worker, with the servers that its tests share, in the order that tests/conftest.py gives them.
_SIDE_BY_SIDE = ("-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")

# Fast ones first: who broke a rule learns it in seconds.
_CHECKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lint", ("ruff", "check", ".")),
    ("format", ("ruff", "format", "--check", ".")),
    ("import rules", ("importlinter.cli", "lint-imports")),
)
# Twenty seconds of one core, and a database that may not answer: done while the tests' first servers start.
_BESIDE: tuple[tuple[str, tuple[str, ...]], ...] = (("types", ("mypy",)), ("advisories", ("spendgate.audit",)))


class _Call(TypedDict):
    args: list[str]
    cwd: Path
    env: dict[str, str]


def run_suite(arguments: Sequence[str]) -> int:
    """Run everything, or only pytest with `arguments`; returns the exit status, 0 when all of it passed."""
    if arguments:
        return _run(("pytest", *arguments))
    failed = [name for name, command in _CHECKS if _timed(name, command)]
    _run(("coverage", "erase"))
    with ExitStack() as stack:
        beside = [(name, _start(command, stack)) for name, command in _BESIDE]
        if _timed("tests", ("coverage", "run", "-m", "pytest", *_SIDE_BY_SIDE)):
            failed.append("tests")
        failed += [name for name, process in beside if _ended(name, process)]
    _run(("coverage", "combine", "-q"))
    if _timed("coverage", ("coverage", "report", f"--fail-under={LEAST_COVERAGE}")):
        failed.append("coverage")
    tell(f"Failed: {', '.join(failed)}." if failed else "Everything passed.")
    return 1 if failed else 0


def _timed(name: str, command: tuple[str, ...]) -> bool:
    """Run one part; True when it failed."""
    tell(f"== {name}")
    began = time.monotonic()
    status = _run(command)
    tell(f"== {name}: {'ok' if status == 0 else f'FAILED ({status})'} in {time.monotonic() - began:.0f} s")
    return status != 0


def _start(command: tuple[str, ...], stack: ExitStack) -> subprocess.Popen[str]:
    """Start one part, which keeps what it says until it is asked; killed if it still runs when the stack is left."""
    call = _call(command)
    process = stack.enter_context(subprocess.Popen(**call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    stack.callback(process.kill)
    return process


def _ended(name: str, process: subprocess.Popen[str]) -> bool:
    """Wait for one part and show what it said; True when it failed."""
    said, _ = process.communicate()
    status = process.returncode
    tell(f"== {name}\n{said}== {name}: {'ok' if status == 0 else f'FAILED ({status})'}")
    return status != 0


def _run(command: tuple[str, ...]) -> int:
    return subprocess.call(**_call(command))


def _call(command: tuple[str, ...]) -> _Call:
    """How to call a module of this Python in the repository, away from the caller's settings."""
    environment = {name: value for name, value in os.environ.items() if not _is_own(name)}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "include"), str(ROOT)))
    if command[0] == "importlinter.cli":
        code = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
        return {"args": [sys.executable, "-c", code], "cwd": ROOT, "env": environment}
    return {"args": [sys.executable, "-m", *command], "cwd": ROOT, "env": environment}


def _is_own(name: str) -> bool:
    """Settings of the caller's home mustn't reach the tests; those that name servers to test on must."""
    return name.startswith("SPENDGATE_") and not name.startswith("SPENDGATE_TEST_")
