"""The verdict on one batch: which expectations it doesn't meet, and how to tell people. No warehouse, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from spendgate.quality.expectations import EXPECTATIONS, Expectation, Severity, Threshold, Unit


@dataclass(frozen=True, slots=True)
class Finding:
    """An expectation that a batch doesn't meet."""

    expectation: str
    severity: Severity
    observed: Decimal
    threshold: Decimal
    sentence: str


def judge(values: Mapping[str, Any], thresholds: Mapping[str, Threshold]) -> list[Finding]:
    """What a batch doesn't meet, in the order of the expectations.

    Args:
        values: a row of etl.BatchProfile, by column. A measure that is None says nothing.
        thresholds: of the batch's stream, by expectation.
    """
    findings = []
    for expectation in EXPECTATIONS:
        threshold = thresholds[expectation.name]
        observed = values.get(expectation.measure)
        if threshold.severity is Severity.IGNORE or observed is None or values[expectation.counted] < threshold.count:
            continue
        bound = _exceeded(observed, threshold)
        if bound is not None:
            sentence = _sentence(expectation, values, observed, threshold)
            findings.append(Finding(expectation.name, threshold.severity, observed, Decimal(str(bound)), sentence))
    return findings


def _exceeded(observed: Decimal, threshold: Threshold) -> float | None:
    """The bound that is overstepped. Compared as floats, as Great Expectations compares them."""
    value = float(observed)
    if threshold.at_most is not None and value > threshold.at_most:
        return threshold.at_most
    if threshold.at_least is not None and value < threshold.at_least:
        return threshold.at_least
    return None


def _sentence(expectation: Expectation, values: Mapping[str, Any], observed: Decimal, threshold: Threshold) -> str:
    told = {name: _plain(value) for name, value in values.items()}
    told["top_share_percent"] = _written(values.get("top_share"), Unit.SHARE)
    return expectation.says.format(
        **told, observed=_written(observed, expectation.unit), bound=_bounds(threshold, expectation.unit)
    )


def _bounds(threshold: Threshold, unit: Unit) -> str:
    least, most = (
        None if bound is None else _written(bound, unit) for bound in (threshold.at_least, threshold.at_most)
    )
    if least is None:
        return f"at most {most}"
    return f"at least {least}" if most is None else f"{least} to {most}"


def _written(value: Decimal | float | None, unit: Unit) -> str:
    if value is None:
        return "?"
    if unit is Unit.SHARE:
        return f"{float(value) * 100:.4g}%"
    return f"{float(value):.4g} times" if unit is Unit.RATIO else f"{value:,}"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H} h UTC"
    return "?" if value is None else value
