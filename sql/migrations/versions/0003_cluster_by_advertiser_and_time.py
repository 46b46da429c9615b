"""Lay the big tables out on SQL Server by advertiser and time.

Nothing on PostgreSQL, which has no clustered tables. Why it is laid out so: docs/adr/0009. Keys are dropped and made
again, which on a table that is filled already takes time, log and room for a copy of it: docs/production.md, upgrade.
"""

from alembic import op

from spendgate.warehouse.server import ANY_SQL_SERVER, Feature, read_server

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# 0001 left the naming of this key to the server.
DROP_WINDOW_KEY = """
DECLARE @drop NVARCHAR(400) = N'ALTER TABLE ads.SpendSummary DROP CONSTRAINT ' + (
    SELECT QUOTENAME(k.name) FROM sys.key_constraints AS k
    WHERE k.parent_object_id = OBJECT_ID(N'ads.SpendSummary') AND k.type = 'PK'
);
EXEC sp_executesql @drop
"""

UP = (
    "DROP INDEX ix_click_event_advertiser_time ON ads.ClickEvent",
    "ALTER TABLE ads.ClickEvent DROP CONSTRAINT pk_click_event",
    "CREATE UNIQUE CLUSTERED INDEX cx_click_event ON ads.ClickEvent (advertiser_id, time_key, click_id){page}",
    # Random keys land on all pages: the room that is left takes them without splitting pages for a while.
    "ALTER TABLE ads.ClickEvent ADD CONSTRAINT pk_click_event PRIMARY KEY NONCLUSTERED (click_id){random_row}",
    "DROP INDEX ix_budget_event_advertiser_time ON ads.BudgetEvent",
    "ALTER TABLE ads.BudgetEvent DROP CONSTRAINT pk_budget_event",
    "CREATE UNIQUE CLUSTERED INDEX cx_budget_event ON ads.BudgetEvent (advertiser_id, event_time, event_id){page}",
    "ALTER TABLE ads.BudgetEvent ADD CONSTRAINT pk_budget_event PRIMARY KEY NONCLUSTERED (event_id){random_row}",
    "ALTER TABLE ads.SpendSummary DROP CONSTRAINT uq_spend_summary_window",
    DROP_WINDOW_KEY,
    "ALTER TABLE ads.SpendSummary ADD CONSTRAINT uq_spend_summary_window "
    "UNIQUE CLUSTERED (advertiser_id, window_start, grain){page}",
    "ALTER TABLE ads.SpendSummary ADD CONSTRAINT pk_spend_summary PRIMARY KEY NONCLUSTERED (id){row}",
    "CREATE INDEX ix_spend_summary_time ON ads.SpendSummary (window_start, grain) "
    "INCLUDE (window_end, click_count, gross_spend, invalid_spend, net_spend){page}",
)
# Corrections of clicks come mostly within a day: until then rows stay where changing them is cheap.
COLUMNSTORE = (
    "CREATE NONCLUSTERED COLUMNSTORE INDEX ncci_click_event ON ads.ClickEvent "
    "(advertiser_id, ad_id, click_time, time_key, amount, is_valid) WITH (COMPRESSION_DELAY = 1440)"
)
DOWN = (
    "DROP INDEX IF EXISTS ncci_click_event ON ads.ClickEvent",
    "DROP INDEX ix_spend_summary_time ON ads.SpendSummary",
    "ALTER TABLE ads.SpendSummary DROP CONSTRAINT pk_spend_summary",
    "ALTER TABLE ads.SpendSummary DROP CONSTRAINT uq_spend_summary_window",
    "ALTER TABLE ads.SpendSummary ADD PRIMARY KEY CLUSTERED (id)",
    "ALTER TABLE ads.SpendSummary ADD CONSTRAINT uq_spend_summary_window "
    "UNIQUE NONCLUSTERED (advertiser_id, window_start, grain)",
    "ALTER TABLE ads.BudgetEvent DROP CONSTRAINT pk_budget_event",
    "DROP INDEX cx_budget_event ON ads.BudgetEvent",
    "ALTER TABLE ads.BudgetEvent ADD CONSTRAINT pk_budget_event PRIMARY KEY CLUSTERED (event_id)",
    "CREATE INDEX ix_budget_event_advertiser_time ON ads.BudgetEvent (advertiser_id, event_time)",
    "ALTER TABLE ads.ClickEvent DROP CONSTRAINT pk_click_event",
    "DROP INDEX cx_click_event ON ads.ClickEvent",
    "ALTER TABLE ads.ClickEvent ADD CONSTRAINT pk_click_event PRIMARY KEY CLUSTERED (click_id)",
    "CREATE INDEX ix_click_event_advertiser_time ON ads.ClickEvent (advertiser_id, time_key)",
)


def on_mssql():
    return op.get_context().dialect.name == "mssql"


def server():
    return ANY_SQL_SERVER if op.get_context().as_sql else read_server(op.get_bind())


def upgrade() -> None:
    if not on_mssql():
        return
    there = server()
    options = {"page": "", "row": "", "random_row": ""}
    if there.has(Feature.COMPRESSION):
        options = {
            "page": " WITH (DATA_COMPRESSION = PAGE)",
            "row": " WITH (DATA_COMPRESSION = ROW)",
            "random_row": " WITH (DATA_COMPRESSION = ROW, FILLFACTOR = 80)",
        }
    for statement in UP:
        op.execute(statement.format(**options))
    if there.has(Feature.COLUMNSTORE):
        op.execute(COLUMNSTORE)


def downgrade() -> None:
    if on_mssql():
        for statement in DOWN:
            op.execute(statement)
