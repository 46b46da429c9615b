"""NULL as a word, not as a parameter, in what goes to SQL Server.

Of a parameter that is NULL the driver doesn't know the type, and asks the server (sp_describe_undeclared_parameters).
That costs a round trip, and if the server can't tell, the driver keeps the error to itself, while XACT_ABORT has ended
the transaction: what was done before is undone, and what is done after it is committed as if it were all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

# A placeholder as the driver takes it, or an escaped percent sign, behind which none begins.
_PLACEHOLDER = re.compile(r"%%|%\(([^)]+)\)s")


def spell_nulls(
    _connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
) -> tuple[str, Any]:
    """SQLAlchemy's event before_cursor_execute: the statement, and what is left to bind.

    Of many rows those parameters are left out that are NULL in all of them; of the others the driver knows the type.
    """
    single = isinstance(parameters, Mapping)
    rows: Sequence[Mapping[str, Any]] = [parameters] if single else parameters
    if not rows or not isinstance(rows[0], Mapping):
        return statement, parameters
    nulls = {name for name in rows[0] if all(row[name] is None for row in rows)}
    if not nulls or (not single and len(nulls) == len(rows[0])):
        return statement, parameters
    spelt = _PLACEHOLDER.sub(lambda found: "NULL" if found[1] in nulls else found[0], statement)
    kept = [{name: value for name, value in row.items() if name not in nulls} for row in rows]
    return spelt, kept[0] if single else kept
