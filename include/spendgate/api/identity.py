"""Who calls, and what that one may see."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from spendgate.api.problems import ProblemError, not_found


class Scope(StrEnum):
    """What a key may be made for; people may all of it."""

    FLAGS = "flags"
    BUDGETS = "budgets"
    SPEND = "spend"
    CATALOG = "catalog"


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user or a key. `session` is the log-in of a user's token."""

    kind: str  # "user" or "key"
    id: int
    name: str
    is_staff: bool
    advertiser_id: int | None
    scopes: frozenset[Scope] = ALL_SCOPES
    session: str | None = None

    @property
    def label(self) -> str:
        """What logs and rate limits call it."""
        return f"{self.kind}:{self.id}"

    @property
    def only(self) -> int:
        """The one advertiser to which lists are kept; 0: all, -1: none."""
        return 0 if self.is_staff else self.advertiser_id or -1

    def require(self, scope: Scope) -> None:
        """Raise a 403 problem unless it may do this."""
        if scope not in self.scopes:
            raise ProblemError(403, "scope_missing", f"This key has no scope {scope}: use one that has it.")

    def require_sight(self, advertiser_id: int) -> None:
        """Raise a 404 problem unless it may see this advertiser."""
        if not self.is_staff and self.advertiser_id != advertiser_id:
            raise not_found()
