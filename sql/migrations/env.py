"""Alembic's entry: migrations run on the connection that `spendgate.warehouse.schema` hands over."""

from alembic import context

from spendgate.warehouse.schema import VERSION_TABLE
from spendgate.warehouse.tables import METADATA, SCHEMAS

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=METADATA,
    include_schemas=True,
    include_name=lambda name, kind, _parents: kind != "schema" or name in SCHEMAS,
    version_table=VERSION_TABLE,
    version_table_schema="etl",
    compare_type=True,
)
context.run_migrations()
