"""Queries of people: their own SQL and T-SQL, and nothing that writes, whatever it looks like."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, text

from spendgate.errors import ConfigurationError, WarehouseAccessError, WarehouseUnavailableError
from spendgate.query import run_query
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import METADATA


def one(warehouse: Warehouse, sql: str) -> object:
    """The one value that a query returns."""
    _, rows = run_query(warehouse, sql)
    ((value,),) = rows
    return value


def table_count(warehouse: Warehouse) -> int:
    with warehouse.engine.connect() as connection:
        return int(
            connection.scalar(
                text("SELECT COUNT(*) FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA IN ('ads', 'staging', 'etl')")
            )
            or 0
        )


def test_a_query_returns_column_names_and_rows(any_warehouse: Warehouse) -> None:
    columns, rows = run_query(any_warehouse, "SELECT 1 AS one, 'two' AS two")
    assert (columns, [tuple(row) for row in rows]) == (["one", "two"], [(1, "two")])


def test_every_form_of_one_select_is_a_query(any_warehouse: Warehouse, subtests: pytest.Subtests) -> None:
    for sql in (
        "SELECT COUNT(*) FROM ads.Advertiser;",
        "  -- how many?\n(SELECT COUNT(*) FROM ads.Advertiser)",
        "WITH c AS (SELECT advertiser_id FROM ads.Advertiser) SELECT COUNT(*) FROM c",
        "SELECT 0 UNION SELECT 0",
    ):
        with subtests.test(sql):
            assert one(any_warehouse, sql) == 0


def test_text_in_a_query_is_left_alone(any_warehouse: Warehouse) -> None:
    sql = "SELECT 'at 12:30 :x 100% %s; COMMIT -- DROP TABLE ads.Ad' AS words"
    assert one(any_warehouse, sql) == "at 12:30 :x 100% %s; COMMIT -- DROP TABLE ads.Ad"


def test_an_analyst_can_use_what_is_only_postgresql_on_postgresql(warehouse: Warehouse) -> None:
    assert one(warehouse, "SELECT COUNT(*) FILTER (WHERE n % 2 = 0) FROM generate_series(1, 10) AS g(n)") == 5
    assert one(warehouse, "SELECT '2026-11-21'::date + INTERVAL '1 day' > DATE '2026-11-21'") is True


T_SQL = [
    ("SELECT TOP 1 v.n FROM (SELECT 2 AS n UNION ALL SELECT 1 AS n) AS v ORDER BY v.n", 1),
    ("SELECT TOP (1) [n] FROM (SELECT 3 AS [n]) AS [a b]", 3),
    ("SELECT ISNULL(NULL, 4)", 4),
    ("SELECT TOP 1 'a:b :c %' FROM (SELECT 1 AS n) AS v", "a:b :c %"),
]


def test_t_sql_runs_on_both_engines(any_warehouse: Warehouse, subtests: pytest.Subtests) -> None:
    for sql, expected in T_SQL:
        with subtests.test(sql):
            assert one(any_warehouse, sql) == expected


INSERT = (
    "INSERT INTO ads.Ad (ad_id, advertiser_id, ad_title, is_active, is_inferred, created_at, updated_at) "
    "VALUES (1, 1, 'x', 1, 0, '2026-11-21', '2026-11-21')"
)
WRITES = [
    INSERT,
    "UPDATE ads.Ad SET ad_title = 'x'",
    "DELETE FROM ads.Ad",
    "TRUNCATE TABLE ads.Ad",
    "DROP TABLE ads.Ad",
    "CREATE TABLE ads.Stolen (a INT)",
    "ALTER TABLE ads.Ad ADD stolen INT",
    "GRANT SELECT ON ads.Ad TO public",
    "SELECT * INTO ads.Stolen FROM ads.Ad",
    "SELECT 1; DROP TABLE ads.Ad",
    f"SELECT 1; {INSERT}; COMMIT",
    f"COMMIT; {INSERT}; COMMIT",
    "BEGIN TRANSACTION",
    "COMMIT",
    "SET LOCK_TIMEOUT 1",
    "EXEC sp_who",
    "",
    "-- only a remark",
    ";",
]


def test_anything_but_one_select_is_refused_with_a_sentence(
    any_warehouse: Warehouse, subtests: pytest.Subtests
) -> None:
    before = table_count(any_warehouse)
    for sql in WRITES:
        with subtests.test(sql), pytest.raises(ConfigurationError, match="give it one SELECT"):
            run_query(any_warehouse, sql)
    assert table_count(any_warehouse) == before
    assert one(any_warehouse, "SELECT COUNT(*) FROM ads.Ad") == 0


POSTGRESQL_WRITES = [
    "UPDATE ads.Ad SET ad_title = 'x' RETURNING ad_id",
    "WITH gone AS (DELETE FROM ads.Ad RETURNING ad_id) SELECT ad_id FROM gone",
    "COPY ads.Ad TO '/tmp/ads.csv'",
    "DO $$ BEGIN DELETE FROM ads.Ad; END $$",
    "EXPLAIN ANALYZE DELETE FROM ads.Ad",
]


def test_what_only_postgresql_could_write_with_is_refused(warehouse: Warehouse, subtests: pytest.Subtests) -> None:
    for sql in POSTGRESQL_WRITES:
        with subtests.test(sql), pytest.raises(ConfigurationError, match="give it one SELECT"):
            run_query(warehouse, sql)


def test_a_function_that_writes_is_refused_by_the_read_only_transaction(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        first = transaction.next_batch_id()
    with pytest.raises(ConfigurationError, match="read-only transaction"):
        run_query(warehouse, "SELECT nextval('etl.batchnumber')")
    with warehouse.transaction() as transaction:
        assert transaction.next_batch_id() == first + 1


def test_two_statements_that_no_parser_here_understands_are_refused_by_the_protocol(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spendgate.query._require_query", lambda sql, dialect: None)
    with pytest.raises(ConfigurationError, match="multiple commands"):
        run_query(warehouse, "SELECT 1; COMMIT; DROP TABLE ads.Ad")
    assert table_count(warehouse) > len(METADATA.tables)


MSSQL_TRICKS = [
    "SELECT 1 COMMIT",
    "SELECT 1 AS a FROM ads.Ad COMMIT",
    f"SELECT 1 {INSERT} COMMIT",
    "SELECT 1 COMMIT DROP TABLE ads.Ad",
    "SELECT 1 EXEC sp_who",
    "SELECT NEXT VALUE FOR etl.BatchNumber",
    "SELECT a FROM OPENROWSET('x', 'y', 'DELETE FROM ads.Ad') AS a",
    "SELECT 1 /* ; */ ; /* */ COMMIT",
]


@pytest.mark.mssql
@pytest.mark.parametrize("server_url", ["mssql"], indirect=True)
def test_two_statements_without_a_semicolon_are_refused_on_sql_server(
    warehouse: Warehouse, subtests: pytest.Subtests
) -> None:
    for sql in MSSQL_TRICKS:
        with subtests.test(sql), pytest.raises(ConfigurationError, match="give it one SELECT"):
            run_query(warehouse, sql)
    assert one(warehouse, "SELECT COUNT(*) FROM ads.Ad") == 0


def test_what_gets_past_the_parser_is_rolled_back(any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table_count(any_warehouse)
    monkeypatch.setattr("spendgate.query._require_query", lambda sql, dialect: None)
    for sql in (INSERT, "CREATE TABLE ads.Stolen (a INT)"):
        with pytest.raises(ConfigurationError):
            run_query(any_warehouse, sql)
    monkeypatch.undo()
    assert table_count(any_warehouse) == before
    assert one(any_warehouse, "SELECT COUNT(*) FROM ads.Ad") == 0


def test_nonsense_gets_a_sentence(any_warehouse: Warehouse, subtests: pytest.Subtests) -> None:
    for sql in ("SELEC 1", "SELECT FROM WHERE", "SELECT 'open", "nonsense", "SELECT * FROM ads.Nowhere"):
        with subtests.test(sql):
            with pytest.raises(ConfigurationError) as failure:
                run_query(any_warehouse, sql)
            assert "\n" not in str(failure.value)
            assert str(failure.value).endswith(".")


def test_the_sentence_is_about_what_was_written_not_about_its_translation(warehouse: Warehouse) -> None:
    with pytest.raises(ConfigurationError, match='column "nowhere" does not exist'):
        run_query(warehouse, "SELECT nowhere FROM ads.Ad")


def test_a_query_leaves_the_next_transaction_as_it_was(any_warehouse: Warehouse) -> None:
    one(any_warehouse, "SELECT 1")
    with any_warehouse.transaction() as transaction:
        transaction.next_batch_id()


def test_a_warehouse_that_is_away_is_not_blamed_on_the_query() -> None:
    away = Warehouse("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(WarehouseUnavailableError, match="can't be reached"):
        run_query(away, "SELECT 1")


def test_a_wrong_password_is_not_blamed_on_the_query(postgres_url: URL) -> None:
    with pytest.raises(WarehouseAccessError, match="check user, password"):
        run_query(Warehouse(postgres_url.set(password="wrong")), "SELECT 1")
