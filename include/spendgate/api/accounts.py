"""Users and API keys: made, listed and ended by who owns the database; the API itself only reads them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, insert, or_, select, update

from spendgate.api.identity import Scope
from spendgate.api.passwords import hash_password
from spendgate.clock import Clock
from spendgate.errors import ConfigurationError
from spendgate.warehouse.engine import Transaction, Warehouse
from spendgate.warehouse.tables import Advertiser, ApiKey, ApiKeyUse, ApiSession, AppUser

# `sg_`, 8 letters by which a key is found, `_`, 256 bits that nobody guesses: a plain hash of it is enough.
KEY_MARK = "sg_"
_PREFIX_BYTES, _SECRET_BYTES = 4, 32


@dataclass(frozen=True, slots=True)
class NewUser:
    """Who is to be added; a user that is not of staff sees one advertiser."""

    username: str
    email: str
    first_name: str
    last_name: str
    advertiser_id: int | None
    is_staff: bool


def hash_key(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def prefix_of(key: str) -> str:
    """The part of a key by which it is found; not empty, whatever was sent as a key."""
    return key[: len(KEY_MARK) + 2 * _PREFIX_BYTES] or "-"


@dataclass(frozen=True, slots=True)
class Accounts:
    """Accounts in one warehouse."""

    warehouse: Warehouse
    clock: Clock

    def add_user(self, user: NewUser, password: str) -> int:
        """Add a user and return its id.

        Raises:
            ConfigurationError: the name or address is taken or none, or the user sees nothing or nobody knows what.
        """
        username, email = user.username.strip().lower(), user.email.strip().lower()
        if not username or "@" in username or len(username) > 100:
            raise ConfigurationError("Give a user name of 1 to 100 characters without @.")
        if not 3 <= len(email) <= 320 or "@" not in email:
            raise ConfigurationError("Give an e-mail address.")
        stored = hash_password(password)
        now = self.clock()
        with self.warehouse.transaction() as transaction:
            self._require_sight(transaction, user.advertiser_id, user.is_staff)
            taken = select(AppUser.c.id).where(or_(AppUser.c.username == username, AppUser.c.email == email))
            if transaction.run(taken).first() is not None:
                raise ConfigurationError(f"The user {username} or the address {email} is there already.")
            values = {
                "first_name": user.first_name,
                "last_name": user.last_name,
                "email": email,
                "username": username,
                "password_hash": stored,
                "advertiser_id": user.advertiser_id,
                "is_active": 1,
                "is_staff": int(user.is_staff),
                "created_at": now,
                "updated_at": now,
            }
            transaction.run(insert(AppUser).values(values))
            return int(transaction.run(select(AppUser.c.id).where(AppUser.c.username == username)).scalar_one())

    def users(self) -> tuple[list[str], Sequence[Row[Any]]]:
        """Column names and rows of all users, without hashes."""
        columns = [column for column in AppUser.columns if column.name not in ("password_hash", "updated_at")]
        with self.warehouse.transaction(read_only=True) as transaction:
            return [c.name for c in columns], transaction.run(select(*columns).order_by(AppUser.c.id)).all()

    def disable_user(self, username: str) -> None:
        """Refuse a user from now on, tokens that are out included.

        Raises:
            ConfigurationError: there is no such user.
        """
        self._change_user(username, {"is_active": 0}, "revoked")

    def set_password(self, username: str, password: str) -> None:
        """Give a user another password, enable it again, and end its log-ins.

        Raises:
            ConfigurationError: there is no such user, or the password is unfit.
        """
        self._change_user(username, {"password_hash": hash_password(password), "is_active": 1}, "password")

    def _change_user(self, username: str, values: dict[str, object], reason: str) -> None:
        now = self.clock()
        with self.warehouse.transaction() as transaction:
            name = username.strip().lower()
            found = transaction.run(select(AppUser.c.id).where(AppUser.c.username == name)).scalar()
            if found is None:
                raise ConfigurationError(f"There is no user {name!r}: see ./spendgate users list.")
            transaction.run(update(AppUser).where(AppUser.c.id == found).values(updated_at=now, **values))
            running = (ApiSession.c.user_id == found) & ApiSession.c.revoked_at.is_(None)
            transaction.run(update(ApiSession).where(running).values(revoked_at=now, reason=reason, updated_at=now))

    def add_key(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        advertiser_id: int | None = None,
        is_staff: bool = False,
        days: float | None = None,
    ) -> str:
        """Make a key and return it: the only time that it is seen.

        Raises:
            ConfigurationError: no name or scope, or it sees nothing.
        """
        if not 0 < len(name) <= 100 or not scopes:
            raise ConfigurationError("Give the key a name of 1 to 100 characters and at least one scope.")
        prefix = KEY_MARK + secrets.token_hex(_PREFIX_BYTES)
        key = f"{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        now = self.clock()
        with self.warehouse.transaction() as transaction:
            self._require_sight(transaction, advertiser_id, is_staff)
            values = {
                "prefix": prefix,
                "key_hash": hash_key(key),
                "name": name,
                "scopes": " ".join(dict.fromkeys(scopes)),
                "advertiser_id": advertiser_id,
                "is_staff": int(is_staff),
                "expires_at": None if days is None else _in_days(now, days),
                "created_at": now,
                "updated_at": now,
            }
            transaction.run(insert(ApiKey).values(values))
        return key

    def keys(self) -> tuple[list[str], Sequence[Row[Any]]]:
        """Column names and rows of all keys, without hashes."""
        shown = (
            "id",
            "prefix",
            "name",
            "scopes",
            "advertiser_id",
            "is_staff",
            "expires_at",
            "revoked_at",
            "created_at",
        )
        columns = [*(ApiKey.c[name] for name in shown), ApiKeyUse.c.last_used_at]
        joined = ApiKey.outerjoin(ApiKeyUse, ApiKeyUse.c.key_id == ApiKey.c.id)
        with self.warehouse.transaction(read_only=True) as transaction:
            rows = transaction.run(select(*columns).select_from(joined).order_by(ApiKey.c.id)).all()
        return [column.name for column in columns], rows

    def revoke_key(self, prefix: str) -> None:
        """Refuse a key from now on.

        Raises:
            ConfigurationError: there is no such key that isn't revoked.
        """
        now = self.clock()
        live = (ApiKey.c.prefix == prefix_of(prefix)) & ApiKey.c.revoked_at.is_(None)
        with self.warehouse.transaction() as transaction:
            if transaction.run(update(ApiKey).where(live).values(revoked_at=now, updated_at=now)).rowcount == 0:
                raise ConfigurationError(f"There is no live key {prefix_of(prefix)}: see ./spendgate keys list.")

    def replace_key(self, name: str, scopes: Sequence[Scope], *, days: float) -> str:
        """A new staff key of this name; older ones of the name are revoked."""
        now = self.clock()
        older = (ApiKey.c.name == name) & ApiKey.c.revoked_at.is_(None)
        with self.warehouse.transaction() as transaction:
            transaction.run(update(ApiKey).where(older).values(revoked_at=now, updated_at=now))
        return self.add_key(name, scopes, is_staff=True, days=days)

    def _require_sight(self, transaction: Transaction, advertiser_id: int | None, is_staff: bool) -> None:
        if is_staff == (advertiser_id is not None):
            raise ConfigurationError("Say either --staff (sees all advertisers) or --advertiser ID.")
        if advertiser_id is not None:
            there = select(func.count()).select_from(Advertiser).where(Advertiser.c.advertiser_id == advertiser_id)
            if not transaction.run(there).scalar_one():
                raise ConfigurationError(f"There is no advertiser {advertiser_id}: its event has to come first.")


def _in_days(now: datetime, days: float) -> datetime:
    try:
        return now + timedelta(days=days)
    except OverflowError as error:
        raise ConfigurationError(f"{days} days are too many: leave --days out for a key without an end.") from error
