"""Let batches be judged before they are merged, and people decide on those that are held."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, postgresql

from spendgate.warehouse.server import Feature, read_server

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

MONEY = sa.Numeric(19, 4)
FLAG = sa.SmallInteger().with_variant(mssql.BIT(), "mssql")
INSTANT = (
    sa.DateTime()
    .with_variant(postgresql.TIMESTAMP(precision=3), "postgresql")
    .with_variant(mssql.DATETIME2(3), "mssql")
)

COUNTS = [
    "event_count",
    "rejected_count",
    "click_count",
    "budget_count",
    "advertiser_count",
    "ad_count",
    "compared_click_count",
    "compared_budget_count",
    "hour_click_count",
    "sampled_click_count",
]
MEASURES = [
    "rejected_share",
    "unknown_share",
    "invalid_share",
    "zero_share",
    "late_share",
    "duplicate_share",
    "top_share",
    "sudden_share",
    "amount_min",
    "amount_max",
    "amount_mean",
    "amount_median",
    "amount_p95",
    "median_ratio",
    "p95_ratio",
    "cost_ratio",
    "odd_cost_share",
    "volume_ratio",
    "budget_max",
    "budget_ratio",
    "unnamed_budget_share",
    "advertiser_null_share",
    "ad_null_share",
]


def text_of(length):
    return sa.Unicode(length).with_variant(mssql.NVARCHAR(length, collation="Latin1_General_100_BIN2"), "mssql")


def bare(name):
    """Unquoted: SQL Server keeps its capitals, PostgreSQL folds it."""
    return sa.quoted_name(name, quote=False)


def column(name, kind, nullable=False):
    return sa.Column(name, kind, autoincrement=False, nullable=nullable)


def stamps():
    return column("created_at", INSTANT), column("updated_at", INSTANT)


def drops_default_by_name():
    """As in 0002."""
    on_mssql = op.get_context().dialect.name == "mssql"
    return on_mssql and read_server(op.get_bind()).has(Feature.DEFAULT_NAMES)


def upgrade() -> None:
    for name in ("first_enqueued_at", "last_enqueued_at", "judged_at"):
        op.add_column(bare("Batch"), sa.Column(name, INSTANT, nullable=True), schema="etl")
    for schema, table in (("ads", "ServingFlag"), ("staging", "DecidedFlag")):
        # No batch was ever held.
        flag = sa.Column("is_stale", FLAG, server_default=sa.text("0"), nullable=False)
        op.add_column(bare(table), flag, schema=schema)
    op.create_table(
        bare("ProfiledAdvertiser"),
        column("batch_id", sa.BigInteger()),
        column("advertiser_id", sa.Integer()),
        column("click_count", sa.Integer()),
        column("amount", sa.Numeric(28, 4)),
        schema="staging",
    )
    op.create_table(
        bare("BatchProfile"),
        column("batch_id", sa.BigInteger()),
        column("stream", text_of(249)),
        *(column(name, sa.Integer()) for name in COUNTS),
        column("top_reason", sa.String(30), nullable=True),
        column("top_advertiser_id", sa.Integer(), nullable=True),
        column("volume_hour", INSTANT, nullable=True),
        *(column(name, MONEY, nullable=True) for name in MEASURES),
        column("thresholds", sa.String(64)),
        column("documented_at", INSTANT, nullable=True),
        *stamps(),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batch_profile"),
        schema="etl",
    )
    op.create_index("ix_batch_profile_stream", bare("BatchProfile"), ["stream", "created_at"], schema="etl")
    op.create_index("ix_batch_profile_documented", bare("BatchProfile"), ["documented_at"], schema="etl")
    op.create_table(
        bare("BatchHour"),
        column("time_key", INSTANT),
        column("batch_id", sa.BigInteger()),
        column("click_count", sa.Integer()),
        column("created_at", INSTANT),
        sa.PrimaryKeyConstraint("time_key", "batch_id", name="pk_batch_hour"),
        schema="etl",
    )
    op.create_index("ix_batch_hour_batch", bare("BatchHour"), ["batch_id"], schema="etl")
    op.create_table(
        bare("BatchFinding"),
        column("batch_id", sa.BigInteger()),
        column("expectation", sa.String(60)),
        column("severity", sa.String(10)),
        column("observed", MONEY),
        column("threshold", MONEY),
        column("sentence", text_of(500)),
        *stamps(),
        sa.PrimaryKeyConstraint("batch_id", "expectation", name="pk_batch_finding"),
        schema="etl",
    )
    op.create_table(
        bare("BatchDecision"),
        column("batch_id", sa.BigInteger()),
        column("decision", sa.String(10)),
        column("decided_by", text_of(100)),
        column("reason", text_of(500)),
        column("decided_at", INSTANT),
        *stamps(),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batch_decision"),
        schema="etl",
    )
    op.create_table(
        bare("HeldAdvertiser"),
        column("batch_id", sa.BigInteger()),
        column("advertiser_id", sa.Integer()),
        column("created_at", INSTANT),
        sa.PrimaryKeyConstraint("batch_id", "advertiser_id", name="pk_held_advertiser"),
        schema="etl",
    )


def downgrade() -> None:
    # What passed waits again as it did before there was a gate; what is held would be merged by an older version.
    op.execute("UPDATE etl.Batch SET state = 'staged' WHERE state IN ('passed', 'released')")
    for table in ("HeldAdvertiser", "BatchDecision", "BatchFinding", "BatchHour", "BatchProfile"):
        op.drop_table(bare(table), schema="etl")
    op.drop_table(bare("ProfiledAdvertiser"), schema="staging")
    by_name = drops_default_by_name()
    for schema, table in (("staging", "DecidedFlag"), ("ads", "ServingFlag")):
        op.drop_column(bare(table), "is_stale", schema=schema, mssql_drop_default=by_name)
    for name in ("judged_at", "last_enqueued_at", "first_enqueued_at"):
        op.drop_column(bare("Batch"), name, schema="etl")
