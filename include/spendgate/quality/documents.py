"""Data Docs: Great Expectations judges again what the gate judged, says what it found as pages, and contradicts it.

Off the way to the flags: to import Great Expectations takes some seconds, so nothing here does before there is
something to document. Each pass takes the batches whose verdict isn't documented, by stream:

1. Validates their rows of etl.BatchProfile by a suite made of the same expectations and thresholds.
2. Writes pages for it in a folder of its own (`pages`).
3. Notes the batches as documented, but for those on which the gate found something else. These raise.

Killed in between, the same batches are documented once more by the next pass, in another folder.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select, update

from spendgate.clock import Clock
from spendgate.errors import QualityDisagreementError
from spendgate.quality.expectations import EXPECTATIONS, Severity, Threshold, Thresholds
from spendgate.quality.pages import finish_pages, new_folder, remove_old, write_index
from spendgate.warehouse.engine import Warehouse, in_slices
from spendgate.warehouse.tables import Batch, BatchFinding, BatchProfile

log = logging.getLogger(__name__)

# Under SPENDGATE_HOME.
DATA_DOCS = "data_docs"
# A day of small batches; what is above it is documented by the next pass.
MAX_BATCHES = 20_000
_SEVERITIES = {Severity.HOLD: "critical", Severity.WARN: "warning"}
_WHO = {True: "Great Expectations", False: "the gate"}
# (batch id, name of the expectation)
Failures = set[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents the gate's verdicts in a folder of HTML pages."""

    warehouse: Warehouse
    clock: Clock
    thresholds: Thresholds
    folder: Path

    def document_verdicts(self) -> dict[str, Any]:
        """Document what isn't yet, and remove what is too old.

        Returns:
            `documented` batches, and the `page` to open, if there is any.

        Raises:
            QualityDisagreementError: Great Expectations finds something else than the gate did.
        """
        now = self.clock()
        remove_old(self.folder, now)
        batches = self._undocumented()
        if not batches:
            return {"documented": 0}
        here = new_folder(self.folder, now)
        found: Failures = set()
        for stream, rows in _by_stream(batches).items():
            found |= validate_profiles(stream, rows, self.thresholds.of(stream), here)
        finish_pages(here)
        page = write_index(self.folder)
        wrong = self._disagreements(batches, found)
        self._note([row.batch_id for row in batches if row.batch_id not in wrong])
        log.info("Data Docs of %d batches: %s", len(batches), page)
        if wrong:
            raise QualityDisagreementError(
                f"Great Expectations and the gate disagree on {len(wrong)} batches, the first is batch {min(wrong)}: "
                f"{wrong[min(wrong)]}; read docs/runbook.md, gate and Great Expectations disagree."
            )
        return {"documented": len(batches), "page": str(page)}

    def _undocumented(self) -> Sequence[Row[Any]]:
        waiting = (
            select(BatchProfile, Batch.c.state)
            .join_from(BatchProfile, Batch, Batch.c.batch_id == BatchProfile.c.batch_id)
            .where(BatchProfile.c.documented_at.is_(None))
            .order_by(BatchProfile.c.batch_id)
            .limit(MAX_BATCHES)
        )
        with self.warehouse.transaction(read_only=True) as transaction:
            rows: Sequence[Row[Any]] = transaction.run(waiting).all()
        return rows

    def _disagreements(self, batches: Sequence[Row[Any]], found: Failures) -> dict[int, str]:
        """What is wrong, by batch; of batches that were judged by these thresholds, for others may differ."""
        judged = [row.batch_id for row in batches if row.thresholds == self.thresholds.digest]
        if len(judged) < len(batches):
            log.warning("%d batches were judged by other thresholds: not compared.", len(batches) - len(judged))
        gate: Failures = set()
        with self.warehouse.transaction(read_only=True) as transaction:
            for some in in_slices(judged):
                columns = (BatchFinding.c.batch_id, BatchFinding.c.expectation)
                rows = transaction.run(select(*columns).where(BatchFinding.c.batch_id.in_(some)))
                gate |= {(row.batch_id, row.expectation) for row in rows}
        wrong: dict[int, str] = {}
        for batch_id, name in sorted(gate ^ {one for one in found if one[0] in set(judged)}):
            wrong[batch_id] = f"{name} isn't met, says {_WHO[(batch_id, name) in found]} alone"
        return wrong

    def _note(self, ids: Sequence[int]) -> None:
        now = self.clock()
        with self.warehouse.transaction() as transaction:
            for some in in_slices(ids):
                these = update(BatchProfile).where(BatchProfile.c.batch_id.in_(some))
                transaction.run(these.values(documented_at=now, updated_at=now))


def _by_stream(batches: Sequence[Row[Any]]) -> Mapping[str, list[Row[Any]]]:
    groups: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in batches:
        groups[row.stream].append(row)
    return groups


def validate_profiles(
    stream: str, rows: Sequence[Row[Any]], thresholds: Mapping[str, Threshold], folder: Path | None = None
) -> Failures:
    """Validate rows of etl.BatchProfile by Great Expectations; with a `folder` its pages are written there.

    Returns:
        What isn't met, by batch.
    """
    name = re.sub(r"[^\w.-]", "_", stream)  # it becomes a folder's
    with _great_expectations() as gx:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        actions = []
        if folder is not None:
            store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
            index = {"class_name": "DefaultSiteIndexBuilder"}
            site = {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
            context.add_data_docs_site("pages", {**site, "show_how_to_buttons": False})
            actions = [gx.checkpoint.UpdateDataDocsAction(name="write_pages", site_names=["pages"])]
        asset = context.data_sources.add_pandas("etl").add_dataframe_asset("BatchProfile")
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name="judge_batches",
                validation_definitions=[
                    context.validation_definitions.add(
                        gx.ValidationDefinition(
                            name=name,
                            data=asset.add_batch_definition_whole_dataframe("undocumented"),
                            suite=context.suites.add(_suite(gx, name, thresholds)),
                        )
                    )
                ],
                result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["batch_id"]},
                actions=actions,
            )
        )
        result = checkpoint.run(batch_parameters={"dataframe": _frame(rows)})
    failures: Failures = set()
    for validation in result.run_results.values():
        for one in validation.results:
            if not one.success:
                name = one.expectation_config.meta["name"]
                failures |= {(int(row["batch_id"]), name) for row in one.result["unexpected_index_list"]}
    return failures


@contextmanager
def _great_expectations() -> Iterator[Any]:
    """The library, that sends nothing home."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations

    quiet = logging.getLogger("great_expectations")
    before = quiet.level
    quiet.setLevel(logging.WARNING)
    try:
        yield great_expectations
    finally:
        quiet.setLevel(before)


def _suite(gx: Any, name: str, thresholds: Mapping[str, Threshold]) -> Any:
    """The suite of a stream, made of the same declarations that the gate judges by."""
    from great_expectations.expectations.row_conditions import Column

    suite = gx.ExpectationSuite(name=name)
    for expectation in EXPECTATIONS:
        threshold = thresholds[expectation.name]
        if threshold.severity is Severity.IGNORE:
            continue
        suite.add_expectation(
            gx.expectations.ExpectColumnValuesToBeBetween(
                column=expectation.measure,
                min_value=threshold.at_least,
                max_value=threshold.at_most,
                row_condition=Column(expectation.counted) >= threshold.count,
                severity=_SEVERITIES[threshold.severity],
                description=f"{expectation.name}: {expectation.means}",
                meta={"name": expectation.name},
            )
        )
    return suite


def _frame(rows: Sequence[Row[Any]]) -> Any:
    """One row a batch: counts as they are, measures as floats, None as NaN."""
    import pandas

    measures = {expectation.measure for expectation in EXPECTATIONS}
    counts = {"batch_id", *(expectation.counted for expectation in EXPECTATIONS)}
    mappings = [row._mapping for row in rows]
    columns: dict[str, Any] = {name: [int(one[name]) for one in mappings] for name in sorted(counts)}
    for name in sorted(measures):
        columns[name] = [float("nan") if one[name] is None else float(one[name]) for one in mappings]
    return pandas.DataFrame(columns)
