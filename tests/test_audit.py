"""Locked packages against advisories: our own list, and a database where one answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spendgate import audit

OLD = "starlette==0.49.0 \\\n    --hash=sha256:00\nh11==0.16.0\n"


def told_of(*packages: dict[str, Any]) -> audit.Answer:
    return audit.read_answer({"dependencies": list(packages)})


def test_no_locked_package_is_known_to_be_bad(root: Path) -> None:
    advisories = audit.ADVISORIES.read_text()
    for name in audit.LOCKS:
        packages = audit.locked((root / name).read_text())
        assert len(packages) > 50
        assert audit.known_bad(packages, advisories) == []


def test_a_package_below_what_an_advisory_asks_for_fails_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "ask", lambda *_: None)
    assert audit.audit({"a lock": OLD}, audit.ADVISORIES.read_text()) == 1
    told = capsys.readouterr().err
    assert "starlette 0.49.0 is below 0.49.1: CVE-2025-62727" in told
    assert "h11" not in told


def test_a_database_that_does_not_answer_is_said_loudly_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit ends with status 0 and a report when its index knows none of the packages."""
    unknown = {"name": "h11", "version": "0.16.0", "skip_reason": "Dependency not found"}
    monkeypatch.setattr(audit, "ask", lambda *_: told_of(unknown))
    assert audit.audit({"a lock": "h11==0.16.0\n"}, audit.ADVISORIES.read_text()) == 0
    assert "PIP-AUDIT COULDN'T LOOK" in capsys.readouterr().err


def test_what_a_database_finds_fails_and_what_it_left_out_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flawed = {"name": "h11", "version": "0.16.0", "vulns": [{"id": "CVE-1", "fix_versions": ["0.17"]}]}
    unknown = {"name": "ours", "version": "1", "skip_reason": "Dependency not found"}
    monkeypatch.setattr(audit, "ask", lambda *_: told_of(flawed, unknown))
    assert audit.audit({"a lock": "h11==0.16.0\n"}, audit.ADVISORIES.read_text()) == 1
    told = capsys.readouterr().err
    assert "h11 0.16.0: CVE-1, mended in 0.17" in told
    assert "PIP-AUDIT LEFT OUT 1 packages of a lock" in told


def test_pip_audit_is_asked_of_a_service_in_its_own_words() -> None:
    """Whatever the network is: an answer that can be read, or none."""
    answer = audit.ask("h11==0.16.0\n", "pypi", "--no-deps")
    assert answer is None or answer.looked_at + answer.left_out == 1
