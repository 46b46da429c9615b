"""`.env.example` lists every setting, with its default, and nothing else."""

from __future__ import annotations

import re

import pytest

from spendgate.settings import ROOT, Settings

# What the launcher reads itself, before there is Python.
LAUNCHER = {"SPENDGATE_PYTHON"}
# Its default is a path on this machine.
MACHINE = {"SPENDGATE_HOME", "SPENDGATE_QUALITY_FILE"}

_LINE = re.compile(r"(?P<unset># ?)?(?P<name>SPENDGATE_[A-Z0-9_]+)=(?P<value>.*)")


def listed() -> dict[str, str | None]:
    """{variable: value}; None: commented out, hence unset."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    found = [match for match in map(_LINE.fullmatch, lines) if match]
    names = [match["name"] for match in found]
    assert len(names) == len(set(names)), "a variable is listed twice in .env.example"
    return {match["name"]: None if match["unset"] else match["value"] for match in found}


def known() -> set[str]:
    return {f"SPENDGATE_{name.upper()}" for name in Settings.model_fields}


def test_every_setting_is_listed() -> None:
    missing = known() - listed().keys()
    assert not missing, f"add {sorted(missing)} to .env.example, with default and meaning"


def test_nothing_is_listed_that_is_no_setting() -> None:
    extra = listed().keys() - known() - LAUNCHER
    assert not extra, f"remove {sorted(extra)} from .env.example: no setting has that name"


def test_what_is_listed_as_default_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in known():
        monkeypatch.delenv(name, raising=False)
    default = Settings()
    example = {name: value for name, value in listed().items() if name not in LAUNCHER | MACHINE}
    for name, value in example.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    assert Settings() == default, "a value in .env.example isn't the default of include/spendgate/settings.py"
    unset = {name for name, value in example.items() if value is None}
    without = {name for name in example if getattr(default, name.removeprefix("SPENDGATE_").lower()) is None}
    assert unset == without, f"comment out settings without a default, and only those: {sorted(unset ^ without)}"
