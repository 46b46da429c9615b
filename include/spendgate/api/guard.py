"""The one door: who calls, by token or key, and how often. Flask and the fast lane both ask here, and nowhere else.

Flask's routes verify a token's signature or a key's hash for every request, and look in the warehouse whether its user,
log-in or key still stands. The fast lane takes over what was found for the very same token or key at most `max_age`
seconds ago, and looks at the token's end each time.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import insert, literal, select, update

from spendgate.api.accounts import hash_key, prefix_of
from spendgate.api.identity import Identity, Scope
from spendgate.api.problems import ProblemError
from spendgate.api.tokens import ACCESS, Tokens, unauthorized
from spendgate.clock import Clock
from spendgate.errors import SpendGateError
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import ApiKey, ApiKeyUse, ApiSession, AppUser, Instant

log = logging.getLogger(__name__)
audit = logging.getLogger("spendgate.api.audit")

# last_used_at is for people who clean up keys: a write a request would be the dearest part of it.
USE_NOTED_EVERY = timedelta(minutes=5)
MOST_REMEMBERED = 10_000
LONGEST_CREDENTIAL = 4_096


class Limits:
    """Requests a period, counted in this process."""

    def __init__(self, requests: str, log_ins: str) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._requests, self._log_ins = parse(requests), parse(log_ins)

    def count_request(self, identity: Identity) -> None:
        """Raise a 429 problem if this identity asks too often."""
        self._count(self._requests, identity.label)

    def count_log_in(self, address: str) -> None:
        """Raise a 429 problem if log-ins come from this address too often."""
        self._count(self._log_ins, address)

    def _count(self, limit: RateLimitItem, who: str) -> None:
        if not self._limiter.hit(limit, who):
            reset = self._limiter.get_window_stats(limit, who).reset_time
            seconds = max(1, int(reset - time.time()) + 1)
            detail = f"More than {limit.amount} requests a {limit.GRANULARITY.name}: try again in {seconds} s."
            raise ProblemError(429, "too_many_requests", detail, {"Retry-After": str(seconds)})


@dataclass(slots=True)
class Guard:
    """Tells who calls."""

    warehouse: Warehouse
    clock: Clock
    tokens: Tokens
    limits: Limits
    _standing: dict[str, tuple[float, float, Identity]] = field(default_factory=dict)
    _noted: dict[int, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, authorization: str | None, api_key: str | None, *, max_age: float = 0.0) -> Identity:
        """Who calls, by the values of the headers Authorization and X-API-Key.

        Raises:
            ProblemError: 401, nobody whom we let in; 429, somebody who asks too often.
            SpendGateError: the warehouse can't be asked.
        """
        identity = self._known(authorization, api_key, max_age)
        self.limits.count_request(identity)
        return identity

    def check_again(self, authorization: str | None, api_key: str | None, *, max_age: float) -> None:
        """Raise what `check` would, within a request that was counted already."""
        self._known(authorization, api_key, max_age)

    def is_remembered(self, authorization: str | None, api_key: str | None, max_age: float) -> bool:
        """Whether `check` would do without the warehouse; says nothing of the credential."""
        return self._remembered(authorization or api_key or "", max_age) is not None

    def forget(self) -> None:
        """Look every standing up anew: one was ended here."""
        self._standing.clear()

    def _known(self, authorization: str | None, api_key: str | None, max_age: float) -> Identity:
        if (authorization is None) == (api_key is None):
            raise unauthorized(
                "no_credentials", "Send either a token (Authorization: Bearer ...) or a key (X-API-Key)."
            )
        credential = authorization or api_key or ""
        if (known := self._remembered(credential, max_age)) is not None:
            return known
        if len(credential) > LONGEST_CREDENTIAL:
            raise unauthorized("token_invalid", "That is longer than any token or key of ours.")
        began = time.monotonic()
        try:
            identity, ends = self._found(credential, is_key=authorization is None)
        except ProblemError:
            self._standing.pop(credential, None)
            raise
        with self._lock:
            if len(self._standing) >= MOST_REMEMBERED:
                self._standing.clear()
            # As of before it was looked up.
            self._standing[credential] = (began, ends, identity)
        return identity

    def _remembered(self, credential: str, max_age: float) -> Identity | None:
        """What was found of this very credential so recently, unless it has ended since."""
        known = self._standing.get(credential)
        if max_age <= 0 or known is None or time.monotonic() - known[0] > max_age or time.time() >= known[1]:
            return None
        return known[2]

    def _found(self, credential: str, *, is_key: bool) -> tuple[Identity, float]:
        """Who it is, and when the token ends (seconds since 1970)."""
        if is_key:
            return self._of_key(credential), float("inf")
        kind, _, token = credential.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise unauthorized("no_credentials", "Send the token as Authorization: Bearer TOKEN.")
        claims = self.tokens.verify(token, ACCESS)
        return self._of_session(str(claims["sid"]), str(claims["sub"])), float(claims["exp"])

    def _of_session(self, session: str, user_id: str) -> Identity:
        columns = (AppUser.c.id, AppUser.c.username, AppUser.c.is_staff, AppUser.c.advertiser_id)
        standing = (AppUser.c.is_active, ApiSession.c.revoked_at, ApiSession.c.expires_at)
        joined = ApiSession.join(AppUser, AppUser.c.id == ApiSession.c.user_id)
        asked = select(*columns, *standing).select_from(joined).where(ApiSession.c.session_id == session)
        with self.warehouse.transaction(read_only=True) as transaction:
            row = transaction.run(asked).first()
        ended = row is None or row.revoked_at is not None or row.expires_at <= self.clock()
        if ended or str(row.id) != user_id or not row.is_active:
            raise unauthorized("token_revoked", "This log-in was ended: log in again.")
        return Identity("user", row.id, row.username, bool(row.is_staff), row.advertiser_id, session=session)

    def _of_key(self, key: str) -> Identity:
        with self.warehouse.transaction(read_only=True) as transaction:
            row = transaction.run(select(ApiKey).where(ApiKey.c.prefix == prefix_of(key))).first()
        given, stored = hash_key(key), "-" * 64 if row is None else row.key_hash
        if not hmac.compare_digest(given, stored) or row is None:
            raise unauthorized("key_invalid", "This is no key of ours: see who gave it to you.")
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self.clock()):
            raise unauthorized("key_revoked", "This key is good no more: ask for another one.")
        self._note_use(row.id)
        scopes = frozenset(Scope(name) for name in row.scopes.split())
        return Identity("key", row.id, row.name, bool(row.is_staff), row.advertiser_id, scopes)

    def _note_use(self, key_id: int) -> None:
        with self._lock:
            last = self._noted.get(key_id)
            if last is not None and time.monotonic() - last < USE_NOTED_EVERY.total_seconds():
                return
            self._noted[key_id] = time.monotonic()
        try:
            self._store_use(key_id, self.clock())
        except SpendGateError as error:  # only people who clean up miss it
            log.warning("The use of key %d wasn't noted: %s", key_id, error)
        audit.info("key in use: key:%d", key_id)

    def _store_use(self, key_id: int, now: datetime) -> None:
        with self.warehouse.transaction() as transaction:
            mine = ApiKeyUse.c.key_id == key_id
            if transaction.run(update(ApiKeyUse).where(mine).values(last_used_at=now)).rowcount == 0:
                values = select(ApiKey.c.id, literal(now, Instant())).where(ApiKey.c.id == key_id)
                unused = ~select(ApiKeyUse.c.key_id).where(mine).exists()
                transaction.run(insert(ApiKeyUse).from_select(["key_id", "last_used_at"], values.where(unused)))
