"""Processes to be killed, forked from one that has loaded what they need: each saves a second of processor time."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self
from unittest import mock

from tests.untraced import untraced

Main = Callable[..., int]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.end_to_end.pipeline_process", "tests.streams.read_process"])


class Forked:
    """`main(*arguments)`, whose value is the exit status, in a process of its own; used like subprocess.Popen."""

    def __init__(self, main: Main, *arguments: object, variables: Mapping[str, str] | None = None) -> None:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(main, arguments, dict(variables or {}), writer))
        with mock.patch.dict(os.environ, untraced(), clear=True):
            self._process.start()
        writer.close()
        # What the process says, errors included.
        self.stdout = os.fdopen(os.dup(reader.fileno()), "r", encoding="utf-8")
        reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stdout.close()
        self.wait()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """The exit status.

        Raises:
            subprocess.TimeoutExpired: it takes longer.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(repr(self._process), timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it says, and nothing, when it has ended; what it says is no more than a pipe takes."""
        self.wait(timeout)
        with self.stdout:
            return self.stdout.read(), None


def _run(main: Main, arguments: tuple[object, ...], variables: dict[str, str], writer: Connection) -> None:
    os.environ.update(variables)
    for output in (1, 2):
        os.dup2(writer.fileno(), output)
    writer.close()
    sys.stdout, sys.stderr = (os.fdopen(output, "w", buffering=1, closefd=False) for output in (1, 2))
    sys.exit(main(*arguments))
