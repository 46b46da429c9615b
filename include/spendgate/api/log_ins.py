"""Log-ins: from a password to tokens, their renewal, their end.

One row of ads.ApiSession is one log-in. Its refresh token is good once: whoever brings an older one again ends the
whole log-in, because one of the two who hold it is a thief.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from spendgate.api import passwords
from spendgate.api.problems import ProblemError
from spendgate.api.tokens import REFRESH, Tokens, unauthorized
from spendgate.clock import Clock
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.tables import ApiSession, AppUser, LogInFailure

audit = logging.getLogger("spendgate.api.audit")

# People mistype a few times; a program that guesses gets four tries a quarter of an hour after a dozen.
FREE_FAILURES = 4
LONGEST_DELAY = timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a log-in gives; seconds say how long each holds."""

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    token_type: str


def delay_after(failures: int) -> timedelta:
    """How long every password is refused after so many failures in a row."""
    if failures <= FREE_FAILURES:
        return timedelta(0)
    return min(timedelta(seconds=2.0 ** min(failures - FREE_FAILURES, 20)), LONGEST_DELAY)


@dataclass(frozen=True, slots=True)
class LogIns:
    """Log-ins to one warehouse."""

    warehouse: Warehouse
    clock: Clock
    tokens: Tokens
    lifetime: timedelta

    def begin(self, login: str, password: str) -> TokenPair:
        """Tokens for a user name or e-mail address and its password.

        A try counts as failed before its password is looked at: many tries at once get no more of them.

        Raises:
            ProblemError: 401, the same for a wrong password, an unknown and a disabled user; 429 while locked.
        """
        name = login.strip().lower()
        hashed = hashlib.sha256(name.encode()).hexdigest()
        self._count_try(hashed)
        with self.warehouse.transaction(read_only=True) as transaction:
            columns = (AppUser.c.id, AppUser.c.password_hash, AppUser.c.is_active)
            asked = select(*columns).where(or_(AppUser.c.username == name, AppUser.c.email == name))
            user = transaction.run(asked).first()
        good = passwords.is_password(password, user.password_hash if user else None)
        if user is None or not good or not user.is_active:
            audit.warning("log-in failed: name %s", hashed[:12])
            raise unauthorized("log_in_failed", "The name or the password is wrong.")
        session, now = str(uuid.uuid4()), self.clock()
        pair, refresh_id = self._pair(user.id, session, now + self.lifetime)
        with self.warehouse.transaction() as transaction:
            transaction.run(delete(LogInFailure).where(LogInFailure.c.login_hash == hashed))
            transaction.run(delete(ApiSession).where(ApiSession.c.expires_at < now))
            values = {"session_id": session, "user_id": user.id, "refresh_id": refresh_id}
            times = {"expires_at": now + self.lifetime, "created_at": now, "updated_at": now}
            transaction.run(insert(ApiSession).values(**values, **times))
        audit.info("log-in: user:%d session %s", user.id, session)
        return pair

    def renew(self, refresh_token: str) -> TokenPair:
        """New tokens for a refresh token, which is good no more.

        Raises:
            ProblemError: 401, it isn't good; the log-in is ended if it was used before.
        """
        claims = self.tokens.verify(refresh_token, REFRESH)
        session, now = str(claims["sid"]), self.clock()
        with self.warehouse.transaction() as transaction:
            found = self._living(transaction, session, now)
            if found is not None and str(found.user_id) == claims["sub"]:
                pair, refresh_id = self._pair(found.user_id, session, found.expires_at)
                mine = (
                    (ApiSession.c.session_id == session)
                    & (ApiSession.c.refresh_id == claims["jti"])
                    & ApiSession.c.revoked_at.is_(None)
                )
                changed = transaction.run(update(ApiSession).where(mine).values(refresh_id=refresh_id, updated_at=now))
                if changed.rowcount == 1:
                    audit.info("refresh: user:%d session %s", found.user_id, session)
                    return pair
                self._end(transaction, ApiSession.c.session_id == session, "reused", now)
                audit.warning("refresh token used twice: user:%d session %s is ended", found.user_id, session)
        raise unauthorized("token_revoked", "The refresh token is good no more: log in again.")

    def end(self, user_id: int, session: str | None) -> None:
        """End one log-in of a user; all of them without `session`."""
        which: Any = ApiSession.c.user_id == user_id
        if session is not None:
            which &= ApiSession.c.session_id == session
        with self.warehouse.transaction() as transaction:
            self._end(transaction, which, "revoked", self.clock())
        audit.info("revoked: user:%d session %s", user_id, session or "all")

    def _pair(self, user_id: int, session: str, ends: datetime) -> tuple[TokenPair, str]:
        left = ends - self.clock()
        refresh, refresh_id = self.tokens.refresh(user_id, session, left)
        seconds = int(self.tokens.access_lifetime.total_seconds())
        return TokenPair(
            self.tokens.access(user_id, session), seconds, refresh, int(left.total_seconds()), "Bearer"
        ), refresh_id

    def _living(self, transaction: Transaction, session: str, now: datetime) -> Any:
        joined = ApiSession.join(AppUser, AppUser.c.id == ApiSession.c.user_id)
        asked = select(ApiSession.c.user_id, ApiSession.c.expires_at).select_from(joined)
        living = (ApiSession.c.expires_at > now) & ApiSession.c.revoked_at.is_(None) & (AppUser.c.is_active == 1)
        return transaction.run(asked.where((ApiSession.c.session_id == session) & living)).first()

    def _end(self, transaction: Transaction, which: Any, reason: str, now: datetime) -> None:
        running = which & ApiSession.c.revoked_at.is_(None)
        transaction.run(update(ApiSession).where(running).values(revoked_at=now, reason=reason, updated_at=now))

    def _count_try(self, hashed: str) -> None:
        now = self.clock()
        with self.warehouse.transaction() as transaction:
            transaction.run(delete(LogInFailure).where(LogInFailure.c.updated_at < now - FORGOTTEN_AFTER))
            asked = select(LogInFailure.c.failures, LogInFailure.c.locked_until)
            known = transaction.run(asked.where(LogInFailure.c.login_hash == hashed)).first()
            if known is not None and known.locked_until > now:
                raise _locked(known.locked_until - now)
            failures = 1 if known is None else known.failures + 1
            values = {"failures": failures, "locked_until": now + delay_after(failures), "updated_at": now}
            if known is None:
                try:
                    transaction.run(insert(LogInFailure).values(login_hash=hashed, created_at=now, **values))
                except IntegrityError as error:  # the same name, at this very moment
                    raise _locked(timedelta(seconds=1)) from error
                return
            mine = (LogInFailure.c.login_hash == hashed) & (LogInFailure.c.failures == known.failures)
            if transaction.run(update(LogInFailure).where(mine).values(values)).rowcount != 1:
                raise _locked(timedelta(seconds=1))  # somebody else tries the same name at this moment


def _locked(left: timedelta) -> ProblemError:
    seconds = max(1, int(left.total_seconds() + 0.999))
    return ProblemError(
        429,
        "locked",
        f"Too many failed log-ins with this name: try again in {seconds} s.",
        {"Retry-After": str(seconds)},
    )
