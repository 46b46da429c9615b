"""Keep the books: how events ended, what runs did, what differs, and before which day history is closed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

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


def stamps():
    return (
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
    )


def number():
    return sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False)


def upgrade() -> None:
    op.create_index(
        "ix_batch_partition", bare("Batch"), ["stream", "partition_id", "epoch", "batch_id"], unique=False, schema="etl"
    )
    op.create_table(
        bare("BatchOutcome"),
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("written_count", sa.Integer(), nullable=False),
        sa.Column("duplicate_count", sa.Integer(), nullable=False),
        sa.Column("superseded_count", sa.Integer(), nullable=False),
        sa.Column("conflict_count", sa.Integer(), nullable=False),
        sa.Column("replayed_count", sa.Integer(), nullable=False),
        *stamps(),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batch_outcome"),
        schema="etl",
    )
    op.create_table(
        bare("RunLog"),
        number(),
        sa.Column("dag", sa.String(length=100), nullable=False),
        sa.Column("run_id", text_of(250), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("rejected_count", sa.BigInteger(), nullable=False),
        sa.Column("rejected", text_of(1000), nullable=False),
        sa.Column("merged_count", sa.BigInteger(), nullable=False),
        sa.Column("held_count", sa.BigInteger(), nullable=False),
        sa.Column("window_count", sa.BigInteger(), nullable=False),
        sa.Column("flip_count", sa.BigInteger(), nullable=False),
        sa.Column("message_count", sa.BigInteger(), nullable=False),
        sa.Column("seconds", text_of(1000), nullable=False),
        sa.Column("error", text_of(1000), nullable=True),
        *stamps(),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dag", "run_id", name="uq_run_log_run"),
        schema="etl",
    )
    op.create_index("ix_run_log_started", bare("RunLog"), ["started_at"], unique=False, schema="etl")
    op.create_table(
        bare("Discrepancy"),
        number(),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("subject", text_of(300), nullable=False),
        sa.Column("date_key", sa.Date(), nullable=True),
        sa.Column("expected", text_of(300), nullable=False),
        sa.Column("found", text_of(300), nullable=False),
        sa.Column("detail", text_of(1000), nullable=False),
        sa.Column("found_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("closed_at", INSTANT, nullable=True),
        sa.Column("closed_by", text_of(100), nullable=True),
        sa.Column("outcome", sa.String(length=10), nullable=True),
        *stamps(),
        sa.PrimaryKeyConstraint("id"),
        schema="etl",
    )
    op.create_index("ix_discrepancy_closed", bare("Discrepancy"), ["closed_at"], unique=False, schema="etl")
    op.create_table(
        bare("ClosedHistory"),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("closed_before", sa.Date(), nullable=False),
        *stamps(),
        sa.PrimaryKeyConstraint("id", name="pk_closed_history"),
        schema="etl",
    )


def downgrade() -> None:
    op.drop_table(bare("ClosedHistory"), schema="etl")
    op.drop_table(bare("Discrepancy"), schema="etl")
    op.drop_table(bare("RunLog"), schema="etl")
    op.drop_table(bare("BatchOutcome"), schema="etl")
    op.drop_index("ix_batch_partition", table_name=bare("Batch"), schema="etl")
