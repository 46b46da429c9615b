"""Alarms: one JSON object, posted to the webhook that the settings name; without one, nothing.

What is sent are names and one sentence of ours; never a payload, a setting or another library's message, which may hold
either. A webhook that is away costs some seconds and a line in the log, and fails nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import SecretStr

from spendgate.errors import SpendGateError

log = logging.getLogger(__name__)

ATTEMPTS = 3
# Of one attempt; with the pauses between them the whole of it stays below half a minute.
TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 1.0
MAX_TEXT = 1000


def alarm_sentence(error: BaseException | str | None) -> str:
    """Why something failed, in words that may leave the house: our own sentences, of other errors the name alone."""
    if error is None:
        return "No reason is known."
    if isinstance(error, str):
        return error[:MAX_TEXT]
    if isinstance(error, SpendGateError):
        return str(error)[:MAX_TEXT]
    if isinstance(error.__cause__, SpendGateError):
        return str(error.__cause__)[:MAX_TEXT]
    return f"{type(error).__name__}: see the task's log."


def send_alarm(webhook: SecretStr | None, kind: str, sentence: str, where: Mapping[str, str | None]) -> bool:
    """Post an alarm; True when the webhook took it.

    Args:
        kind: `failed` or `late`.
        where: the DAG, task and run that it is about; None: not of one.
    """
    if webhook is None:
        return False
    # Here, because it takes a tenth of a second that no DAG file needs to be parsed.
    import httpx
    from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

    place = ", ".join(f"{name} {value}" for name, value in where.items() if value)
    body = {"text": f"SpendGate: {place} {kind}. {sentence}", "kind": kind, "reason": sentence, **where}
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_fixed(PAUSE_SECONDS),
        retry=retry_if_exception_type(httpx.HTTPError),
    )
    try:
        for attempt in retrying:
            with attempt:
                httpx.post(
                    webhook.get_secret_value(), json=body, timeout=TIMEOUT_SECONDS, follow_redirects=False
                ).raise_for_status()
    except RetryError as error:
        # The address may hold a token: of what httpx says only the kind is told.
        refusal = type(error.last_attempt.exception()).__name__
        log.warning("The webhook didn't take an alarm (%s); set SPENDGATE_ALARM_WEBHOOK right.", refusal)
        return False
    except httpx.InvalidURL:
        log.warning("SPENDGATE_ALARM_WEBHOOK is no URL; set it right.")
        return False
    return True
