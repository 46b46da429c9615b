"""Every table, once; migrations are held to this by a test.

Names go unquoted into SQL, so that `ads.SpendSummary` is right on SQL Server and on PostgreSQL (which folds
it to lower case). There are no foreign keys on event tables: a check per row would double what a merge
costs; `sql/checks/` says after every build what a foreign key would have said (docs/adr/0003).

Work tables hold nothing between two transactions: they are emptied and filled inside one.

Every table and column says here, once, what it is; `spendgate.warehouse.descriptions` writes it into the database,
where tools show it, and docs/schema.md is made of it. What SQL Server clusters by and covers is in docs/adr/0009.
"""

from __future__ import annotations

from dataclasses import dataclass
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
# A share, a ratio or an amount, as the gate measures it.
Measure = Numeric(19, 4)


class Instant(TypeDecorator[datetime]):
    """An instant in whole milliseconds: aware UTC in Python, DATETIME2(3) without an offset in the table."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # As they are: a dialect's own descriptor of them drops the precision.
        return mssql.DATETIME2(3) if dialect.name == "mssql" else postgresql.TIMESTAMP(precision=3)

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


def _table(schema: str, name: str, comment: str, *items: SchemaItem) -> Table:
    return Table(quoted_name(name, quote=False), METADATA, *items, schema=schema, comment=comment)


def _column(name: str, kind: Kind, comment: str, *, null: bool = False) -> Column[Any]:
    return Column(name, kind, nullable=null, autoincrement=False, comment=comment)


def _identity(comment: str) -> Column[Any]:
    return Column("id", BigInteger, Identity(), comment=comment)


def _only_on(dialect: str, index: Index) -> Index:
    """An index that one engine has and the other hasn't."""
    index.info["dialect"] = dialect
    return index.ddl_if(dialect=dialect)


def indexes_of(table: Table, dialect: str) -> list[Index]:
    """The indexes that `table` has on an engine, by name; those of its constraints are none of them."""
    there = (index for index in table.indexes if index.info.get("dialect", dialect) == dialect)
    return sorted(there, key=lambda index: str(index.name))


def _created() -> Column[Any]:
    return _column("created_at", Instant, "When the row was written first (UTC).")


def _stamps() -> tuple[Column[Any], Column[Any]]:
    return _created(), _column("updated_at", Instant, "When the row was changed last (UTC).")


def _version() -> Column[Any]:
    return _column("updated_at", Instant, "The event's own updated_at (UTC): of several versions the greatest wins.")


def _event_stamps() -> tuple[Column[Any], Column[Any]]:
    return _created(), _version()


def _advertiser_id(what: str = "The advertiser.") -> Column[Any]:
    return _column("advertiser_id", Integer, what)


def _is_inferred() -> Column[Any]:
    return _column(
        "is_inferred", Flag, "1: made because an event spoke of it before its own event came; updated_at says when."
    )


def _partition_columns() -> tuple[Column[Any], ...]:
    return (
        _column("stream", text_of(249), "The stream's name, as in SPENDGATE_STREAMS."),
        _column("partition_id", text_of(200), "The stream's partition; of a stream of files, the file."),
        _column("epoch", Integer, "1, and one more each time the stream was made anew."),
    )


def _click_columns() -> tuple[Column[Any], ...]:
    return (
        _column("click_id", Uuid, "The click's id, given by its producer."),
        _advertiser_id("The advertiser who pays for the click."),
        _column("ad_id", Integer, "The ad that was clicked."),
        _column("click_time", Instant, "When the click was (UTC, floored to the millisecond)."),
        _column("time_key", Instant, "Start of click_time's hour (UTC); joins to ads.TimeHierarchy."),
        _column("amount", Money, "Price of the click: account currency, 4 decimal places."),
        _column("is_valid", Flag, "1: the click counts as spend; 0: it was found to be invalid (fraud)."),
    )


def _budget_columns() -> tuple[Column[Any], ...]:
    return (
        _column("event_id", Uuid, "The budget event's id, given by its producer."),
        _advertiser_id("The advertiser whose budget it is."),
        _column("new_budget_value", Money, "Daily budget from event_time on: account currency, 4 decimal places."),
        _column("event_time", Instant, "From when on the budget holds (UTC, floored to the millisecond)."),
        _column("time_key", Instant, "Start of event_time's hour (UTC); joins to ads.TimeHierarchy."),
        _column("source", text_of(100), "Who set the budget, as its producer says; 'unknown' if it doesn't."),
    )


def _advertiser_columns() -> tuple[Column[Any], ...]:
    return (
        _advertiser_id("The advertiser's id, given by its producer."),
        _column("name", text_of(200), "Name; 'unknown' of an inferred advertiser."),
        _column("industry", text_of(100), "Industry in the producer's words; NULL: not told.", null=True),
        _column("country", String(2), "ISO 3166 alpha-2 code; NULL: not told.", null=True),
        _column("is_active", Flag, "1: the advertiser may be served, if its budget allows."),
    )


def _ad_columns() -> tuple[Column[Any], ...]:
    return (
        _column("ad_id", Integer, "The ad's id, given by its producer."),
        _advertiser_id("The advertiser whose ad it is; of an inferred ad, the smallest that a click gave it."),
        _column("ad_title", text_of(300), "Title; 'unknown' of an inferred ad."),
        _column("ad_format", text_of(50), "Format in the producer's words; NULL: not told.", null=True),
        _column("product_link", text_of(2000), "http(s) URL that the ad leads to; NULL: not told.", null=True),
        _column("is_active", Flag, "1: the ad is in use."),
    )


# --- ads: what analysts and the API read -------------------------------------------------------------

Advertiser = _table(
    "ads",
    "Advertiser",
    "Advertisers, each in its newest version.",
    *_advertiser_columns(),
    _is_inferred(),
    *_event_stamps(),
    PrimaryKeyConstraint("advertiser_id", name="pk_advertiser"),
)
Ad = _table(
    "ads",
    "Ad",
    "Ads, each in its newest version.",
    *_ad_columns(),
    _is_inferred(),
    *_event_stamps(),
    PrimaryKeyConstraint("ad_id", name="pk_ad"),
    Index("ix_ad_advertiser", "advertiser_id"),
)
AppUser = _table(
    "ads",
    "AppUser",
    "People who may log in to the API.",
    Column("id", Integer, Identity(), primary_key=True, comment="Number of the user."),
    _column("first_name", text_of(100), "First name."),
    _column("last_name", text_of(100), "Last name."),
    _column("email", text_of(320), "E-mail address; may be used to log in."),
    _column("username", text_of(100), "Name to log in with."),
    _column("password_hash", String(255), "Salted hash of the password; never the password. Not for analysts."),
    _column("advertiser_id", Integer, "The one advertiser that the user sees; NULL: see is_staff.", null=True),
    _column("is_active", Flag, "1: the user may log in."),
    _column("is_staff", Flag, "1: the user sees all advertisers."),
    *_stamps(),
    UniqueConstraint("email", name="uq_app_user_email"),
    UniqueConstraint("username", name="uq_app_user_username"),
)
ApiKey = _table(
    "ads",
    "ApiKey",
    "Keys of programs that call the API.",
    Column("id", Integer, Identity(), comment="Number of the key, as ./spendgate keys shows it."),
    _column("prefix", String(16), "Beginning of the key, by which it is found; not secret."),
    _column("key_hash", String(64), "SHA-256 of the whole key, in hexadecimal; never the key. Not for analysts."),
    _column("name", text_of(100), "What the key is for, in the words of who made it."),
    _column("scopes", String(200), "What the key may do, separated by spaces: flags, budgets, spend, catalog."),
    _column("advertiser_id", Integer, "The one advertiser that the key sees; NULL: see is_staff.", null=True),
    _column("is_staff", Flag, "1: the key sees all advertisers."),
    _column("expires_at", Instant, "From when on it is refused (UTC); NULL: never.", null=True),
    _column("revoked_at", Instant, "When it was revoked (UTC); NULL: it wasn't.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("id", name="pk_api_key"),
    UniqueConstraint("prefix", name="uq_api_key_prefix"),
)
# Apart from the keys, so that the API's own login can't change a key.
ApiKeyUse = _table(
    "ads",
    "ApiKeyUse",
    "When each API key was used last, to within some minutes.",
    _column("key_id", Integer, "The key."),
    _column("last_used_at", Instant, "When it was used last (UTC)."),
    PrimaryKeyConstraint("key_id", name="pk_api_key_use"),
)
ApiSession = _table(
    "ads",
    "ApiSession",
    "Log-ins to the API: one row from a password to its end, however often its tokens were refreshed.",
    _column("session_id", String(36), "The log-in; sid of its tokens."),
    _column("user_id", Integer, "Who logged in."),
    _column("refresh_id", String(36), "jti of the one refresh token that is still good."),
    _column("expires_at", Instant, "When it ends (UTC)."),
    _column("revoked_at", Instant, "When it was ended before (UTC); NULL: it wasn't.", null=True),
    _column(
        "reason", String(20), "Why: revoked, reused (a refresh token came twice), password; NULL: it wasn't.", null=True
    ),
    *_stamps(),
    PrimaryKeyConstraint("session_id", name="pk_api_session"),
    Index("ix_api_session_user", "user_id"),
    Index("ix_api_session_expiry", "expires_at"),
)
LogInFailure = _table(
    "ads",
    "LogInFailure",
    "Names that somebody failed to log in with, known or not, until a log-in succeeds or a day has passed.",
    _column("login_hash", String(64), "SHA-256 of the name in lower case, in hexadecimal: it may be a password."),
    _column("failures", Integer, "Failures so far."),
    _column("locked_until", Instant, "Until then every password is refused (UTC)."),
    *_stamps(),
    PrimaryKeyConstraint("login_hash", name="pk_log_in_failure"),
    Index("ix_log_in_failure_updated", "updated_at"),
)
TimeHierarchy = _table(
    "ads",
    "TimeHierarchy",
    "Hours, and the days, weeks, months, quarters and years that they belong to (all UTC).",
    _column("time_key", Instant, "Start of the hour (UTC)."),
    _column("date_key", Date, "Day of the hour (UTC)."),
    _column("hour", SmallInteger, "Hour of the day, 0 to 23."),
    _column("day", SmallInteger, "Day of the month, 1 to 31."),
    _column("week", SmallInteger, "ISO week, 1 to 53; ambiguous where a year begins: group by week_start."),
    _column("week_start", Date, "Monday of the ISO week."),
    _column("month", SmallInteger, "Month, 1 to 12."),
    _column("quarter", SmallInteger, "Quarter, 1 to 4."),
    _column("year", SmallInteger, "Year of the date, not of the ISO week."),
    _column("weekday_name", String(9), "Monday to Sunday, in English."),
    _column("is_active", Flag, "1; 0 is for hours that are to be left out of reports."),
    *_stamps(),
    PrimaryKeyConstraint("time_key", name="pk_time_hierarchy"),
    Index("ix_time_hierarchy_date", "date_key"),
)
ClickEvent = _table(
    "ads",
    "ClickEvent",
    "Clicks, each in its newest version.",
    *_click_columns(),
    *_event_stamps(),
    PrimaryKeyConstraint("click_id", name="pk_click_event", mssql_clustered=False),
    # The rebuild of a touched (advertiser, day) reads its hours through this one,
    _only_on("postgresql", Index("ix_click_event_advertiser_time", "advertiser_id", "time_key")),
    # on SQL Server as one range of the table itself.
    _only_on(
        "mssql",
        Index("cx_click_event", "advertiser_id", "time_key", "click_id", unique=True, mssql_clustered=True),
    ),
    # For analysts, where the server has such indexes; without what is unique in every row and shrinks by nothing.
    _only_on(
        "mssql",
        Index(
            "ncci_click_event",
            "advertiser_id",
            "ad_id",
            "click_time",
            "time_key",
            "amount",
            "is_valid",
            mssql_clustered=False,
            mssql_columnstore=True,
        ),
    ),
)
BudgetEvent = _table(
    "ads",
    "BudgetEvent",
    "Changes of daily budgets, each in its newest version.",
    *_budget_columns(),
    *_event_stamps(),
    PrimaryKeyConstraint("event_id", name="pk_budget_event", mssql_clustered=False),
    _only_on("postgresql", Index("ix_budget_event_advertiser_time", "advertiser_id", "event_time")),
    _only_on(
        "mssql",
        Index("cx_budget_event", "advertiser_id", "event_time", "event_id", unique=True, mssql_clustered=True),
    ),
)


def _window_columns() -> tuple[Column[Any], ...]:
    return (
        _advertiser_id(),
        _column("grain", String(4), "'hour' or 'day': always say which; a day holds its hours' sums."),
        _column("window_start", Instant, "Start of the window (UTC), inclusive."),
        _column("window_end", Instant, "End of the window (UTC), exclusive."),
    )


def _spend_columns() -> tuple[Column[Any], ...]:
    return (
        _column("click_count", Integer, "Clicks in the window, valid and invalid."),
        _column("gross_spend", Money, "Sum of amount of valid clicks: account currency, 4 decimal places."),
        _column("invalid_spend", Money, "Sum of amount of invalid clicks: account currency, 4 decimal places."),
        _column("net_spend", Money, "What may be billed of gross_spend: account currency, 4 decimal places."),
        _column(
            "budget_at_time",
            Money,
            "Latest daily budget before window_end: account currency, 4 decimal places; NULL: none is known.",
            null=True,
        ),
        _column("can_serve", Flag, "1: a budget is known, and the day's gross spend up to window_end is below it."),
    )


SpendSummary = _table(
    "ads",
    "SpendSummary",
    "Spend by advertiser and window: hours and days side by side.",
    _identity("Number of the window's row; means nothing."),
    *_window_columns(),
    *_spend_columns(),
    *_stamps(),
    PrimaryKeyConstraint("id", mssql_clustered=False),
    # In this order the windows of one touched (advertiser, day) are one range of the index, on SQL Server of the table.
    UniqueConstraint("advertiser_id", "window_start", "grain", name="uq_spend_summary_window", mssql_clustered=True),
    # All advertisers at one time: what every decision of the flags reads, and the views by date.
    _only_on(
        "mssql",
        Index(
            "ix_spend_summary_time",
            "window_start",
            "grain",
            mssql_include=["window_end", "click_count", "gross_spend", "invalid_spend", "net_spend"],
        ),
    ),
)


def _flag_columns() -> tuple[Column[Any], ...]:
    return (
        _advertiser_id(),
        _column("can_serve", Flag, "1: the advertiser's ads may be served; reason is 'ok'."),
        _column("reason", String(20), "ok, exhausted, no_budget or inactive."),
        _column("budget", Money, "Daily budget: account currency, 4 decimal places; NULL: none is known.", null=True),
        _column("spent_today", Money, "Gross spend of the day: account currency, 4 decimal places."),
        _column("remaining", Money, "What is left of the budget, not below 0: account currency, 4 decimal places."),
    )


def _is_stale() -> Column[Any]:
    return _column("is_stale", Flag, "1: a batch with events of the advertiser is held, so they weren't looked at.")


ServingFlag = _table(
    "ads",
    "ServingFlag",
    "Whether each advertiser may be served, as decided last.",
    *_flag_columns(),
    _column("day", Date, "Day (UTC) of as_of, which spent_today is of."),
    _column("as_of", Instant, "The instant (UTC) that was decided for."),
    _column("version", BigInteger, "1, and one more whenever can_serve or reason changes."),
    _is_stale(),
    *_stamps(),
    PrimaryKeyConstraint("advertiser_id", name="pk_serving_flag"),
)

# --- staging: what was read, batch by batch ----------------------------------------------------------


def _batch_columns() -> tuple[Column[Any], Column[Any]]:
    return (
        _column("batch_id", BigInteger, "The batch; rows whose batch isn't in etl.Batch count for nothing."),
        _column("ordinal", Integer, "Place of the event in its batch, from 0."),
    )


def _staged(name: str, what: str, columns: tuple[Column[Any], ...]) -> Table:
    return _table(
        "staging",
        name,
        f"{what} as they were read, batch by batch.",
        *_batch_columns(),
        *columns,
        _version(),
        # Batches are appended in the order of their ids: a few pages of block range summaries find one.
        Index(f"ix_{name.lower()}_batch", "batch_id", postgresql_using="brin"),
    )


StagedClick = _staged("StagedClick", "Clicks", _click_columns())
StagedBudget = _staged("StagedBudget", "Budget events", _budget_columns())
StagedAdvertiser = _staged("StagedAdvertiser", "Advertisers", _advertiser_columns())
StagedAd = _staged("StagedAd", "Ads", _ad_columns())
STAGED = (StagedClick, StagedBudget, StagedAdvertiser, StagedAd)

RejectedEvent = _table(
    "staging",
    "RejectedEvent",
    "Messages that are no acceptable event, with their bytes and the reason. A row leaves only by being accepted.",
    _identity("Number of the rejected event, as ./spendgate rejected shows it."),
    *_batch_columns(),
    *_partition_columns(),
    _column("position", text_of(400), "Where the message stands in its partition."),
    _column("enqueued_at", Instant, "When the broker says that it got the message (UTC)."),
    _column("reason", String(30), "Why, as a code: docs/data-contract.md, rejections."),
    _column("detail", text_of(500), "Why, as a sentence."),
    _column("raw", Blob, "The message's bytes as they came; NULL: it had no value.", null=True),
    _column(
        "replay_batch_id",
        BigInteger,
        "The batch that the event waits in to be merged once more; NULL: it isn't being replayed.",
        null=True,
    ),
    _column("replay_ordinal", Integer, "The event's place in that batch, from 0.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("id"),
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
# A duplicate that turns out to be in conflict only when it is merged is rejected with its bytes, and retention of the
# broker has no say in it.
BatchPayload = _table(
    "staging",
    "BatchPayload",
    "Every message of a batch as it came, compressed.",
    _column("batch_id", BigInteger, "The batch."),
    _column("content", Blob, "Arrow stream, compressed with zstd: bytes, position and enqueue time of each message."),
    PrimaryKeyConstraint("batch_id", name="pk_batch_payload"),
)

# --- staging: work tables ----------------------------------------------------------------------------


def _work(name: str, comment: str, *columns: Column[Any]) -> Table:
    return _table("staging", name, f"Work table of one transaction: {comment}", *columns)


def _versions(name: str, what: str, columns: tuple[Column[Any], ...]) -> Table:
    return _work(
        name,
        f"all versions of {what} that have to be compared, in the order of arrival.",
        *columns,
        _version(),
        _column("arrival", BigInteger, "0: the version that was stored; then 1, 2, ... in the order of arrival."),
        _column("batch_id", BigInteger, "The batch that it came in; NULL: it was stored.", null=True),
        _column("ordinal", Integer, "Its place in that batch, from 0; NULL: it was stored.", null=True),
        _column(
            "standing",
            String(6),
            "held (the one to keep), passed (held until a newer one came), late (older than what was held), equal "
            "(a duplicate), clash (as new, with other content).",
        ),
    )


ContestedClick = _work(
    "ContestedClick",
    "clicks that came more than once, or are stored already.",
    _column("click_id", Uuid, "The click."),
)
ClickVersion = _versions("ClickVersion", "clicks", _click_columns())
BudgetVersion = _versions("BudgetVersion", "budget events", _budget_columns())
AdvertiserVersion = _versions("AdvertiserVersion", "advertisers", _advertiser_columns())
AdVersion = _versions("AdVersion", "ads", _ad_columns())
NewClickGroup = _work(
    "NewClickGroup",
    "what the uncontested clicks touch.",
    _advertiser_id(),
    _column("ad_id", Integer, "The ad."),
    _column("date_key", Date, "The day (UTC)."),
)
TouchedBudget = _work(
    "TouchedBudget",
    "where touched days begin.",
    _advertiser_id(),
    _column("event_time", Instant, "When a budget came, changed or left (UTC)."),
)


def _day_columns() -> tuple[Column[Any], ...]:
    return (
        _advertiser_id(),
        _column("date_key", Date, "The day (UTC)."),
        _column("day_start", Instant, "Start of the day (UTC), inclusive."),
        _column("day_end", Instant, "End of the day (UTC), exclusive."),
    )


RebuiltDay = _work("RebuiltDay", "the days that are being rebuilt.", *_day_columns())
# Not a work table: it carries the days that were rebuilt to the check at the build's end.
CheckedDay = _table("staging", "CheckedDay", "Days that were rebuilt and not checked yet.", *_day_columns())
BuiltWindow = _work(
    "BuiltWindow",
    "the windows of the days that are being rebuilt, before they are compared with ads.SpendSummary.",
    *_window_columns(),
    _column("day_start", Instant, "Start of the window's day (UTC)."),
    _column("is_last", Flag, "1: the day's last hour window, or its day window."),
    *_spend_columns(),
)
DecidedFlag = _work(
    "DecidedFlag",
    "flags as decided now, before they are compared with ads.ServingFlag.",
    *_flag_columns(),
    _is_stale(),
)
ProfiledAdvertiser = _work(
    "ProfiledAdvertiser",
    "the clicks of the batches that are being judged, by advertiser.",
    _column("batch_id", BigInteger, "The batch."),
    _advertiser_id(),
    _column("click_count", Integer, "Its clicks in the batch."),
    _column("amount", Numeric(28, 4), "What they cost: account currency, 4 decimal places."),
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
    ProfiledAdvertiser,
)

# --- etl: the pipeline's own books -------------------------------------------------------------------

BatchNumber = Sequence(quoted_name("BatchNumber", quote=False), schema="etl", metadata=METADATA, data_type=BigInteger)

StreamPosition = _table(
    "etl",
    "StreamPosition",
    "Where the next read of each partition begins. Nothing is read from anywhere else.",
    *_partition_columns(),
    _column("incarnation", text_of(100), "What tells the stream from one of the same name that is made anew."),
    _column("position", text_of(400), "Where the next read begins; NULL: at the partition's beginning.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("stream", "partition_id", name="pk_stream_position"),
)
Batch = _table(
    "etl",
    "Batch",
    "Batches of events that count: what was read of one partition in one go.",
    _column("batch_id", BigInteger, "Number of the batch; later batches have greater ones."),
    *_partition_columns(),
    _column("from_position", text_of(400), "Where the read began, inclusive."),
    _column("to_position", text_of(400), "Where the next read begins."),
    _column("event_count", Integer, "Messages in the batch, rejected ones included."),
    _column("click_count", Integer, "Clicks among them that were accepted when they were read."),
    _column("rejected_count", Integer, "Messages that were rejected when they were read."),
    _column("is_replay", Flag, "1: rejected events, read before; leave it out where you count what was read."),
    _column("first_enqueued_at", Instant, "When the first of its messages was enqueued (UTC).", null=True),
    _column("last_enqueued_at", Instant, "When the last of its messages was enqueued (UTC).", null=True),
    _column(
        "state",
        String(10),
        "'staged': waits to be judged; 'passed' or 'released': waits to be merged; 'held': waits for a person; "
        "'merged': its events are in ads; 'discarded': they never will be.",
    ),
    _column(
        "judged_at", Instant, "When the gate judged it (UTC); NULL: not yet, or merged before there was one.", null=True
    ),
    _column("merge_id", BigInteger, "The merge that took it: the greatest batch_id of it; NULL: none yet.", null=True),
    _column("merged_at", Instant, "When it was merged (UTC); NULL: not yet.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("batch_id", name="pk_batch"),
    Index("ix_batch_state", "state", "batch_id"),
    Index("ix_batch_merge", "merge_id"),
    Index("ix_batch_partition", "stream", "partition_id", "epoch", "batch_id"),
)
BatchOutcome = _table(
    "etl",
    "BatchOutcome",
    "How the events of each merged batch ended: with those rejected when they were read, all of them.",
    _column("batch_id", BigInteger, "The batch."),
    _column("written_count", Integer, "Events whose version was stored: rows that the merge inserted or updated."),
    _column("duplicate_count", Integer, "Events that were stored already, with the same content."),
    _column("superseded_count", Integer, "Events of which a newer version was there."),
    _column("conflict_count", Integer, "Events rejected by the merge: as new as what was stored, of other content."),
    _column("replayed_count", Integer, "Rejected events of the batch that left by being accepted in a replay."),
    *_stamps(),
    PrimaryKeyConstraint("batch_id", name="pk_batch_outcome"),
)


def _measure(name: str, comment: str) -> Column[Any]:
    return _column(name, Measure, f"{comment}; NULL: nothing to measure it by.", null=True)


BatchProfile = _table(
    "etl",
    "BatchProfile",
    "What the gate measured of each batch. Shares are 0 to 1; a ratio of 1 is as usual.",
    _column("batch_id", BigInteger, "The batch."),
    _column("stream", text_of(249), "The stream's name."),
    _column("event_count", Integer, "Messages in the batch, rejected ones included."),
    _column("rejected_count", Integer, "Messages that were rejected when they were read."),
    _column("click_count", Integer, "Clicks."),
    _column("budget_count", Integer, "Budget events."),
    _column("advertiser_count", Integer, "Advertiser events."),
    _column("ad_count", Integer, "Ad events."),
    _column("compared_click_count", Integer, "Clicks of advertisers whose usual cost per click is known."),
    _column("compared_budget_count", Integer, "Budget events of advertisers that had a budget before."),
    _column("hour_click_count", Integer, "Clicks in the hour that volume_ratio is of, other batches included."),
    _column("sampled_click_count", Integer, "Clicks that duplicates were looked for among."),
    _column("top_reason", String(30), "What most of its rejected messages were rejected for.", null=True),
    _column("top_advertiser_id", Integer, "The advertiser with the most clicks in the batch.", null=True),
    _column("volume_hour", Instant, "The hour (UTC) that volume_ratio is of.", null=True),
    _measure("rejected_share", "Rejected messages of all messages"),
    _measure("unknown_share", "Clicks of advertisers that nobody announced"),
    _measure("invalid_share", "Clicks that are invalid"),
    _measure("zero_share", "Clicks that cost nothing"),
    _measure("late_share", "Clicks more than three days older than the batch's first message"),
    _measure("duplicate_share", "Clicks that are there already, word for word"),
    _measure("top_share", "Clicks of the advertiser with the most"),
    _measure("sudden_share", "By how much top_share exceeds that advertiser's share of the last 7 days"),
    _measure("amount_min", "What the cheapest click costs"),
    _measure("amount_max", "What the dearest click costs"),
    _measure("amount_mean", "What a click costs on average"),
    _measure("amount_median", "What half of the clicks cost at most, of a sample"),
    _measure("amount_p95", "What 19 of 20 clicks cost at most, of a sample"),
    _measure("median_ratio", "amount_median against that of the stream's batches of the last 7 days"),
    _measure("p95_ratio", "amount_p95 against that of the stream's batches of the last 7 days"),
    _measure("cost_ratio", "What its clicks cost against what its advertisers paid in the last 7 days"),
    _measure("odd_cost_share", "Clicks of advertisers whose mean cost per click is 5 times or a fifth of the usual"),
    _measure("volume_ratio", "Clicks of an hour against the same hour of up to 7 earlier days"),
    _measure("budget_max", "The greatest budget"),
    _measure("budget_ratio", "Budgets against the ones that they follow"),
    _measure("unnamed_budget_share", "Budget events that don't say who set the budget"),
    _measure("advertiser_null_share", "Optional fields of advertisers that are missing"),
    _measure("ad_null_share", "Optional fields of ads that are missing"),
    _column("thresholds", String(64), "Digest of the thresholds that it was judged by."),
    _column("documented_at", Instant, "When its verdict went into the Data Docs (UTC); NULL: not yet.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("batch_id", name="pk_batch_profile"),
    Index("ix_batch_profile_stream", "stream", "created_at"),
    Index("ix_batch_profile_documented", "documented_at"),
)
BatchHour = _table(
    "etl",
    "BatchHour",
    "How many clicks each batch has by hour: what the volume of later days is compared with.",
    _column("time_key", Instant, "The hour's start (UTC)."),
    _column("batch_id", BigInteger, "The batch."),
    _column("click_count", Integer, "Clicks."),
    _created(),
    PrimaryKeyConstraint("time_key", "batch_id", name="pk_batch_hour"),
    Index("ix_batch_hour_batch", "batch_id"),
)
BatchFinding = _table(
    "etl",
    "BatchFinding",
    "Expectations that a batch doesn't meet.",
    _column("batch_id", BigInteger, "The batch."),
    _column("expectation", String(60), "Name of the expectation, as in quality.yaml."),
    _column("severity", String(10), "'hold': the batch was held; 'warn': it was only told."),
    _column("observed", Measure, "What was measured."),
    _column("threshold", Measure, "The most or least that it may be."),
    _column("sentence", text_of(500), "What is wrong, for people."),
    *_stamps(),
    PrimaryKeyConstraint("batch_id", "expectation", name="pk_batch_finding"),
)
BatchDecision = _table(
    "etl",
    "BatchDecision",
    "What a person decided about a held batch.",
    _column("batch_id", BigInteger, "The batch."),
    _column("decision", String(10), "'release' or 'discard'."),
    _column("decided_by", text_of(100), "Who decided."),
    _column("reason", text_of(500), "Why."),
    _column("decided_at", Instant, "When (UTC)."),
    *_stamps(),
    PrimaryKeyConstraint("batch_id", name="pk_batch_decision"),
)
HeldAdvertiser = _table(
    "etl",
    "HeldAdvertiser",
    "Advertisers with events in a batch that was held: their flags are stale until it is merged or discarded.",
    _column("batch_id", BigInteger, "The batch."),
    _advertiser_id(),
    _created(),
    PrimaryKeyConstraint("batch_id", "advertiser_id", name="pk_held_advertiser"),
)
StagingSweep = _table(
    "etl",
    "StagingSweep",
    "One row: up to which batch orphaned rows were looked for.",
    _column("id", Integer, "1."),
    _column("swept_through", BigInteger, "Rows of batches up to this one are known or gone."),
    *_stamps(),
    PrimaryKeyConstraint("id", name="pk_staging_sweep"),
)
StreamGap = _table(
    "etl",
    "StreamGap",
    "Events that retention removed before they were read.",
    _identity("Number of the gap, as ./spendgate gaps shows it."),
    *_partition_columns(),
    _column("from_position", text_of(400), "First position that was lost."),
    _column("to_position", text_of(400), "First position that is still there."),
    _column("accepted_at", Instant, "When a person accepted the loss (UTC); NULL: it waits.", null=True),
    _column("accepted_by", text_of(100), "Who accepted it.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("stream", "partition_id", "epoch", "from_position", name="uq_stream_gap"),
)
TouchedDay = _table(
    "etl",
    "TouchedDay",
    "Days whose windows have to be rebuilt.",
    _advertiser_id(),
    _column("date_key", Date, "The day (UTC)."),
    _created(),
    PrimaryKeyConstraint("advertiser_id", "date_key", name="pk_touched_day"),
)
Outbox = _table(
    "etl",
    "Outbox",
    "Messages for the flag topic: each change of a flag, written in the transaction that changed it.",
    _identity("Order in which the messages are sent."),
    *_flag_columns(),
    _column("as_of", Instant, "The instant (UTC) that was decided for."),
    _column("version", BigInteger, "Version of the flag that the message tells."),
    _column("published_at", Instant, "When the broker had it (UTC); NULL: it waits.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("id"),
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
    "The topics that flags were published to.",
    _column("topic", text_of(249), "The topic's name."),
    _column("incarnation", text_of(100), "What tells it from one of the same name that is made anew."),
    *_stamps(),
    PrimaryKeyConstraint("topic", name="pk_flag_topic"),
)
RunLog = _table(
    "etl",
    "RunLog",
    "What each run of a DAG did, and how long its steps took.",
    _identity("Number of the entry."),
    _column("dag", String(100), "The DAG."),
    _column("run_id", text_of(250), "The run, as Airflow names it."),
    _column("started_at", Instant, "When the run's first step began (UTC)."),
    _column("ended_at", Instant, "When the step that ended last so far ended (UTC)."),
    _column("event_count", BigInteger, "Messages that were read."),
    _column("rejected_count", BigInteger, "Messages that were rejected, when they were read or when they were merged."),
    _column("rejected", text_of(1000), "The same by reason, as a JSON object."),
    _column("merged_count", BigInteger, "Rows of ads that the merge inserted or updated."),
    _column("held_count", BigInteger, "Batches that the run held back for a person."),
    _column("window_count", BigInteger, "Windows that were inserted, updated or deleted."),
    _column("flip_count", BigInteger, "Flags whose can_serve or reason changed."),
    _column("message_count", BigInteger, "Messages that were published."),
    _column("seconds", text_of(1000), "Seconds by step, all attempts together, as a JSON object."),
    _column("error", text_of(1000), "Why the step that failed last failed; NULL: none did.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("dag", "run_id", name="uq_run_log_run"),
    Index("ix_run_log_started", "started_at"),
)
Discrepancy = _table(
    "etl",
    "Discrepancy",
    "Differences that reconcile_spend found between what came in and what is in the tables.",
    _identity("Number of the difference, as ./spendgate discrepancies shows it."),
    _column("kind", String(20), "What differs, as a code: docs/runbook.md, reconciliation."),
    _column("subject", text_of(300), "Which one: its advertiser, time, id, batch or partition."),
    _column("date_key", Date, "The day (UTC) that it is about; NULL: of no day.", null=True),
    _column("expected", text_of(300), "What should be there."),
    _column("found", text_of(300), "What is there."),
    _column("detail", text_of(1000), "All of it in a sentence."),
    _column("found_at", Instant, "When it was found first (UTC)."),
    _column("seen_at", Instant, "When it was found last (UTC)."),
    _column("closed_at", Instant, "When it was closed (UTC); NULL: it is open.", null=True),
    _column("closed_by", text_of(100), "Who closed it; NULL: it is open.", null=True),
    _column("outcome", String(10), "repaired, gone (not found again) or accepted; NULL: it is open.", null=True),
    *_stamps(),
    PrimaryKeyConstraint("id"),
    Index("ix_discrepancy_closed", "closed_at"),
)
ClosedHistory = _table(
    "etl",
    "ClosedHistory",
    "At most one row: before which day clicks were purged, so that windows stay as they are.",
    _column("id", Integer, "1."),
    _column("closed_before", Date, "Days (UTC) before this one are closed."),
    *_stamps(),
    PrimaryKeyConstraint("id", name="pk_closed_history"),
)

# --- which rows name which ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """Columns that name a row of another table, though no foreign key says so (docs/adr/0003)."""

    columns: tuple[Column[Any], ...]
    target: tuple[Column[Any], ...]


def _refers(table: Table, target: Table, **columns: str) -> Reference:
    names = columns.items()
    return Reference(tuple(table.c[mine] for mine, _ in names), tuple(target.c[its] for _, its in names))


REFERENCES = (
    _refers(Ad, Advertiser, advertiser_id="advertiser_id"),
    _refers(AppUser, Advertiser, advertiser_id="advertiser_id"),
    _refers(ApiKey, Advertiser, advertiser_id="advertiser_id"),
    _refers(ApiKeyUse, ApiKey, key_id="id"),
    _refers(ApiSession, AppUser, user_id="id"),
    _refers(ClickEvent, Advertiser, advertiser_id="advertiser_id"),
    _refers(ClickEvent, Ad, ad_id="ad_id"),
    _refers(ClickEvent, TimeHierarchy, time_key="time_key"),
    _refers(BudgetEvent, Advertiser, advertiser_id="advertiser_id"),
    _refers(BudgetEvent, TimeHierarchy, time_key="time_key"),
    _refers(SpendSummary, Advertiser, advertiser_id="advertiser_id"),
    _refers(SpendSummary, TimeHierarchy, window_start="time_key"),
    _refers(ServingFlag, Advertiser, advertiser_id="advertiser_id"),
    _refers(Batch, StreamPosition, stream="stream", partition_id="partition_id"),
    _refers(BatchOutcome, Batch, batch_id="batch_id"),
    _refers(StreamGap, StreamPosition, stream="stream", partition_id="partition_id"),
    *(_refers(table, Batch, batch_id="batch_id") for table in (*STAGED, RejectedEvent, BatchPayload)),
    *(
        _refers(table, Batch, batch_id="batch_id")
        for table in (BatchProfile, BatchHour, BatchFinding, BatchDecision, HeldAdvertiser)
    ),
    _refers(RejectedEvent, Batch, replay_batch_id="batch_id"),
    _refers(TouchedDay, Advertiser, advertiser_id="advertiser_id"),
    _refers(Outbox, ServingFlag, advertiser_id="advertiser_id"),
)
