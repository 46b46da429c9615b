"""People who decide: their names go into the books."""

from __future__ import annotations

from spendgate.errors import ConfigurationError

# What the columns of the books hold: etl.StreamGap.accepted_by and its like.
MAX_NAME = 100


def checked_name(by: str, does: str) -> str:
    """The name of who `does` something ("accepts the loss"), without space around it.

    Raises:
        ConfigurationError: it is empty or too long.
    """
    name = by.strip()
    if not 1 <= len(name) <= MAX_NAME:
        raise ConfigurationError(f"Say who {does}, in 1 to {MAX_NAME} characters.")
    return name
