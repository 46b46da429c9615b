"""No T-SQL of ours is newer than SQL Server 2019, wherever it stands: files, migrations, Python, pages for people.

Files in sql/ are held to far less than that (test_sql_rules.py). Here it is about the rest, which no server that is
newer, and none that only speaks like one, would refuse.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# Functions by the version that brought them:
# https://learn.microsoft.com/sql/sql-server/what-s-new-in-sql-server-2022, and -2025.
NEWER = {
    2022: """
        APPROX_PERCENTILE_CONT APPROX_PERCENTILE_DISC BIT_COUNT DATETRUNC DATE_BUCKET GENERATE_SERIES GET_BIT GREATEST
        JSON_ARRAY JSON_OBJECT JSON_PATH_EXISTS LEAST LEFT_SHIFT RIGHT_SHIFT SET_BIT
    """,
    2025: """
        AI_GENERATE_CHUNKS AI_GENERATE_EMBEDDINGS BASE64_DECODE BASE64_ENCODE EDIT_DISTANCE EDIT_DISTANCE_SIMILARITY
        JARO_WINKLER_DISTANCE JARO_WINKLER_SIMILARITY JSON_ARRAYAGG JSON_CONTAINS JSON_OBJECTAGG PRODUCT REGEXP_COUNT
        REGEXP_INSTR REGEXP_LIKE REGEXP_MATCHES REGEXP_REPLACE REGEXP_SPLIT_TO_TABLE REGEXP_SUBSTR UNISTR
        VECTOR_DISTANCE VECTOR_NORM VECTOR_NORMALIZE VECTOR_SEARCH
    """,
}
CALLS = {name: version for version, names in NEWER.items() for name in names.split()}
CALL = re.compile(r"\b([A-Z][A-Z0-9_]+)\s*\(")
FORMS = {
    r"\bIS\s+(NOT\s+)?DISTINCT\s+FROM\b": 2022,
    r"\bWINDOW\s+\w+\s+AS\s*\(": 2022,
    r"\b(IGNORE|RESPECT)\s+NULLS\b": 2022,
    r"\bTRIM\s*\(\s*(LEADING|TRAILING|BOTH)\b": 2022,
    r"\bSTRING_SPLIT\s*\([^()]*,[^()]*,": 2022,
    r"\bXML_COMPRESSION\b": 2022,
    r"\bCURRENT_DATE\b": 2025,
    r"[\w')] \|\| [\w'(@]": 2025,
}
# SQLAlchemy's ways to say them.
EXPRESSIONS = re.compile(rf"\bfunc\.({'|'.join(CALLS)})\(|\.(is_distinct_from|regexp_match)\(", re.IGNORECASE)


def newer(sql: str) -> list[str]:
    """What in `sql` SQL Server 2019 doesn't know, and since when there is it."""
    called = [f"{name} ({CALLS[name]})" for name in CALL.findall(sql) if name in CALLS]
    formed = [f"{found[0]} ({version})" for form, version in FORMS.items() if (found := re.search(form, sql))]
    return [*called, *formed]


def t_sql(root: Path) -> Iterator[tuple[str, str]]:
    """(place, text): every text that is or may be T-SQL. Benchmarks and the laptop talk to PostgreSQL alone."""
    for path in (root / "sql").rglob("*.sql"):
        yield str(path.relative_to(root)), re.sub(r"--[^\n]*", "", path.read_text("utf-8"))
    for path in [*(root / "include/spendgate").rglob("*.py"), *(root / "sql").rglob("*.py")]:
        place = str(path.relative_to(root))
        if place.startswith(("include/spendgate/bench", "include/spendgate/local")):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{place}:{node.lineno}", node.value
    for path in [root / "README.md", *(root / "docs").rglob("*.md")]:
        for block in re.findall(r"^```(?:sql)?\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            yield str(path.relative_to(root)), block


def test_no_t_sql_is_newer_than_sql_server_2019(root: Path) -> None:
    texts = list(t_sql(root))
    assert len({place.partition(":")[0] for place, text in texts if "SELECT" in text}) > 90
    found = [f"{place}: {what}" for place, text in texts for what in newer(text)]
    assert found == [], "SQL Server 2019 is the oldest that we run on"


def test_no_expression_of_sqlalchemy_becomes_such_t_sql(root: Path) -> None:
    for path in (root / "include/spendgate").rglob("*.py"):
        if "bench" not in path.parts:
            assert not EXPRESSIONS.search(path.read_text("utf-8")), path


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT GREATEST(a.x, a.y) FROM t AS a",
        "SELECT DATETRUNC (HOUR, a.x) FROM t AS a",
        "SELECT value FROM GENERATE_SERIES(1, 10)",
        "WHERE a.x IS NOT DISTINCT FROM a.y",
        "SELECT SUM(a.x) OVER w FROM t AS a WINDOW w AS (PARTITION BY a.y)",
        "SELECT LAST_VALUE(a.x) IGNORE NULLS OVER (ORDER BY a.y) FROM t AS a",
        "SELECT value FROM STRING_SPLIT(@x, ',', 1)",
        "SELECT TRIM(LEADING '0' FROM a.x) FROM t AS a",
        "WHERE REGEXP_LIKE(a.x, 'y')",
        "SELECT a.x || a.y FROM t AS a",
        "SELECT CURRENT_DATE AS today",
    ],
)
def test_what_is_newer_is_found(sql: str) -> None:
    assert len(newer(sql)) == 1
