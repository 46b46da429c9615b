"""Thresholds are read and checked, and both judges of a batch come to the same verdict."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendgate.errors import ConfigurationError, QualityDisagreementError
from spendgate.quality.documents import Documents, validate_profiles
from spendgate.quality.expectations import EXPECTATIONS, NAMES, load_thresholds
from spendgate.quality.verdict import judge
from spendgate.settings import ROOT
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import BatchFinding, BatchProfile
from tests.factories import DAY, THRESHOLDS, Bench, click, stored

FILE = ROOT / "quality.yaml"


def written(folder: Path, old: str, new: str) -> Path:
    """quality.yaml with a change."""
    text = FILE.read_text()
    assert old in text
    path = folder / "quality.yaml"
    path.write_text(text.replace(old, new))
    return path


def test_a_stream_may_have_thresholds_of_its_own(tmp_path: Path) -> None:
    changes = ("few_clicks_are_late: {severity: ignore}", "few_events_are_rejected: {at_most: 0.9}")
    own = "streams:\n  history:\n" + "".join(f"    {change}\n" for change in changes)
    thresholds = load_thresholds(written(tmp_path, "streams: {}\n", own))
    assert thresholds.of("ad-clicks") == THRESHOLDS.everywhere
    assert thresholds.of("history")["few_clicks_are_late"].severity == "ignore"
    rejected = thresholds.of("history")["few_events_are_rejected"]
    assert (rejected.severity, rejected.at_most, rejected.count) == ("hold", 0.9, 100)
    assert thresholds.digest != THRESHOLDS.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("severity: hold, at_most: 0.2", "severity: stop, at_most: 0.2", "few_events_are_rejected, severity: Input"),
        ("severity: hold, at_most: 0.2", "severity: hold", "few_events_are_rejected: .*say at_most, at_least or both"),
        ("at_most: 0.2,", "at_mots: 0.2,", "few_events_are_rejected, at_mots: Extra inputs are not permitted"),
        ("at_least: 0.2, at_most: 5, from: 50}", "at_least: 7, at_most: 5}", "at_least is above at_most"),
        ("few_events_are_rejected:", "few_events_are_rejcted:", "there is no expectation few_events_are_rejcted"),
        ("  few_events_are_rejected: {severity: hold, at_most: 0.2, from: 100}\n", "", "lacks the expectation few_ev"),
        ("streams: {}", "streams: {a: {b: {severity: warn}}}", "streams, a: there is no expectation b"),
        ("streams: {}", "streams: [", "is no YAML"),
        ("streams: {}", "stream: {}", "Correct .* at stream: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as told:
        load_thresholds(written(tmp_path, old, new))
    assert "\n" not in str(told.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set SPENDGATE_QUALITY_FILE"):
        load_thresholds(tmp_path / "none.yaml")


def test_every_expectation_has_a_page_for_people() -> None:
    page = (ROOT / "docs" / "quality.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


# --- Two judges ----------------------------------------------------------------------------------------------


class Row:
    """A row of etl.BatchProfile as SQLAlchemy gives it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._mapping = values


MEASURES = sorted({one.measure for one in EXPECTATIONS})
COUNTS = sorted({one.counted for one in EXPECTATIONS})
# At the bounds, just beside them, and far away.
BOUNDS = sorted(
    {
        Decimal(str(bound)) + beside
        for one in THRESHOLDS.everywhere.values()
        for bound in (one.at_least, one.at_most)
        if bound is not None
        for beside in (Decimal("-0.0001"), Decimal(0), Decimal("0.0001"))
    }
)
AMOUNTS = st.none() | st.sampled_from(BOUNDS) | st.decimals(0, 10**14, places=4)
FEWEST = sorted({one.count + beside for one in THRESHOLDS.everywhere.values() for beside in (-1, 0, 1)})


@st.composite
def profiles(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        {"batch_id": number}
        | {name: draw(AMOUNTS) for name in MEASURES}
        | {name: draw(st.sampled_from(FEWEST) | st.integers(0, 50_000)) for name in COUNTS}
        for number in range(1, draw(st.integers(2, 12)))
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=4)
@given(profiles())
def test_great_expectations_and_the_gate_judge_alike(some: list[dict[str, Any]]) -> None:
    ours = {
        (values["batch_id"], finding.expectation)
        for values in some
        for finding in judge(
            {**dict.fromkeys(("top_reason", "volume_hour", "top_advertiser_id")), **counts(values)}, ALL
        )
    }
    assert validate_profiles("ad-clicks", [Row(values) for values in some], ALL) == ours


ALL = THRESHOLDS.everywhere


def counts(values: dict[str, Any]) -> dict[str, Any]:
    """With every count that a sentence tells."""
    zero = {column.name: 0 for column in BatchProfile.columns if column.name.endswith("_count")}
    none = {column.name: None for column in BatchProfile.columns if column.nullable}
    return zero | none | values


@pytest.mark.slow
def test_verdicts_are_documented_once_offline_for_a_month_and_a_wrong_one_is_told(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    bench = Bench(warehouse)
    bench.stage(*[b"?"] * 150)
    bench.stage(*(click(number) for number in range(200)))
    bench.judge()
    documents = Documents(warehouse, bench.clock, THRESHOLDS, tmp_path)
    done = documents.document_verdicts()
    assert (done["documented"], done["page"]) == (2, str(tmp_path / "index.html"))
    pages = list(tmp_path.rglob("*.html"))
    assert any("few_events_are_rejected" in page.read_text() for page in pages)
    assert not any(loaded in page.read_text() for page in pages for loaded in ("<script", "<link", "<img", "@import"))
    assert documents.document_verdicts() == {"documented": 0}
    bench.now += 31 * DAY
    documents.document_verdicts()
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    with warehouse.transaction() as transaction:
        transaction.run(BatchProfile.update().values(documented_at=None))
        transaction.run(BatchFinding.delete())
    with pytest.raises(
        QualityDisagreementError, match="few_events_are_rejected isn't met, says Great Expectations alone"
    ):
        documents.document_verdicts()
    assert len(stored(warehouse, BatchProfile, BatchProfile.c.documented_at.is_(None))) == 1
