"""Every SQL file keeps to the subset of docs/sql-subset.md, and every rule of it can fail."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlfluff.core import FluffConfig, Linter

from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.statements import SQL_ROOT
from tests.warehouse import sql_rules
from tests.warehouse.sql_rules import File, broken, every_file

FILES = every_file()
SAMPLE = {"BIGINT": 1, "INT": 1, "DATE": date(2026, 11, 21), "DATETIME2(3)": datetime(2026, 11, 21, 8, tzinfo=UTC)}


@pytest.fixture(scope="module")
def linter() -> Linter:
    return Linter(config=FluffConfig.from_path(str(SQL_ROOT)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_statement_keeps_to_the_subset(file: File) -> None:
    assert broken(file) == [], f"sql/{file.name}.sql leaves the subset of docs/sql-subset.md"


def linted(linter: Linter, file: File) -> list[str]:
    found = linter.lint_string(file.source, fname=f"sql/{file.name}.sql").get_violations()
    return [f"line {violation.line_no}: {violation.rule_code()} {violation.desc()}" for violation in found]


@pytest.mark.untraced
def test_every_statement_passes_sqlfluffs_tsql_dialect(linter: Linter, subtests: pytest.Subtests) -> None:
    for file in FILES:
        with subtests.test(file.name):
            assert linted(linter, file) == [], "run sqlfluff lint sql"


def called_names(root: Path) -> list[re.Pattern[str]]:
    """Patterns of "folder/statement" as the library spells it; what an f-string fills in is any word."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (root / "include").rglob("*.py"))
    spelt = re.findall(r'"((?:quality|merge|spend|flags|checks|api|reconcile|purge)/[\w{}]+)"', source)
    return [re.compile(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(name))) for name in spelt]


def is_called(file: File, names: list[re.Pattern[str]]) -> bool:
    run_by_folder = file.name.startswith(("views/", "checks/assert_"))
    return run_by_folder or any(name.fullmatch(file.name) for name in names)


def test_every_statement_is_run_by_the_library(root: Path) -> None:
    names = called_names(root)
    idle = [file.name for file in FILES if not is_called(file, names)]
    assert idle == [], "delete statements that nothing runs, or run them"


def test_a_statement_that_nothing_runs_is_found(root: Path) -> None:
    assert not is_called(File("merge/insert_nothing", ""), called_names(root))


def test_every_statement_runs_on_an_empty_warehouse(any_warehouse: Warehouse, subtests: pytest.Subtests) -> None:
    """A column or type that isn't there fails here, on each engine, without a row of data."""
    for file in FILES:
        if file.name.startswith("views/"):
            continue  # migrate made them, and test_schema selects from them
        parameters = {name: SAMPLE[kind] for name, kind in file.declared.items()}
        with subtests.test(file.name), any_warehouse.transaction(read_only=False) as transaction:
            if "\nSELECT" in file.source and not re.search(r"^(INSERT|UPDATE|DELETE)", file.source, re.MULTILINE):
                rows = transaction.rows(file.name, **parameters)
                assert len(rows) == (1 if file.header["Grain"] == "one row" else 0)
            else:
                assert transaction.execute(file.name, **parameters) == 0
            transaction.connection.rollback()


# --- Each rule can fail ------------------------------------------------------------------------------------

GOOD = """\
-- Purpose: the hours of an advertiser's day.
-- Parameters: @day DATE; @now DATETIME2(3): an instant,
--   UTC
-- Grain: one row an hour
-- Rerun: selects only
SELECT
    k.advertiser_id,
    COUNT(*) AS windows
FROM staging.CheckedDay AS k
LEFT JOIN ads.SpendSummary AS s
    ON s.advertiser_id = k.advertiser_id
        AND s.window_start >= @now
WHERE k.date_key = @day
GROUP BY k.advertiser_id
ORDER BY k.advertiser_id;
"""
NO_PARAMETERS = "-- Purpose: p.\n-- Parameters: none\n-- Grain: g\n-- Rerun: r\n"


def statement(text: str) -> str:
    return f"{NO_PARAMETERS}{text};\n"


def test_a_good_statement_breaks_no_rule(linter: Linter) -> None:
    file = File("checks/list_hours", GOOD)
    assert broken(file) == []
    assert linted(linter, file) == []


def where(condition: str) -> str:
    return statement(f"SELECT a.ad_id FROM ads.Ad AS a WHERE {condition}")


def column(value: str) -> str:
    return statement(f"SELECT {value} AS x FROM ads.Ad AS a")


BAD = [
    ("is_one_statement", statement("SELECT a.ad_id FROM ads.Ad AS a; DELETE FROM ads.Ad")),
    ("is_one_statement", statement("SELECT a.ad_id FROM ads.Ad AS a")[:-2]),
    ("is_one_statement", statement("SELEC FROM WHERE")),
    ("is_one_statement", statement("DECLARE @day DATE")),
    ("is_one_statement", statement("CREATE VIEW ads.CurrentServing AS SELECT a.ad_id FROM ads.Ad AS a")),
    ("has_a_header", GOOD.replace("-- Grain: one row an hour\n", "")),
    ("has_a_header", GOOD.replace("-- Rerun: selects only\n", "").replace("-- Purpose", "-- Rerun: r\n-- Purpose")),
    ("has_a_header", GOOD.replace("WHERE", "-- why: because\nWHERE")),
    ("has_a_header", GOOD.replace("WHERE", "/* why */ WHERE")),
    ("declares_its_parameters", GOOD.replace("@day DATE; ", "")),
    ("declares_its_parameters", GOOD.replace("@day DATE; ", "@day DATE; @more INT; ")),
    ("declares_its_parameters", GOOD.replace("@day DATE", "@day NVARCHAR")),
    ("declares_its_parameters", statement("SELECT 1 AS x").replace("none", "nothing")),
    (
        "keeps_to_the_subset: MERGE",
        statement("MERGE INTO ads.Ad AS a USING ads.Ad AS b ON a.ad_id = b.ad_id WHEN MATCHED THEN DELETE"),
    ),
    ("no procedural code", statement("EXEC sp_who")),
    ("no procedural code", statement("IF 1 = 1 SELECT 1 AS x")),
    ("no procedural code", statement("WHILE 1 = 1 SELECT 1 AS x")),
    ("no procedural code", statement("SET NOCOUNT ON")),
    ("write it plainly", statement("BEGIN TRY SELECT 1 AS x END TRY")),
    ("DATEDIFF", column("DATEDIFF(HOUR, a.created_at, a.updated_at)")),
    ("TRY_CAST", column("TRY_CAST(a.ad_title AS INT)")),
    ("the clock comes as a parameter", column("GETDATE()")),
    ("the clock comes as a parameter", column("CURRENT_TIMESTAMP")),
    ("Anonymous isn't in the subset", column("SYSUTCDATETIME()")),
    ("isn't in the subset", column("STRING_AGG(a.ad_title, ',')")),
    ("divides_decimals_only", column("a.ad_id / 2")),
    ("divides_decimals_only", column("CAST(a.ad_id * 2 AS DECIMAL(28, 4))")),
    ("divides_decimals_only", column("CAST(a.ad_id AS DECIMAL(28, 4)) / 2")),
    ("|| isn't T-SQL", column("a.ad_title || 'x'")),
    ("IS DISTINCT FROM", where("a.ad_format IS DISTINCT FROM a.ad_title")),
    ("no TRUE or FALSE", where("a.is_active = TRUE")),
    ("hints mean nothing", statement("SELECT a.ad_id FROM ads.Ad AS a WITH (NOLOCK)")),
    ("hints mean nothing", statement("SELECT a.ad_id FROM ads.Ad AS a OPTION (RECOMPILE)")),
    ("OUTPUT isn't translated", statement("UPDATE ads.Ad SET is_active = 0 OUTPUT inserted.ad_id")),
    ("SELECT INTO makes a table", statement("SELECT a.ad_id INTO ads.ClickEvent FROM ads.Ad AS a")),
    ("Transaction.empty", statement("TRUNCATE TABLE ads.Ad")),
    ("next_batch_id", column("NEXT VALUE FOR etl.BatchNumber")),
    ("derived table", statement("WITH c AS (SELECT a.ad_id FROM ads.Ad AS a) SELECT c.ad_id FROM c")),
    ("CAST AS BIT", column("CAST(a.is_active AS BIT)")),
    ("CAST AS FLOAT", column("CAST(a.ad_id AS FLOAT)")),
    ("DATEADD by MONTH", column("DATEADD(MONTH, 1, a.created_at)")),
    ("WINDOW", statement("SELECT SUM(a.ad_id) OVER w AS x FROM ads.Ad AS a WINDOW w AS (PARTITION BY a.ad_id)")),
    ("no SUM of BIT", column("SUM(a.is_active)")),
    ("no MAX of BIT", statement("SELECT MAX(d.f) AS x FROM (SELECT a.is_active AS f FROM ads.Ad AS a) AS d")),
    (
        "aggregates_plain_values",
        column("SUM(CASE WHEN EXISTS (SELECT 1 FROM ads.Advertiser AS d WHERE d.advertiser_id = a.ad_id) THEN 1 END)"),
    ),
    ("says_top_not_limit", statement("SELECT a.ad_id FROM ads.Ad AS a LIMIT 1")),
    ("quotes_no_names", statement("SELECT a.[ad_id] FROM ads.Ad AS a")),
    ("quotes_no_names", statement('SELECT a.ad_id FROM ads."Ad" AS a')),
    ("SELECT *", statement("SELECT * FROM ads.Ad AS a")),
    ("SELECT *", statement("SELECT a.* FROM ads.Ad AS a")),
    ("selects no conditions", column("(a.ad_id > 1)")),
    ("names_tables_in_full", statement("SELECT a.ad_id FROM Ad AS a")),
    ("names_tables_in_full", statement("SELECT a.ad_id FROM ads.Adverts AS a")),
    ("names_tables_in_full", statement("SELECT a.ad_id FROM ads.AD AS a")),
    ("names_tables_in_full", statement("SELECT a.ad_id FROM #work AS a")),
    ("in lower case", statement("SELECT a.AD_ID FROM ads.Ad AS a")),
    (
        "inserts_named_columns",
        statement("INSERT INTO staging.ContestedClick SELECT c.click_id FROM ads.ClickEvent AS c"),
    ),
    (
        "inserts_named_columns",
        statement(
            "INSERT INTO staging.TouchedBudget (advertiser_id, event_time) "
            "SELECT b.event_time, b.advertiser_id FROM ads.BudgetEvent AS b"
        ),
    ),
    ("changes_its_target_plainly", statement("UPDATE a SET ad_title = 'x' FROM ads.Ad AS a")),
    (
        "changes_its_target_plainly",
        statement("UPDATE ads.Ad SET ad_title = 'x' FROM ads.Ad AS b WHERE b.ad_id = ads.Ad.ad_id"),
    ),
    ("changes_its_target_plainly", statement("DELETE a FROM ads.Ad AS a")),
    ("orders_by_what_is_never_null", statement("SELECT a.ad_id FROM ads.Ad AS a ORDER BY a.ad_format")),
    (
        "orders_by_what_is_never_null",
        statement(
            "SELECT a.ad_id FROM ads.Ad AS a "
            "LEFT JOIN ads.Advertiser AS d ON d.advertiser_id = a.advertiser_id ORDER BY d.name"
        ),
    ),
    (
        "orders_by_what_is_never_null",
        statement("SELECT d.f FROM (SELECT a.ad_format AS f FROM ads.Ad AS a) AS d ORDER BY d.f"),
    ),
    (
        "orders_by_what_is_never_null",
        statement(
            "SELECT g.b FROM ads.Ad AS a "
            "OUTER APPLY (SELECT TOP 1 s.advertiser_id AS b FROM ads.ServingFlag AS s) AS g ORDER BY g.b"
        ),
    ),
    ("orders_by_what_is_never_null", column("SUM(a.ad_id) OVER (ORDER BY a.product_link)")),
    (
        "orders_where_it_counts",
        statement("SELECT d.ad_id FROM (SELECT a.ad_id FROM ads.Ad AS a ORDER BY a.ad_id) AS d"),
    ),
    ("joins_no_texts", column("a.ad_title + 'x'")),
    ("joins_no_texts", column("a.ad_title + a.ad_title")),
    (
        "compares_texts_to_their_end",
        where("EXISTS (SELECT a.ad_id, a.ad_title EXCEPT SELECT a.ad_id, CONCAT(a.ad_title, '.') AS t)"),
    ),
    ("has_no_colon_in_texts", where("a.ad_title = 'at :noon'")),
    ("translates", statement("SELECT a.ad_id FROM ads.Ad AS a FOR JSON PATH")),
    ("translates", column("@@ROWCOUNT")),
]


@pytest.mark.parametrize(("message", "source"), BAD)
def test_a_statement_that_leaves_the_subset_is_told_what_to_change(message: str, source: str) -> None:
    assert [what for what in broken(File("merge/insert_something", source)) if message in what]


@pytest.mark.parametrize("name", ["merge/clicks", "merge/munge_clicks", "merge/InsertClicks", "merge/insert-clicks"])
def test_a_file_that_isnt_named_verb_object_is_told_so(name: str) -> None:
    assert any("is_named_verb_object" in what for what in broken(File(name, GOOD)))


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("PRS", GOOD.replace("GROUP BY", "GRUPP BY")),
        ("CP01", GOOD.replace("SELECT", "select")),
        ("CP03", GOOD.replace("COUNT", "count")),
        ("CP05", column("CAST(a.ad_id AS bigint)")),
        ("AL01", GOOD.replace("CheckedDay AS k", "CheckedDay k")),
        ("AL02", GOOD.replace("AS windows", "windows")),
        ("AM05", statement("SELECT a.ad_id FROM ads.Ad AS a JOIN ads.Advertiser AS d ON d.advertiser_id = a.ad_id")),
        ("RF01", GOOD.replace("k.date_key", "x.date_key")),
        ("RF02", GOOD.replace("k.date_key", "date_key")),
    ],
)
def test_sqlfluff_is_set_up_to_refuse(linter: Linter, code: str, source: str) -> None:
    assert [what for what in linted(linter, File("merge/insert_something", source)) if code in what]


def test_every_rule_is_proven_to_fail() -> None:
    proven = " ".join(message for message, _ in BAD)
    sentences = "keeps_to_the_subset selects_named_columns is_named_verb_object"  # proven under their messages above
    for rule in (sql_rules.is_one_statement, *sql_rules.RULES):
        assert rule.__name__ in f"{proven} {sentences}", f"add a bad statement for {rule.__name__}"
