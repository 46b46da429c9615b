"""A home of its own for each test, with nothing left running after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spendgate.local import postgres
from spendgate.local.processes import Supervisor
from spendgate.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    home = tmp_path / "a home"
    home.mkdir()
    yield Settings(home=home)
    supervisor = Supervisor(home)
    supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})
    assert supervisor.processes() == []


@pytest.fixture
def supervisor(settings: Settings) -> Supervisor:
    return Supervisor(settings.home)


@pytest.fixture
def reported() -> list[str]:
    return []
