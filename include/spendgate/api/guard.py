"""The one door: who calls, by token or key. Flask and the fast lane both ask here, and nowhere else.

A credential is read first: a token's signature and claims, a key's shape. Then the warehouse is asked whether its user
and log-in, or its key, still stand: for every request, so that whoever is disabled or revoked is refused by the next
one, in any process. The fast lane remembers what it has read, and asks for all requests that wait at a time.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from sqlalchemy import Row, insert, literal, select, update

from spendgate.api.accounts import hash_key, prefix_of
from spendgate.api.identity import Identity, Scope
from spendgate.api.problems import ProblemError
from spendgate.api.rates import Limits
from spendgate.api.tokens import ACCESS, Tokens, unauthorized
from spendgate.clock import Clock
from spendgate.errors import SpendGateError
from spendgate.warehouse.engine import Transaction, Warehouse, in_slices
from spendgate.warehouse.tables import ApiKey, ApiKeyUse, ApiSession, AppUser, Instant

log = logging.getLogger(__name__)
audit = logging.getLogger("spendgate.api.audit")

# last_used_at is for people who clean up keys: a write a request would be the dearest part of it.
USE_NOTED_EVERY = timedelta(minutes=5)
MOST_REMEMBERED = 10_000
LONGEST_CREDENTIAL = 4_096


class Kind(Enum):
    """What a credential is."""

    SESSION = "the token of a log-in"
    KEY = "a key"


@dataclass(frozen=True, slots=True)
class Credential:
    """A token or key as it was read; whether it still stands only the warehouse knows."""

    kind: Kind
    name: str  # the log-in's id, or the key's prefix
    proof: str = field(repr=False)  # the user's id, or the key's hash
    ends: float = float("inf")  # seconds since 1970


Found = Identity | ProblemError


@dataclass(slots=True)
class Guard:
    """Tells who calls."""

    warehouse: Warehouse
    clock: Clock
    tokens: Tokens
    limits: Limits
    _read: dict[str, Credential] = field(default_factory=dict)
    _noted: dict[int, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _notes: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "spendgate-notes"))

    def check(self, authorization: str | None, api_key: str | None) -> Identity:
        """Who calls, by the values of the headers Authorization and X-API-Key.

        Raises:
            ProblemError: 401, nobody whom we let in; 429, somebody who asks too often.
            SpendGateError: the warehouse can't be asked.
        """
        identity = self.check_again(authorization, api_key)
        self.limits.count_request(identity)
        return identity

    def check_again(self, authorization: str | None, api_key: str | None) -> Identity:
        """As `check`, within a request that was counted already."""
        credential = self.read(authorization, api_key)
        found = self.look([credential])[credential]
        if isinstance(found, ProblemError):
            raise found
        return found

    def read(self, authorization: str | None, api_key: str | None) -> Credential:
        """The credential in the headers Authorization and X-API-Key.

        Raises:
            ProblemError: 401, there is none, or it is none of ours.
        """
        if authorization is not None and api_key is None:
            _require_length(authorization)
            kind, _, token = authorization.partition(" ")
            if kind.lower() != "bearer" or not token:
                raise unauthorized("no_credentials", "Send the token as Authorization: Bearer TOKEN.")
            claims = self.tokens.verify(token, ACCESS)
            return Credential(Kind.SESSION, str(claims["sid"]), str(claims["sub"]), float(claims["exp"]))
        if api_key is not None and authorization is None:
            _require_length(api_key)
            return Credential(Kind.KEY, prefix_of(api_key), hash_key(api_key))
        raise unauthorized("no_credentials", "Send either a token (Authorization: Bearer ...) or a key (X-API-Key).")

    def recall(self, authorization: str | None, api_key: str | None) -> Credential | None:
        """What `remember` read of these very headers, unless it has ended since."""
        if (authorization is None) == (api_key is None):
            return None
        known = self._read.get(authorization or api_key or "")
        return known if known is not None and time.time() < known.ends else None

    def remember(self, authorization: str | None, api_key: str | None) -> Credential:
        """As `read`, for `recall` to find."""
        credential = self.read(authorization, api_key)
        with self._lock:
            if len(self._read) >= MOST_REMEMBERED:
                self._read.clear()
            self._read[authorization or api_key or ""] = credential
        return credential

    def look(self, credentials: Collection[Credential]) -> Mapping[Credential, Found]:
        """Who these are, as the warehouse says now; a problem (401) for each that doesn't stand.

        Raises:
            SpendGateError: the warehouse can't be asked.
        """
        sessions = {one.name for one in credentials if one.kind is Kind.SESSION}
        keys = {one.name for one in credentials if one.kind is Kind.KEY}
        with self.warehouse.reading() as transaction:
            session_rows = _find_sessions(transaction, sessions)
            key_rows = _find_keys(transaction, keys)
        found: dict[Credential, Found] = {}
        for one in credentials:
            if one.kind is Kind.SESSION:
                found[one] = self._of_session(one, session_rows.get(one.name))
            else:
                found[one] = self._of_key(one, key_rows.get(one.name))
        self._note_uses({one.id for one in found.values() if isinstance(one, Identity) and one.kind == "key"})
        return found

    def _of_session(self, credential: Credential, row: Row[Any] | None) -> Found:
        ended = row is None or row.revoked_at is not None or row.expires_at <= self.clock()
        if row is None or ended or str(row.id) != credential.proof or not row.is_active:
            return unauthorized("token_revoked", "This log-in was ended: log in again.")
        session = credential.name
        return Identity("user", row.id, row.username, bool(row.is_staff), row.advertiser_id, session=session)

    def _of_key(self, credential: Credential, row: Row[Any] | None) -> Found:
        stored = "-" * 64 if row is None else row.key_hash
        if not hmac.compare_digest(credential.proof, stored) or row is None:
            return unauthorized("key_invalid", "This is no key of ours: see who gave it to you.")
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self.clock()):
            return unauthorized("key_revoked", "This key is good no more: ask for another one.")
        scopes = frozenset(Scope(name) for name in row.scopes.split())
        return Identity("key", row.id, row.name, bool(row.is_staff), row.advertiser_id, scopes)

    def close(self) -> None:
        """Wait until the uses that were seen are noted; none is noted afterwards."""
        self._notes.shutdown()

    def _note_uses(self, keys: Collection[int]) -> None:
        """Note that these keys are in use, in a while: nobody waits for it."""
        with self._lock:
            old = time.monotonic() - USE_NOTED_EVERY.total_seconds()
            fresh = [key for key in keys if self._noted.get(key, float("-inf")) <= old]
            self._noted.update(dict.fromkeys(fresh, time.monotonic()))
        for key in fresh:
            audit.info("key in use: key:%d", key)
        if fresh:
            self._notes.submit(self._store_uses, fresh, self.clock())

    def _store_uses(self, keys: Sequence[int], now: datetime) -> None:
        try:
            with self.warehouse.transaction() as transaction:
                for some in in_slices(keys):
                    mine = ApiKeyUse.c.key_id.in_(some)
                    transaction.run(update(ApiKeyUse).where(mine).values(last_used_at=now))
                    values = select(ApiKey.c.id, literal(now, Instant())).where(ApiKey.c.id.in_(some))
                    unused = ~select(ApiKeyUse.c.key_id).where(ApiKeyUse.c.key_id == ApiKey.c.id).exists()
                    transaction.run(insert(ApiKeyUse).from_select(["key_id", "last_used_at"], values.where(unused)))
        except SpendGateError as error:  # only people who clean up miss it
            log.warning("The use of %d keys wasn't noted: %s", len(keys), error)


def _require_length(credential: str) -> None:
    if len(credential) > LONGEST_CREDENTIAL:
        raise unauthorized("token_invalid", "That is longer than any token or key of ours.")


def _find_sessions(transaction: Transaction, names: Collection[str]) -> dict[str, Row[Any]]:
    users = (AppUser.c.id, AppUser.c.username, AppUser.c.is_staff, AppUser.c.advertiser_id, AppUser.c.is_active)
    asked = select(*users, ApiSession.c.session_id, ApiSession.c.revoked_at, ApiSession.c.expires_at).select_from(
        ApiSession.join(AppUser, AppUser.c.id == ApiSession.c.user_id)
    )
    found: dict[str, Row[Any]] = {}
    for some in in_slices(sorted(names)):
        rows = transaction.run(asked.where(ApiSession.c.session_id.in_(some))).all()
        found.update((row.session_id, row) for row in rows)
    return found


def _find_keys(transaction: Transaction, prefixes: Collection[str]) -> dict[str, Row[Any]]:
    found: dict[str, Row[Any]] = {}
    for some in in_slices(sorted(prefixes)):
        rows = transaction.run(select(ApiKey).where(ApiKey.c.prefix.in_(some))).all()
        found.update((row.prefix, row) for row in rows)
    return found
