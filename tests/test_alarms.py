"""Alarms: what a webhook is told, and that one which is away, slow or wrong harms nobody."""

from __future__ import annotations

import logging
import time

import pytest
from pydantic import SecretStr

from spendgate import alarms
from spendgate.alarms import alarm_sentence, send_alarm
from spendgate.errors import DiscrepancyError, PermanentError
from tests.brokers import free_port
from tests.webhook import Webhook

WHERE = {"dag": "build_spend", "task": "merge_events", "run": "manual__1"}


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(alarms, "TIMEOUT_SECONDS", 0.3)
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_an_alarm_names_what_failed_and_why_and_is_sent_again_until_it_is_taken() -> None:
    webhook = Webhook(500, 503, 204)
    with webhook.serving() as url:
        assert send_alarm(SecretStr(url), "failed", "Make room.", WHERE)
    assert webhook.got == 3 * [
        {
            "text": "SpendGate: dag build_spend, task merge_events, run manual__1 failed. Make room.",
            "kind": "failed",
            "reason": "Make room.",
            **WHERE,
        }
    ]


def test_without_a_webhook_nothing_is_sent() -> None:
    assert not send_alarm(None, "failed", "Make room.", WHERE)


@pytest.mark.parametrize("trouble", ["refuses", "is away", "is silent", "is no address"])
def test_a_webhook_in_trouble_costs_a_moment_and_a_warning_without_its_address(
    trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = Webhook(403 if trouble == "refuses" else 200)
    webhook.silence = 0.6 if trouble == "is silent" else 0.0
    caplog.set_level(logging.WARNING)
    began = time.monotonic()
    with webhook.serving() as url:
        addresses = {"is away": f"http://127.0.0.1:{free_port()}/a-secret-token", "is no address": "a-secret-token:7"}
        assert not send_alarm(SecretStr(addresses.get(trouble, url)), "late", "It isn't done.", WHERE)
    assert time.monotonic() - began < 5
    assert "SPENDGATE_ALARM_WEBHOOK" in caplog.text
    assert "a-secret-token" not in caplog.text


def test_only_sentences_of_ours_leave_the_house() -> None:
    ours = PermanentError("Run ./spendgate migrate.")
    wrapped = RuntimeError("anything")
    wrapped.__cause__ = ours
    assert alarm_sentence(ours) == alarm_sentence(wrapped) == "Run ./spendgate migrate."
    assert alarm_sentence(ValueError("password=hush")) == "ValueError: see the task's log."
    assert alarm_sentence(None) == "No reason is known."
    assert len(alarm_sentence(DiscrepancyError("x" * 5000))) == alarms.MAX_TEXT
