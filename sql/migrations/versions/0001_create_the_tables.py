"""Create the tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, postgresql
from sqlalchemy.schema import CreateSequence, DropSequence

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MONEY = sa.Numeric(19, 4)
FLAG = sa.SmallInteger().with_variant(mssql.BIT(), "mssql")
BLOB = sa.LargeBinary().with_variant(mssql.VARBINARY("max"), "mssql")
INSTANT = (
    sa.DateTime()
    .with_variant(postgresql.TIMESTAMP(precision=3), "postgresql")
    .with_variant(mssql.DATETIME2(3), "mssql")
)


def text_of(length):
    return sa.Unicode(length).with_variant(mssql.NVARCHAR(length, collation="Latin1_General_100_BIN2"), "mssql")


def bare(name):
    """Unquoted: SQL Server keeps its capitals, PostgreSQL folds it."""
    return sa.quoted_name(name, quote=False)


BATCH_NUMBER = sa.Sequence(bare("BatchNumber"), start=1, schema="etl", data_type=sa.BigInteger)


def upgrade() -> None:
    op.execute(CreateSequence(BATCH_NUMBER))
    op.create_table(
        bare("Ad"),
        sa.Column("ad_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("ad_title", text_of(300), nullable=False),
        sa.Column("ad_format", text_of(50), nullable=True),
        sa.Column("product_link", text_of(2000), nullable=True),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("is_inferred", FLAG, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("ad_id", name="pk_ad"),
        schema="ads",
    )
    op.create_index("ix_ad_advertiser", bare("Ad"), ["advertiser_id"], unique=False, schema="ads")
    op.create_table(
        bare("Advertiser"),
        sa.Column("advertiser_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", text_of(200), nullable=False),
        sa.Column("industry", text_of(100), nullable=True),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("is_inferred", FLAG, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("advertiser_id", name="pk_advertiser"),
        schema="ads",
    )
    op.create_table(
        bare("AppUser"),
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("first_name", text_of(100), nullable=False),
        sa.Column("last_name", text_of(100), nullable=False),
        sa.Column("email", text_of(320), nullable=False),
        sa.Column("username", text_of(100), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=True),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("is_staff", FLAG, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("email", name="uq_app_user_email"),
        sa.UniqueConstraint("username", name="uq_app_user_username"),
        schema="ads",
    )
    op.create_table(
        bare("BudgetEvent"),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("new_budget_value", MONEY, nullable=False),
        sa.Column("event_time", INSTANT, nullable=False),
        sa.Column("time_key", INSTANT, nullable=False),
        sa.Column("source", text_of(100), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_budget_event"),
        schema="ads",
    )
    op.create_index(
        "ix_budget_event_advertiser_time",
        bare("BudgetEvent"),
        ["advertiser_id", "event_time"],
        unique=False,
        schema="ads",
    )
    op.create_table(
        bare("ClickEvent"),
        sa.Column("click_id", sa.Uuid(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("ad_id", sa.Integer(), nullable=False),
        sa.Column("click_time", INSTANT, nullable=False),
        sa.Column("time_key", INSTANT, nullable=False),
        sa.Column("amount", MONEY, nullable=False),
        sa.Column("is_valid", FLAG, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("click_id", name="pk_click_event"),
        schema="ads",
    )
    op.create_index(
        "ix_click_event_advertiser_time",
        bare("ClickEvent"),
        ["advertiser_id", "time_key"],
        unique=False,
        schema="ads",
    )
    op.create_table(
        bare("ServingFlag"),
        sa.Column("advertiser_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("can_serve", FLAG, nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("budget", MONEY, nullable=True),
        sa.Column("spent_today", MONEY, nullable=False),
        sa.Column("remaining", MONEY, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("as_of", INSTANT, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("advertiser_id", name="pk_serving_flag"),
        schema="ads",
    )
    op.create_table(
        bare("SpendSummary"),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("grain", sa.String(length=4), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT, nullable=False),
        sa.Column("click_count", sa.Integer(), nullable=False),
        sa.Column("gross_spend", MONEY, nullable=False),
        sa.Column("invalid_spend", MONEY, nullable=False),
        sa.Column("net_spend", MONEY, nullable=False),
        sa.Column("budget_at_time", MONEY, nullable=True),
        sa.Column("can_serve", FLAG, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("advertiser_id", "window_start", "grain", name="uq_spend_summary_window"),
        schema="ads",
    )
    op.create_table(
        bare("TimeHierarchy"),
        sa.Column("time_key", INSTANT, nullable=False),
        sa.Column("date_key", sa.Date(), nullable=False),
        sa.Column("hour", sa.SmallInteger(), nullable=False),
        sa.Column("day", sa.SmallInteger(), nullable=False),
        sa.Column("week", sa.SmallInteger(), nullable=False),
        sa.Column("week_start", sa.Date(), nullable=False),
        sa.Column("month", sa.SmallInteger(), nullable=False),
        sa.Column("quarter", sa.SmallInteger(), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("weekday_name", sa.String(length=9), nullable=False),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("time_key", name="pk_time_hierarchy"),
        schema="ads",
    )
    op.create_index("ix_time_hierarchy_date", bare("TimeHierarchy"), ["date_key"], unique=False, schema="ads")
    op.create_table(
        bare("Batch"),
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stream", text_of(249), nullable=False),
        sa.Column("partition_id", text_of(200), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("from_position", text_of(400), nullable=False),
        sa.Column("to_position", text_of(400), nullable=False),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("click_count", sa.Integer(), nullable=False),
        sa.Column("rejected_count", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("merge_id", sa.BigInteger(), nullable=True),
        sa.Column("merged_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batch"),
        schema="etl",
    )
    op.create_index("ix_batch_merge", bare("Batch"), ["merge_id"], unique=False, schema="etl")
    op.create_index("ix_batch_state", bare("Batch"), ["state", "batch_id"], unique=False, schema="etl")
    op.create_table(
        bare("FlagTopic"),
        sa.Column("topic", text_of(249), nullable=False),
        sa.Column("incarnation", text_of(100), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("topic", name="pk_flag_topic"),
        schema="etl",
    )
    op.create_table(
        bare("Outbox"),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("can_serve", FLAG, nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("budget", MONEY, nullable=True),
        sa.Column("spent_today", MONEY, nullable=False),
        sa.Column("remaining", MONEY, nullable=False),
        sa.Column("as_of", INSTANT, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("published_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="etl",
    )
    op.create_index("ix_outbox_advertiser", bare("Outbox"), ["advertiser_id", "version"], unique=False, schema="etl")
    op.create_index(
        "ix_outbox_unpublished",
        bare("Outbox"),
        ["id"],
        unique=False,
        schema="etl",
        postgresql_where=sa.text("published_at IS NULL"),
        mssql_where=sa.text("published_at IS NULL"),
    )
    op.create_table(
        bare("StagingSweep"),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("swept_through", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_staging_sweep"),
        schema="etl",
    )
    op.create_table(
        bare("StreamGap"),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("stream", text_of(249), nullable=False),
        sa.Column("partition_id", text_of(200), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("from_position", text_of(400), nullable=False),
        sa.Column("to_position", text_of(400), nullable=False),
        sa.Column("accepted_at", INSTANT, nullable=True),
        sa.Column("accepted_by", text_of(100), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("stream", "partition_id", "epoch", "from_position", name="uq_stream_gap"),
        schema="etl",
    )
    op.create_table(
        bare("StreamPosition"),
        sa.Column("stream", text_of(249), nullable=False),
        sa.Column("partition_id", text_of(200), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("incarnation", text_of(100), nullable=False),
        sa.Column("position", text_of(400), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("stream", "partition_id", name="pk_stream_position"),
        schema="etl",
    )
    op.create_table(
        bare("TouchedDay"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("date_key", sa.Date(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("advertiser_id", "date_key", name="pk_touched_day"),
        schema="etl",
    )
    op.create_table(
        bare("AdVersion"),
        sa.Column("ad_id", sa.Integer(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("ad_title", text_of(300), nullable=False),
        sa.Column("ad_format", text_of(50), nullable=True),
        sa.Column("product_link", text_of(2000), nullable=True),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("arrival", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("standing", sa.String(length=6), nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("AdvertiserVersion"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("name", text_of(200), nullable=False),
        sa.Column("industry", text_of(100), nullable=True),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("arrival", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("standing", sa.String(length=6), nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("BatchPayload"),
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("content", BLOB, nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batch_payload"),
        schema="staging",
    )
    op.create_table(
        bare("BudgetVersion"),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("new_budget_value", MONEY, nullable=False),
        sa.Column("event_time", INSTANT, nullable=False),
        sa.Column("time_key", INSTANT, nullable=False),
        sa.Column("source", text_of(100), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("arrival", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("standing", sa.String(length=6), nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("BuiltWindow"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("grain", sa.String(length=4), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT, nullable=False),
        sa.Column("day_start", INSTANT, nullable=False),
        sa.Column("is_last", FLAG, nullable=False),
        sa.Column("click_count", sa.Integer(), nullable=False),
        sa.Column("gross_spend", MONEY, nullable=False),
        sa.Column("invalid_spend", MONEY, nullable=False),
        sa.Column("net_spend", MONEY, nullable=False),
        sa.Column("budget_at_time", MONEY, nullable=True),
        sa.Column("can_serve", FLAG, nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("CheckedDay"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("date_key", sa.Date(), nullable=False),
        sa.Column("day_start", INSTANT, nullable=False),
        sa.Column("day_end", INSTANT, nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("ClickVersion"),
        sa.Column("click_id", sa.Uuid(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("ad_id", sa.Integer(), nullable=False),
        sa.Column("click_time", INSTANT, nullable=False),
        sa.Column("time_key", INSTANT, nullable=False),
        sa.Column("amount", MONEY, nullable=False),
        sa.Column("is_valid", FLAG, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("arrival", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("standing", sa.String(length=6), nullable=False),
        schema="staging",
    )
    op.create_table(bare("ContestedClick"), sa.Column("click_id", sa.Uuid(), nullable=False), schema="staging")
    op.create_table(
        bare("DecidedFlag"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("can_serve", FLAG, nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("budget", MONEY, nullable=True),
        sa.Column("spent_today", MONEY, nullable=False),
        sa.Column("remaining", MONEY, nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("NewClickGroup"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("ad_id", sa.Integer(), nullable=False),
        sa.Column("date_key", sa.Date(), nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("RebuiltDay"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("date_key", sa.Date(), nullable=False),
        sa.Column("day_start", INSTANT, nullable=False),
        sa.Column("day_end", INSTANT, nullable=False),
        schema="staging",
    )
    op.create_table(
        bare("RejectedEvent"),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("stream", text_of(249), nullable=False),
        sa.Column("partition_id", text_of(200), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("position", text_of(400), nullable=False),
        sa.Column("enqueued_at", INSTANT, nullable=False),
        sa.Column("reason", sa.String(length=30), nullable=False),
        sa.Column("detail", text_of(500), nullable=False),
        sa.Column("raw", BLOB, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        schema="staging",
    )
    op.create_index(
        "ix_rejected_event_batch",
        bare("RejectedEvent"),
        ["batch_id", "ordinal"],
        unique=False,
        schema="staging",
    )
    op.create_table(
        bare("StagedAd"),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("ad_id", sa.Integer(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("ad_title", text_of(300), nullable=False),
        sa.Column("ad_format", text_of(50), nullable=True),
        sa.Column("product_link", text_of(2000), nullable=True),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        schema="staging",
    )
    op.create_index(
        "ix_stagedad_batch",
        bare("StagedAd"),
        ["batch_id"],
        unique=False,
        schema="staging",
        postgresql_using="brin",
    )
    op.create_table(
        bare("StagedAdvertiser"),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("name", text_of(200), nullable=False),
        sa.Column("industry", text_of(100), nullable=True),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.Column("is_active", FLAG, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        schema="staging",
    )
    op.create_index(
        "ix_stagedadvertiser_batch",
        bare("StagedAdvertiser"),
        ["batch_id"],
        unique=False,
        schema="staging",
        postgresql_using="brin",
    )
    op.create_table(
        bare("StagedBudget"),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("new_budget_value", MONEY, nullable=False),
        sa.Column("event_time", INSTANT, nullable=False),
        sa.Column("time_key", INSTANT, nullable=False),
        sa.Column("source", text_of(100), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        schema="staging",
    )
    op.create_index(
        "ix_stagedbudget_batch",
        bare("StagedBudget"),
        ["batch_id"],
        unique=False,
        schema="staging",
        postgresql_using="brin",
    )
    op.create_table(
        bare("StagedClick"),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("click_id", sa.Uuid(), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("ad_id", sa.Integer(), nullable=False),
        sa.Column("click_time", INSTANT, nullable=False),
        sa.Column("time_key", INSTANT, nullable=False),
        sa.Column("amount", MONEY, nullable=False),
        sa.Column("is_valid", FLAG, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        schema="staging",
    )
    op.create_index(
        "ix_stagedclick_batch",
        bare("StagedClick"),
        ["batch_id"],
        unique=False,
        schema="staging",
        postgresql_using="brin",
    )
    op.create_table(
        bare("TouchedBudget"),
        sa.Column("advertiser_id", sa.Integer(), nullable=False),
        sa.Column("event_time", INSTANT, nullable=False),
        schema="staging",
    )
    if op.get_bind().dialect.name == "postgresql":
        # Compressed already: PostgreSQL's own try at it costs five times what storing it does.
        op.execute("ALTER TABLE staging.BatchPayload ALTER COLUMN content SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table(bare("TouchedBudget"), schema="staging")
    op.drop_index("ix_stagedclick_batch", table_name=bare("StagedClick"), schema="staging", postgresql_using="brin")
    op.drop_table(bare("StagedClick"), schema="staging")
    op.drop_index("ix_stagedbudget_batch", table_name=bare("StagedBudget"), schema="staging", postgresql_using="brin")
    op.drop_table(bare("StagedBudget"), schema="staging")
    op.drop_index(
        "ix_stagedadvertiser_batch",
        table_name=bare("StagedAdvertiser"),
        schema="staging",
        postgresql_using="brin",
    )
    op.drop_table(bare("StagedAdvertiser"), schema="staging")
    op.drop_index("ix_stagedad_batch", table_name=bare("StagedAd"), schema="staging", postgresql_using="brin")
    op.drop_table(bare("StagedAd"), schema="staging")
    op.drop_index("ix_rejected_event_batch", table_name=bare("RejectedEvent"), schema="staging")
    op.drop_table(bare("RejectedEvent"), schema="staging")
    op.drop_table(bare("RebuiltDay"), schema="staging")
    op.drop_table(bare("NewClickGroup"), schema="staging")
    op.drop_table(bare("DecidedFlag"), schema="staging")
    op.drop_table(bare("ContestedClick"), schema="staging")
    op.drop_table(bare("ClickVersion"), schema="staging")
    op.drop_table(bare("CheckedDay"), schema="staging")
    op.drop_table(bare("BuiltWindow"), schema="staging")
    op.drop_table(bare("BudgetVersion"), schema="staging")
    op.drop_table(bare("BatchPayload"), schema="staging")
    op.drop_table(bare("AdvertiserVersion"), schema="staging")
    op.drop_table(bare("AdVersion"), schema="staging")
    op.drop_table(bare("TouchedDay"), schema="etl")
    op.drop_table(bare("StreamPosition"), schema="etl")
    op.drop_table(bare("StreamGap"), schema="etl")
    op.drop_table(bare("StagingSweep"), schema="etl")
    op.drop_index(
        "ix_outbox_unpublished",
        table_name=bare("Outbox"),
        schema="etl",
        postgresql_where=sa.text("published_at IS NULL"),
        mssql_where=sa.text("published_at IS NULL"),
    )
    op.drop_index("ix_outbox_advertiser", table_name=bare("Outbox"), schema="etl")
    op.drop_table(bare("Outbox"), schema="etl")
    op.drop_table(bare("FlagTopic"), schema="etl")
    op.drop_index("ix_batch_state", table_name=bare("Batch"), schema="etl")
    op.drop_index("ix_batch_merge", table_name=bare("Batch"), schema="etl")
    op.drop_table(bare("Batch"), schema="etl")
    op.drop_index("ix_time_hierarchy_date", table_name=bare("TimeHierarchy"), schema="ads")
    op.drop_table(bare("TimeHierarchy"), schema="ads")
    op.drop_table(bare("SpendSummary"), schema="ads")
    op.drop_table(bare("ServingFlag"), schema="ads")
    op.drop_index("ix_click_event_advertiser_time", table_name=bare("ClickEvent"), schema="ads")
    op.drop_table(bare("ClickEvent"), schema="ads")
    op.drop_index("ix_budget_event_advertiser_time", table_name=bare("BudgetEvent"), schema="ads")
    op.drop_table(bare("BudgetEvent"), schema="ads")
    op.drop_table(bare("AppUser"), schema="ads")
    op.drop_table(bare("Advertiser"), schema="ads")
    op.drop_index("ix_ad_advertiser", table_name=bare("Ad"), schema="ads")
    op.drop_table(bare("Ad"), schema="ads")
    op.execute(DropSequence(BATCH_NUMBER))
