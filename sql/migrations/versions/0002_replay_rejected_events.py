"""Let rejected events be replayed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql

from spendgate.warehouse.server import Feature, read_server

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FLAG = sa.SmallInteger().with_variant(mssql.BIT(), "mssql")


def bare(name):
    """Unquoted: SQL Server keeps its capitals, PostgreSQL folds it."""
    return sa.quoted_name(name, quote=False)


def drops_default_by_name():
    """SQL Server keeps a column that has a default; who only speaks like it may tell a name of it that isn't so."""
    on_mssql = op.get_context().dialect.name == "mssql"
    return on_mssql and read_server(op.get_bind()).has(Feature.DEFAULT_NAMES)


def upgrade() -> None:
    # Every batch that is there was read from its stream.
    op.add_column(
        bare("Batch"), sa.Column("is_replay", FLAG, server_default=sa.text("0"), nullable=False), schema="etl"
    )
    op.add_column(bare("RejectedEvent"), sa.Column("replay_batch_id", sa.BigInteger(), nullable=True), schema="staging")
    op.add_column(bare("RejectedEvent"), sa.Column("replay_ordinal", sa.Integer(), nullable=True), schema="staging")
    op.create_index(
        "ix_rejected_event_replay",
        bare("RejectedEvent"),
        ["replay_batch_id", "replay_ordinal"],
        unique=False,
        schema="staging",
        postgresql_where=sa.text("replay_batch_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_rejected_event_replay", table_name=bare("RejectedEvent"), schema="staging")
    op.drop_column(bare("RejectedEvent"), "replay_ordinal", schema="staging")
    op.drop_column(bare("RejectedEvent"), "replay_batch_id", schema="staging")
    op.drop_column(bare("Batch"), "is_replay", schema="etl", mssql_drop_default=drops_default_by_name())
