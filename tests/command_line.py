"""`./spendgate` without the launcher, as a person calls it in one home."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from spendgate.cli import main
from spendgate.settings import ROOT, Settings, load_settings
from tests.untraced import untraced

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class CommandLine:
    """Commands in one home."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: bytes = b"", **variables: str) -> Done:
        """The command in this process: the second that a process takes to load is none of its business."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
        environment = mock.patch.dict(os.environ, self.environment(variables), clear=True)
        with pytest.MonkeyPatch.context() as patch, environment:
            patch.chdir("/")
            patch.setattr(sys, "argv", ["spendgate", *arguments])
            for name, stream in (("stdin", given), ("stdout", out), ("stderr", err)):
                patch.setattr(sys, name, stream)
            load_settings.cache_clear()
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:
                load_settings.cache_clear()
        status = ended.value.code
        assert isinstance(status, int)
        return Done(arguments, status, _written(out), _written(err))

    def process(self, *arguments: str, stdin: bytes = b"", **variables: str) -> Done:
        """The command in a process of its own: what it loads, and what it leaves behind, count."""
        done = subprocess.run(
            self._command(arguments),
            cwd="/",
            env=untraced(self.environment(variables)),
            input=stdin,
            capture_output=True,
            timeout=180,
            check=False,
        )
        return Done(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """As `process`, without waiting for its end."""
        return subprocess.Popen(
            self._command(arguments),
            cwd="/",
            env=untraced(self.environment({})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Whatever is set here, but for SpendGate's own settings, and `variables`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SPENDGATE_")}
        own = {"SPENDGATE_HOME": str(self.home), "PYTHONPATH": str(ROOT / "include")}
        return {**inherited, **own, **self.variables, **variables}

    def settings(self) -> Settings:
        """The settings of its home."""
        return Settings(home=self.home)

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "spendgate", *arguments]


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()
