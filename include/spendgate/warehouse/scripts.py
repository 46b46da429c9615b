"""Many statements without parameters in one go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from sqlalchemy import Connection


def run_script(connection: Connection, statements: Iterable[str]) -> None:
    """Run statements in the connection's transaction: one by one, the way there and back is most of what they cost.

    They go to the driver as they are: nothing is bound, and a percent sign or a colon means itself.
    """
    script = ";\n".join(statements)
    if not script:
        return
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(script)
        while cursor.nextset():  # an error of a later statement shows when its answer is asked for
            pass
