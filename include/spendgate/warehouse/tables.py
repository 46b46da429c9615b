"""Every table, once; migrations are held to this by a test.

Names go unquoted into SQL, so that `ads.SpendSummary` is right on SQL Server and on PostgreSQL (which folds
it to lower case). There are no foreign keys on event tables: a check per row would double what a merge
costs; `sql/checks/` says after every build what a foreign key would have said (docs/adr/0003).

Work tables hold nothing between two transactions: they are emptied and filled inside one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    String,
    Table,
    TypeDecorator,
    Unicode,
    UniqueConstraint,
    Uuid,
    quoted_name,
    text,
)
from sqlalchemy.dialects import mssql, postgresql
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

Kind = TypeEngine[Any] | type[TypeEngine[Any]]

# The greatest id that a row can have; SQL refuses to compare with one beyond it.
MAX_ROW_ID = 2**63 - 1

SCHEMAS = ("ads", "staging", "etl")

METADATA = MetaData()

Money = Numeric(19, 4)


class Instant(TypeDecorator[datetime]):
    """An instant in whole milliseconds: aware UTC in Python, DATETIME2(3) without an offset in the table."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "mssql":
            return dialect.type_descriptor(mssql.DATETIME2(3))
        return dialect.type_descriptor(postgresql.TIMESTAMP(precision=3))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else to_stored(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def to_stored(instant: datetime) -> datetime:
    """`instant` as the tables keep it: UTC, without an offset."""
    return instant.astimezone(UTC).replace(tzinfo=None)


# PostgreSQL's boolean doesn't compare with 1, which T-SQL's BIT does: a small integer does on both.
Flag = SmallInteger().with_variant(mssql.BIT(), "mssql")
Blob = LargeBinary().with_variant(mssql.VARBINARY("max"), "mssql")


def text_of(length: int) -> TypeEngine[str]:
    """Unicode text compared code point by code point: 'Acme' and 'ACME' are two contents."""
    return Unicode(length).with_variant(mssql.NVARCHAR(length, collation="Latin1_General_100_BIN2"), "mssql")


def _table(schema: str, name: str, *items: SchemaItem) -> Table:
    return Table(quoted_name(name, quote=False), METADATA, *items, schema=schema)


def _column(name: str, kind: Kind, *, null: bool = False) -> Column[Any]:
    return Column(name, kind, nullable=null, autoincrement=False)


def _identity(name: str = "id") -> Column[Any]:
    return Column(name, BigInteger, Identity(), primary_key=True)


def _stamps() -> tuple[Column[Any], Column[Any]]:
    return _column("created_at", Instant), _column("updated_at", Instant)


def _click_columns() -> tuple[Column[Any], ...]:
    return (
        _column("click_id", Uuid),
        _column("advertiser_id", Integer),
        _column("ad_id", Integer),
        _column("click_time", Instant),
        _column("time_key", Instant),
        _column("amount", Money),
        _column("is_valid", Flag),
    )


def _budget_columns() -> tuple[Column[Any], ...]:
    return (
        _column("event_id", Uuid),
        _column("advertiser_id", Integer),
        _column("new_budget_value", Money),
        _column("event_time", Instant),
        _column("time_key", Instant),
        _column("source", text_of(100)),
    )


def _advertiser_columns() -> tuple[Column[Any], ...]:
    return (
        _column("advertiser_id", Integer),
        _column("name", text_of(200)),
        _column("industry", text_of(100), null=True),
        _column("country", String(2), null=True),
        _column("is_active", Flag),
    )


def _ad_columns() -> tuple[Column[Any], ...]:
    return (
        _column("ad_id", Integer),
        _column("advertiser_id", Integer),
        _column("ad_title", text_of(300)),
        _column("ad_format", text_of(50), null=True),
        _column("product_link", text_of(2000), null=True),
        _column("is_active", Flag),
    )


# --- ads: what analysts and the API read -------------------------------------------------------------

Advertiser = _table(
    "ads",
    "Advertiser",
    *_advertiser_columns(),
    _column("is_inferred", Flag),
    *_stamps(),
    PrimaryKeyConstraint("advertiser_id", name="pk_advertiser"),
)
Ad = _table(
    "ads",
    "Ad",
    *_ad_columns(),
    _column("is_inferred", Flag),
    *_stamps(),
    PrimaryKeyConstraint("ad_id", name="pk_ad"),
    Index("ix_ad_advertiser", "advertiser_id"),
)
AppUser = _table(
    "ads",
    "AppUser",
    Column("id", Integer, Identity(), primary_key=True),
    _column("first_name", text_of(100)),
    _column("last_name", text_of(100)),
    _column("email", text_of(320)),
    _column("username", text_of(100)),
    _column("password_hash", String(255)),
    _column("advertiser_id", Integer, null=True),
    _column("is_active", Flag),
    _column("is_staff", Flag),
    *_stamps(),
    UniqueConstraint("email", name="uq_app_user_email"),
    UniqueConstraint("username", name="uq_app_user_username"),
)
TimeHierarchy = _table(
    "ads",
    "TimeHierarchy",
    _column("time_key", Instant),
    _column("date_key", Date),
    _column("hour", SmallInteger),
    _column("day", SmallInteger),
    _column("week", SmallInteger),
    _column("week_start", Date),  # Monday; a week number alone is ambiguous where a year begins
    _column("month", SmallInteger),
    _column("quarter", SmallInteger),
    _column("year", SmallInteger),
    _column("weekday_name", String(9)),
    _column("is_active", Flag),
    *_stamps(),
    PrimaryKeyConstraint("time_key", name="pk_time_hierarchy"),
    Index("ix_time_hierarchy_date", "date_key"),
)
ClickEvent = _table(
    "ads",
    "ClickEvent",
    *_click_columns(),
    *_stamps(),
    PrimaryKeyConstraint("click_id", name="pk_click_event"),
    # The rebuild of a touched (advertiser, day) reads its hours through this one.
    Index("ix_click_event_advertiser_time", "advertiser_id", "time_key"),
)
BudgetEvent = _table(
    "ads",
    "BudgetEvent",
    *_budget_columns(),
    *_stamps(),
    PrimaryKeyConstraint("event_id", name="pk_budget_event"),
    Index("ix_budget_event_advertiser_time", "advertiser_id", "event_time"),
)
SpendSummary = _table(
    "ads",
    "SpendSummary",
    _identity(),
    _column("advertiser_id", Integer),
    _column("grain", String(4)),
    _column("window_start", Instant),
    _column("window_end", Instant),
    _column("click_count", Integer),
    _column("gross_spend", Money),
    _column("invalid_spend", Money),
    _column("net_spend", Money),
    _column("budget_at_time", Money, null=True),
    _column("can_serve", Flag),
    *_stamps(),
    # In this order the windows of one touched (advertiser, day) are one range of the index.
    UniqueConstraint("advertiser_id", "window_start", "grain", name="uq_spend_summary_window"),
)
ServingFlag = _table(
    "ads",
    "ServingFlag",
    _column("advertiser_id", Integer),
    _column("can_serve", Flag),
    _column("reason", String(20)),
    _column("budget", Money, null=True),
    _column("spent_today", Money),
    _column("remaining", Money),
    _column("day", Date),
    _column("as_of", Instant),
    _column("version", BigInteger),
    *_stamps(),
    PrimaryKeyConstraint("advertiser_id", name="pk_serving_flag"),
)

# --- staging: what was read, batch by batch ----------------------------------------------------------


def _staged(name: str, columns: tuple[Column[Any], ...]) -> Table:
    return _table(
        "staging",
        name,
        _column("batch_id", BigInteger),
        _column("ordinal", Integer),
        *columns,
        _column("updated_at", Instant),
        # Batches are appended in the order of their ids: a few pages of block range summaries find one.
        Index(f"ix_{name.lower()}_batch", "batch_id", postgresql_using="brin"),
    )


StagedClick = _staged("StagedClick", _click_columns())
StagedBudget = _staged("StagedBudget", _budget_columns())
StagedAdvertiser = _staged("StagedAdvertiser", _advertiser_columns())
StagedAd = _staged("StagedAd", _ad_columns())
STAGED = (StagedClick, StagedBudget, StagedAdvertiser, StagedAd)

RejectedEvent = _table(
    "staging",
    "RejectedEvent",
    _identity(),
    _column("batch_id", BigInteger),
    _column("ordinal", Integer),
    _column("stream", text_of(249)),
    _column("partition_id", text_of(200)),
    _column("epoch", Integer),
    _column("position", text_of(400)),
    _column("enqueued_at", Instant),
    _column("reason", String(30)),
    _column("detail", text_of(500)),
    _column("raw", Blob, null=True),
    # The batch that the event waits in to be merged once more, and its place there; NULL: it isn't replayed.
    _column("replay_batch_id", BigInteger, null=True),
    _column("replay_ordinal", Integer, null=True),
    *_stamps(),
    Index("ix_rejected_event_batch", "batch_id", "ordinal"),
    Index(
        "ix_rejected_event_replay",
        "replay_batch_id",
        "replay_ordinal",
        # Whole on SQL Server: a filtered index refuses rows from sessions whose SET options don't suit it, and those
        # of a bulk copy are the driver's.
        postgresql_where=text("replay_batch_id IS NOT NULL"),
    ),
)
# Every message of a batch as it came, compressed: a duplicate that turns out to be in conflict only when it
# is merged is rejected with its bytes, and retention of the broker has no say in it.
BatchPayload = _table(
    "staging",
    "BatchPayload",
    _column("batch_id", BigInteger),
    _column("content", Blob),
    PrimaryKeyConstraint("batch_id", name="pk_batch_payload"),
)

# --- staging: work tables ----------------------------------------------------------------------------


def _versions(name: str, columns: tuple[Column[Any], ...]) -> Table:
    return _table(
        "staging",
        name,
        *columns,
        _column("updated_at", Instant),
        _column("arrival", BigInteger),  # 0: the stored version; then in the order of arrival
        _column("batch_id", BigInteger, null=True),
        _column("ordinal", Integer, null=True),
        _column("standing", String(6)),  # held, passed, late, equal, clash: sql/merge/rank_*.sql
    )


ContestedClick = _table("staging", "ContestedClick", _column("click_id", Uuid))
ClickVersion = _versions("ClickVersion", _click_columns())
BudgetVersion = _versions("BudgetVersion", _budget_columns())
AdvertiserVersion = _versions("AdvertiserVersion", _advertiser_columns())
AdVersion = _versions("AdVersion", _ad_columns())
NewClickGroup = _table(
    "staging",
    "NewClickGroup",
    _column("advertiser_id", Integer),
    _column("ad_id", Integer),
    _column("date_key", Date),
)
# (advertiser, instant) at which a budget came, changed or left: where touched days begin.
TouchedBudget = _table("staging", "TouchedBudget", _column("advertiser_id", Integer), _column("event_time", Instant))


def _days(name: str) -> Table:
    return _table(
        "staging",
        name,
        _column("advertiser_id", Integer),
        _column("date_key", Date),
        _column("day_start", Instant),
        _column("day_end", Instant),
    )


RebuiltDay = _days("RebuiltDay")
# Not a work table: it carries the days that were rebuilt to the check at the build's end.
CheckedDay = _days("CheckedDay")
BuiltWindow = _table(
    "staging",
    "BuiltWindow",
    _column("advertiser_id", Integer),
    _column("grain", String(4)),
    _column("window_start", Instant),
    _column("window_end", Instant),
    _column("day_start", Instant),
    _column("is_last", Flag),
    _column("click_count", Integer),
    _column("gross_spend", Money),
    _column("invalid_spend", Money),
    _column("net_spend", Money),
    _column("budget_at_time", Money, null=True),
    _column("can_serve", Flag),
)
DecidedFlag = _table(
    "staging",
    "DecidedFlag",
    _column("advertiser_id", Integer),
    _column("can_serve", Flag),
    _column("reason", String(20)),
    _column("budget", Money, null=True),
    _column("spent_today", Money),
    _column("remaining", Money),
)
WORK = (
    ContestedClick,
    ClickVersion,
    BudgetVersion,
    AdvertiserVersion,
    AdVersion,
    NewClickGroup,
    TouchedBudget,
    RebuiltDay,
    BuiltWindow,
    DecidedFlag,
)

# --- etl: the pipeline's own books -------------------------------------------------------------------

BatchNumber = Sequence(quoted_name("BatchNumber", quote=False), schema="etl", metadata=METADATA, data_type=BigInteger)

StreamPosition = _table(
    "etl",
    "StreamPosition",
    _column("stream", text_of(249)),
    _column("partition_id", text_of(200)),
    _column("epoch", Integer),
    _column("incarnation", text_of(100)),
    _column("position", text_of(400), null=True),  # NULL: from the beginning
    *_stamps(),
    PrimaryKeyConstraint("stream", "partition_id", name="pk_stream_position"),
)
Batch = _table(
    "etl",
    "Batch",
    _column("batch_id", BigInteger),
    _column("stream", text_of(249)),
    _column("partition_id", text_of(200)),
    _column("epoch", Integer),
    _column("from_position", text_of(400)),
    _column("to_position", text_of(400)),
    _column("event_count", Integer),
    _column("click_count", Integer),
    _column("rejected_count", Integer),
    _column("is_replay", Flag),  # 1: of rejected events that were read before; counts of what was read leave it out
    _column("state", String(10)),  # staged, merged
    _column("merge_id", BigInteger, null=True),
    _column("merged_at", Instant, null=True),
    *_stamps(),
    PrimaryKeyConstraint("batch_id", name="pk_batch"),
    Index("ix_batch_state", "state", "batch_id"),
    Index("ix_batch_merge", "merge_id"),
)
# One row: every batch up to this one is settled, its rows are known or gone (spendgate.ingest).
StagingSweep = _table(
    "etl",
    "StagingSweep",
    _column("id", Integer),
    _column("swept_through", BigInteger),
    *_stamps(),
    PrimaryKeyConstraint("id", name="pk_staging_sweep"),
)
StreamGap = _table(
    "etl",
    "StreamGap",
    _identity(),
    _column("stream", text_of(249)),
    _column("partition_id", text_of(200)),
    _column("epoch", Integer),
    _column("from_position", text_of(400)),
    _column("to_position", text_of(400)),
    _column("accepted_at", Instant, null=True),
    _column("accepted_by", text_of(100), null=True),
    *_stamps(),
    UniqueConstraint("stream", "partition_id", "epoch", "from_position", name="uq_stream_gap"),
)
TouchedDay = _table(
    "etl",
    "TouchedDay",
    _column("advertiser_id", Integer),
    _column("date_key", Date),
    _column("created_at", Instant),
    PrimaryKeyConstraint("advertiser_id", "date_key", name="pk_touched_day"),
)
Outbox = _table(
    "etl",
    "Outbox",
    _identity(),
    _column("advertiser_id", Integer),
    _column("can_serve", Flag),
    _column("reason", String(20)),
    _column("budget", Money, null=True),
    _column("spent_today", Money),
    _column("remaining", Money),
    _column("as_of", Instant),
    _column("version", BigInteger),
    _column("published_at", Instant, null=True),
    *_stamps(),
    Index(
        "ix_outbox_unpublished",
        "id",
        postgresql_where=text("published_at IS NULL"),
        mssql_where=text("published_at IS NULL"),
    ),
    Index("ix_outbox_advertiser", "advertiser_id", "version"),
)
FlagTopic = _table(
    "etl",
    "FlagTopic",
    _column("topic", text_of(249)),
    _column("incarnation", text_of(100)),
    *_stamps(),
    PrimaryKeyConstraint("topic", name="pk_flag_topic"),
)
