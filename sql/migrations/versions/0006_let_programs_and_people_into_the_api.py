"""Let programs and people into the API: keys, log-ins, failed log-ins."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FLAG = sa.SmallInteger().with_variant(mssql.BIT(), "mssql")
INSTANT = (
    sa.DateTime()
    .with_variant(postgresql.TIMESTAMP(precision=3), "postgresql")
    .with_variant(mssql.DATETIME2(3), "mssql")
)
TABLES = ("LogInFailure", "ApiSession", "ApiKeyUse", "ApiKey")


def text_of(length):
    return sa.Unicode(length).with_variant(mssql.NVARCHAR(length, collation="Latin1_General_100_BIN2"), "mssql")


def bare(name):
    """Unquoted: SQL Server keeps its capitals, PostgreSQL folds it."""
    return sa.quoted_name(name, quote=False)


def upgrade() -> None:
    op.create_table(
        bare("ApiKey"),
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("name", text_of(100), nullable=False),
        sa.Column("scopes", sa.String(length=200), nullable=False),
        sa.Column("advertiser_id", sa.Integer(), nullable=True),
        sa.Column("is_staff", FLAG, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("prefix", name="uq_api_key_prefix"),
        schema="ads",
    )
    op.create_table(
        bare("ApiKeyUse"),
        sa.Column("key_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_used_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_key_use"),
        schema="ads",
    )
    op.create_table(
        bare("ApiSession"),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("refresh_id", sa.String(length=36), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("reason", sa.String(length=20), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_api_session"),
        schema="ads",
    )
    op.create_index("ix_api_session_user", bare("ApiSession"), ["user_id"], unique=False, schema="ads")
    op.create_index("ix_api_session_expiry", bare("ApiSession"), ["expires_at"], unique=False, schema="ads")
    op.create_table(
        bare("LogInFailure"),
        sa.Column("login_hash", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("login_hash", name="pk_log_in_failure"),
        schema="ads",
    )
    op.create_index("ix_log_in_failure_updated", bare("LogInFailure"), ["updated_at"], unique=False, schema="ads")


def downgrade() -> None:
    for name in TABLES:
        op.drop_table(bare(name), schema="ads")
