"""Passwords: argon2id hashes with the parameters of RFC 9106 for little memory, as argon2-cffi sets them."""

from __future__ import annotations

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from spendgate.errors import ConfigurationError

MIN_LENGTH, MAX_LENGTH = 12, 200
_HASHER = PasswordHasher()


def hash_password(password: str) -> str:
    """The salted hash that is stored.

    Raises:
        ConfigurationError: the password is too short or too long.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ConfigurationError(f"Give a password of {MIN_LENGTH} to {MAX_LENGTH} characters.")
    return _HASHER.hash(password)


def is_password(password: str, stored: str | None) -> bool:
    """Whether it is the password; of nobody (None) it isn't, and finding that out takes as long."""
    try:
        return _HASHER.verify(stored or _hash_of_nobody(), password) and stored is not None
    except (Argon2Error, InvalidHashError):
        return False


@cache
def _hash_of_nobody() -> str:
    return _HASHER.hash("the password of nobody")
