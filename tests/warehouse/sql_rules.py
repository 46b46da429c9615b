"""The subset of T-SQL that sql/ keeps to (docs/sql-subset.md), as rules: each returns what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sqlglot
from sqlalchemy import String, Unicode
from sqlalchemy.dialects import mssql
from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from spendgate.errors import ConfigurationError
from spendgate.warehouse.schema import VIEWS
from spendgate.warehouse.statements import SQL_ROOT, parse_tsql, translate_statement
from spendgate.warehouse.tables import METADATA

TABLES = {f"{table.schema}.{table.name}": table for table in METADATA.tables.values()}
TEXT_COLUMNS = {column.name for table in TABLES.values() for column in table.columns if isinstance(column.type, String)}
# What people write; the others hold codes of ours, or two letters.
FREE_TEXTS = {column.name for table in TABLES.values() for column in table.columns if isinstance(column.type, Unicode)}
BITS = {
    name: {column.name for column in table.columns if isinstance(column.type.dialect_impl(mssql.dialect()), mssql.BIT)}
    for name, table in TABLES.items()
}
VERBS = """
    assert build count create decide delete enqueue find forget group insert list mark rank remember take touch update
"""
HEADER = ("Purpose", "Parameters", "Grain", "Rerun")
PARAMETER_TYPES = frozenset({"BIGINT", "INT", "DATE", "DATETIME2(3)"})

# Everything a statement may be made of, as sqlglot's tree names it. A node that isn't here may well be all right:
# try it on both engines, then add it here and to docs/sql-subset.md.
STATEMENTS = frozenset({"Select", "Insert", "Update", "Delete", "Create", "Union", "Except"})
_PARTS = """
    From Join Lateral Subquery Table TableAlias Schema Where Group Having Order Ordered Distinct Limit Window WindowSpec
    Alias Column Identifier Var Parameter Literal Null Star Paren Add Sub Neg And Or Not EQ NEQ GT GTE LT LTE
    Between In Is Exists Case If Coalesce Cast DataType DataTypeParam DateAdd Lower Concat
    Mul Div
    Count Sum Min Max Lag Lead RowNumber
"""
ALLOWED = STATEMENTS | frozenset(_PARTS.split())
REASONS = {
    "Merge": "MERGE has known bugs on SQL Server: write an UPDATE ... FROM and an INSERT ... WHERE NOT EXISTS",
    "DateDiff": "DATEDIFF counts boundaries, PostgreSQL's translation doesn't: store the time or compare ranges",
    "TryCast": "TRY_CAST raises on PostgreSQL: check the value when it is decoded",
    "CurrentTimestamp": "the clock comes as a parameter (@now), so that a rerun and a test can set it",
    "NullSafeNEQ": "SQL Server before 2022 has no IS DISTINCT FROM: write EXISTS (SELECT a EXCEPT SELECT b)",
    "NullSafeEQ": "SQL Server before 2022 has no IS NOT DISTINCT FROM: write NOT EXISTS (SELECT a EXCEPT SELECT b)",
    "WithTableHint": "hints mean nothing to PostgreSQL: lock by spendgate.warehouse.engine.Lock",
    "QueryOption": "hints mean nothing to PostgreSQL: leave the plan to the engine",
    "Boolean": "T-SQL has no TRUE or FALSE: compare flags with 1 and 0",
    "Returning": "OUTPUT isn't translated: count rows by Transaction.execute, or select them",
    "Into": "SELECT INTO makes a table: insert into a work table of spendgate.warehouse.tables",
    "Declare": "no procedural code: one statement a file, values as parameters",
    "Set": "no procedural code: sessions are set up in spendgate.warehouse.engine",
    "Execute": "no procedural code: one statement a file",
    "IfBlock": "no procedural code: decide in Python which statement to run",
    "WhileBlock": "no procedural code: loop in Python",
    "Command": "sqlglot doesn't understand it: write it plainly",
    "NextValueFor": "numbers come from Transaction.next_batch_id",
    "TruncateTable": "work tables are emptied by Transaction.empty",
    "DPipe": "|| isn't T-SQL before SQL Server 2025: join texts in Python",
    "With": "a CTE is a table without a schema: write a derived table",
}
CAST_TYPES = frozenset({"BIGINT", "INTEGER", "DATE", "DATETIME2(3)", "NUMERIC(19, 4)", "NUMERIC(28, 4)", "CHAR(36)"})
DATEADD_UNITS = frozenset({"HOUR", "DAY"})


@dataclass(frozen=True)
class File:
    """One SQL file as the rules look at it."""

    name: str  # folder/stem
    source: str

    @cached_property
    def tree(self) -> exp.Expr:
        return parse_tsql(self.name, self.source)

    @cached_property
    def tokens(self) -> list[Token]:
        return sqlglot.tokenize(self.source, read="tsql")

    @cached_property
    def header(self) -> dict[str, str]:
        """The lines `-- Key: text` at the top; a line that goes on is indented."""
        found: dict[str, str] = {}
        key = ""
        for line in self.source.splitlines():
            start = re.fullmatch(r"-- ([A-Z][a-z]+): (.+)", line)
            if start:
                key = start.group(1)
                found[key] = start.group(2)
            elif key and line.startswith("--   "):
                found[key] += " " + line[5:]
            else:
                break
        return found

    @cached_property
    def declared(self) -> dict[str, str]:
        """Parameters and their types as the header declares them."""
        return dict(re.findall(r"@(\w+) ([A-Z0-9]+(?:\(\d+\))?)", self.header.get("Parameters", "")))


def every_file() -> list[File]:
    """All SQL files but migrations."""
    return [
        File(f"{path.parent.name}/{path.stem}", path.read_text(encoding="utf-8"))
        for path in sorted(Path(SQL_ROOT).glob("*/*.sql"))
    ]


Rule = Callable[[File], Iterator[str]]


def is_one_statement(file: File) -> Iterator[str]:
    try:
        tree = file.tree
    except ConfigurationError as error:
        yield str(error)
        return
    if type(tree).__name__ not in STATEMENTS:
        yield f"begin with SELECT, INSERT, UPDATE or DELETE: {_reason(tree)}"
    if isinstance(tree, exp.Create) != file.name.startswith("views/"):
        yield "views, and nothing else, live in sql/views"
    if file.tokens[-1].token_type is not TokenType.SEMICOLON or not file.source.endswith(";\n"):
        yield "end the file with a semicolon and a line end"


def is_named_verb_object(file: File) -> Iterator[str]:
    stem = file.name.partition("/")[2]
    if not re.fullmatch(r"[a-z]+(_[a-z]+)+", stem) or stem.partition("_")[0] not in VERBS.split():
        yield f"name the file verb_object; verbs so far: {VERBS.strip()}"


def has_a_header(file: File) -> Iterator[str]:
    if tuple(file.header) != HEADER:
        yield f"begin with the lines {', '.join(f'-- {key}: ...' for key in HEADER)}, in this order"
    if any(line.lstrip().startswith("/*") or "--" in line for line in _statement_lines(file)):
        yield "put remarks into the header: a remark in a statement is sent with it, and its colons count as parameters"


def declares_its_parameters(file: File) -> Iterator[str]:
    used = {node.name for node in file.tree.find_all(exp.Parameter)}
    if used != file.declared.keys():
        yield f"declare @{', @'.join(sorted(used)) or 'nothing'} under Parameters; declared: {sorted(file.declared)}"
    if not used and file.header.get("Parameters") != "none":
        yield "write '-- Parameters: none'"
    for name, kind in file.declared.items():
        if kind not in PARAMETER_TYPES:
            yield f"give @{name} a type of {', '.join(sorted(PARAMETER_TYPES))}"


def keeps_to_the_subset(file: File) -> Iterator[str]:
    for node in file.tree.walk():
        if type(node).__name__ not in ALLOWED:
            yield f"{node.sql('tsql')[:60]}: {_reason(node)}"
    for cast in file.tree.find_all(exp.Cast):
        if (kind := cast.to.sql("tsql")) not in CAST_TYPES:
            yield f"CAST AS {kind}: only {', '.join(sorted(CAST_TYPES))} mean the same on both engines"
    for shift in file.tree.find_all(exp.DateAdd):
        if (unit := str(shift.args.get("unit"))) not in DATEADD_UNITS:
            yield f"DATEADD by {unit}: only {', '.join(sorted(DATEADD_UNITS))} are tried on both engines"
    for select in file.tree.find_all(exp.Select):
        if select.args.get("windows"):
            yield "WINDOW: SQL Server before 2022 has no such clause; write each OVER in full"


def divides_decimals_only(file: File) -> Iterator[str]:
    for node in file.tree.find_all(exp.Mul, exp.Div):
        outermost, first = node, node.this
        while isinstance(outermost.parent, exp.Mul | exp.Div):
            outermost = outermost.parent
        while isinstance(first, exp.Mul | exp.Div):
            first = first.this
        decimals = [cast.to.sql("tsql") if isinstance(cast, exp.Cast) else "" for cast in (outermost.parent, first)]
        if not all(kind.startswith("NUMERIC") for kind in decimals):
            yield (
                f"{node.sql('tsql')}: whole numbers divide otherwise on each engine; "
                "write CAST(CAST(a AS DECIMAL(28, 4)) / b * c AS DECIMAL(28, 4))"
            )


def aggregates_plain_values(file: File) -> Iterator[str]:
    for aggregate in file.tree.find_all(exp.AggFunc):
        if aggregate.find(exp.Query):
            yield f"{aggregate.sql('tsql')[:60]}: SQL Server aggregates over no subquery; join what it looks up"
        if isinstance(aggregate, exp.Sum | exp.Min | exp.Max) and isinstance(aggregate.this, exp.Column):
            select = aggregate.find_ancestor(exp.Select)
            if select is not None and _is_bit(aggregate.this, select):
                yield f"{aggregate.sql('tsql')}: no {aggregate.sql_name()} of BIT on SQL Server; write a CASE"


def says_top_not_limit(file: File) -> Iterator[str]:
    if any(token.token_type is TokenType.LIMIT and token.text.upper() == "LIMIT" for token in file.tokens):
        yield "LIMIT isn't T-SQL: write TOP"


def quotes_no_names(file: File) -> Iterator[str]:
    for identifier in file.tree.find_all(exp.Identifier):
        if identifier.quoted:
            yield f"{identifier.sql('tsql')}: write names unquoted; PostgreSQL would keep the capitals of a quoted one"


def selects_named_columns(file: File) -> Iterator[str]:
    for star in file.tree.find_all(exp.Star):
        if not isinstance(star.parent, exp.Count):
            yield "SELECT *: name the columns, a new one in a table must not change a statement"
    for select in file.tree.find_all(exp.Select):
        for column in select.expressions:
            if isinstance(column.unalias().unnest(), exp.Predicate):
                yield f"{column.sql('tsql')}: T-SQL selects no conditions; write CASE WHEN ... THEN 1 ELSE 0 END"


def names_tables_in_full(file: File) -> Iterator[str]:
    known = {*TABLES, *(f"ads.{view}" for view in VIEWS)}
    for table in file.tree.find_all(exp.Table):
        if table.name and (name := f"{table.db}.{table.name}") not in known:
            yield f"{name}: write schema.Table as in spendgate.warehouse.tables, capitals included"
    for column in file.tree.find_all(exp.Column):
        if column.name != column.name.lower():
            yield f"{column.name}: write columns in lower case; a server may tell capitals apart"


def inserts_named_columns(file: File) -> Iterator[str]:
    if not isinstance(file.tree, exp.Insert):
        return
    if not isinstance(file.tree.this, exp.Schema):
        yield "name the columns after INSERT INTO"
        return
    columns = [column.name for column in file.tree.this.expressions]
    source = file.tree.expression
    selected = source.named_selects if isinstance(source, exp.Query) else []
    if columns != selected:
        yield f"select the columns under the names and in the order in which they are inserted: {columns} != {selected}"


def changes_its_target_plainly(file: File) -> Iterator[str]:
    if not isinstance(file.tree, exp.Update | exp.Delete):
        return
    target = file.tree.this
    if not isinstance(target, exp.Table) or not target.db or target.alias:
        yield "name the target of UPDATE and DELETE as schema.Table, without an alias: sqlglot can't follow an alias"
        return
    if isinstance(file.tree, exp.Delete) and (file.tree.args.get("tables") or file.tree.args.get("using")):
        yield "write DELETE FROM schema.Table WHERE EXISTS (...): a joined DELETE isn't translated"
    source = file.tree.args.get("from_")
    if source is not None and any(table == target for table in _without_alias(source)):
        yield "an UPDATE's target in its own FROM is, to SQL Server, the target itself: use WHERE EXISTS (...)"


def orders_by_what_is_never_null(file: File) -> Iterator[str]:
    for ordered in file.tree.find_all(exp.Ordered):
        select = ordered.find_ancestor(exp.Select)
        for column in ordered.find_all(exp.Column):
            if select is not None and _is_nullable(column, select):
                yield f"ORDER BY {column.sql('tsql')}: it can be NULL, which the engines sort to different ends"


def orders_where_it_counts(file: File) -> Iterator[str]:
    for select in file.tree.find_all(exp.Select):
        outermost = isinstance(select.parent, exp.Insert | None)
        if select.args.get("order") and not select.args.get("limit") and not outermost:
            yield "ORDER BY in a derived table without TOP: SQL Server refuses it"


def joins_no_texts(file: File) -> Iterator[str]:
    for sum_ in file.tree.find_all(exp.Add):
        for side in (sum_.left, sum_.right):
            if side.is_string or (isinstance(side, exp.Column) and side.name in TEXT_COLUMNS):
                yield f"{sum_.sql('tsql')}: + joins texts in T-SQL only; join them in Python"


def compares_texts_to_their_end(file: File) -> Iterator[str]:
    for operation in file.tree.find_all(exp.Except, exp.Intersect):
        for side in (operation.left, operation.right):
            selected = [column.unalias() for column in side.selects]
            ended = [joined.expressions[0] for joined in selected if isinstance(joined, exp.Concat)]
            for column in selected:
                if isinstance(column, exp.Column) and column.name in FREE_TEXTS and column not in ended:
                    yield (
                        f"{column.sql('tsql')}: to SQL Server texts that differ in trailing spaces are equal; "
                        f"select CONCAT({column.sql('tsql')}, '.') as well"
                    )


def has_no_colon_in_texts(file: File) -> Iterator[str]:
    for literal in file.tree.find_all(exp.Literal):
        if literal.is_string and (":" in literal.name or "\\" in literal.name):
            yield f"{literal.sql()}: a colon or backslash in a text is taken for a parameter; pass the text as one"


def translates(file: File) -> Iterator[str]:
    try:
        statement = translate_statement(file.name, file.source, "postgresql")
        # As a driver's placeholder: some parameters are named like keywords.
        trees = sqlglot.parse(re.sub(r"(?<!:):(\w+)", r"%(\1)s", statement.text.text), read="postgres")
    except sqlglot.errors.SqlglotError as error:
        yield f"its PostgreSQL doesn't parse, write it more plainly: {str(error).splitlines()[0]}"
        return
    bound = {node.name for tree in trees if tree is not None for node in tree.find_all(exp.Placeholder)}
    native = translate_statement(file.name, file.source, "mssql").parameters
    if len(trees) != 1 or not bound == statement.parameters == native:
        yield f"its PostgreSQL takes {sorted(bound)}, its T-SQL {sorted(native)}: keep parameters out of texts"


RULES: tuple[Rule, ...] = (
    is_named_verb_object,
    has_a_header,
    declares_its_parameters,
    keeps_to_the_subset,
    divides_decimals_only,
    aggregates_plain_values,
    says_top_not_limit,
    quotes_no_names,
    selects_named_columns,
    names_tables_in_full,
    inserts_named_columns,
    changes_its_target_plainly,
    orders_by_what_is_never_null,
    orders_where_it_counts,
    joins_no_texts,
    compares_texts_to_their_end,
    has_no_colon_in_texts,
    translates,
)


def broken(file: File) -> list[str]:
    """What to change in `file`, each with the rule's name."""
    found = [f"{is_one_statement.__name__}: {what}" for what in is_one_statement(file)]
    if any("is not T-SQL" in what or "holds" in what for what in found):
        return found
    return found + [f"{rule.__name__}: {what}" for rule in RULES for what in rule(file)]


def _reason(node: exp.Expr) -> str:
    name = type(node).__name__
    return REASONS.get(name, f"{name} isn't in the subset; try it on both engines, then add it to ALLOWED and the docs")


def _statement_lines(file: File) -> list[str]:
    lines = file.source.splitlines()
    return lines[next((at for at, line in enumerate(lines) if not line.startswith("--")), len(lines)) :]


def _without_alias(source: exp.Expr) -> Iterator[exp.Expr]:
    """Tables that stand directly in FROM, not in a derived table of it."""
    for table in source.find_all(exp.Table):
        if table.find_ancestor(exp.Subquery) is None:
            bare = table.copy()
            bare.set("alias", None)
            yield bare


def _is_nullable(column: exp.Column, select: exp.Select) -> bool:
    """Whether a column of a select's sources can be NULL, as far as can be told without an engine."""
    for source, optional in _sources(select):
        if source.alias_or_name != column.table:
            continue
        if optional:
            return True
        if isinstance(source, exp.Table):
            table = TABLES.get(f"{source.db}.{source.name}")
            return table is not None and column.name in table.columns and bool(table.columns[column.name].nullable)
        return any(_gives_null(branch, column.name) for branch in _branches(source.this))
    return False


def _is_bit(column: exp.Column, select: exp.Select) -> bool:
    """Whether a column is BIT on SQL Server, also by way of derived tables that pass it on as it is."""
    for source, _ in _sources(select):
        if source.alias_or_name != column.table:
            continue
        if isinstance(source, exp.Table):
            return column.name in BITS.get(f"{source.db}.{source.name}", ())
        passed_on = [
            (value.unalias(), branch)
            for branch in _branches(source.this)
            for value in branch.expressions
            if value.alias_or_name == column.name
        ]
        return all(isinstance(value, exp.Column) and _is_bit(value, branch) for value, branch in passed_on)
    return False


def _sources(select: exp.Select) -> Iterator[tuple[exp.Expr, bool]]:
    """(table or derived table, whether the join can leave its columns NULL)."""
    if select.args.get("from_") is not None:
        yield select.args["from_"].this, False
    for join in select.args.get("joins") or []:
        outer_apply = isinstance(join.this, exp.Lateral) and join.this.args.get("cross_apply") is False
        yield join.this, join.side in ("LEFT", "FULL") or outer_apply


def _branches(source: exp.Expr) -> Iterator[exp.Select]:
    """The selects that a derived table is made of."""
    if isinstance(source, exp.Select):
        yield source
    elif isinstance(source, exp.SetOperation):
        yield from _branches(source.left)
        yield from _branches(source.right)
    elif isinstance(source, exp.Subquery):
        yield from _branches(source.this)


def _gives_null(select: exp.Select, name: str) -> bool:
    for projection in select.expressions:
        if projection.alias_or_name == name:
            value = projection.unalias()
            return isinstance(value, exp.Null) or (isinstance(value, exp.Column) and _is_nullable(value, select))
    return False
