"""Access and refresh tokens: JWTs by flask-jwt-extended, of one algorithm a key and with every claim required.

Two keys may live at a time. Tokens name theirs by `kid`; new ones are signed with the current one. The algorithm is
the key's, never the token's own word.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException

from spendgate.api.problems import ProblemError
from spendgate.errors import ConfigurationError
from spendgate.local.home import read_or_create_secret
from spendgate.settings import Settings

MIN_SECRET_LENGTH = 32
MIN_RSA_BITS = 2048
ACCESS, REFRESH = "access", "refresh"
REQUIRED = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "sub", "sid", "type"})


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A key with its algorithm; `kid` is told by what verifies, and gives nothing of a secret away."""

    kid: str
    algorithm: str
    signs: Any
    verifies: Any


def load_key(text: str, setting: str) -> SigningKey:
    """A signing key of a setting's value.

    Raises:
        ConfigurationError: it is too weak, or no key.
    """
    if not text.startswith("-----BEGIN"):
        if len(text) < MIN_SECRET_LENGTH:
            raise ConfigurationError(
                f"Set {setting} to at least {MIN_SECRET_LENGTH} random characters, or to a PEM key."
            )
        return SigningKey(_kid(text.encode()), "HS256", text, text)
    try:
        private = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"Set {setting} to a private key as PEM without a password.") from error
    if isinstance(private, RSAPrivateKey) and private.key_size >= MIN_RSA_BITS:
        algorithm = "RS256"
    elif isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP256R1):
        algorithm = "ES256"
    else:
        raise ConfigurationError(f"Set {setting} to an RSA key of at least {MIN_RSA_BITS} bits, or to an EC key P-256.")
    public = private.public_key()
    told = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(_kid(told), algorithm, private, public)


def _kid(key: bytes) -> str:
    return hashlib.sha256(b"spendgate key id " + key).hexdigest()[:12]


def load_keys(settings: Settings) -> tuple[SigningKey, ...]:
    """The keys that tokens are taken of, the one that signs first.

    Raises:
        ConfigurationError: none is set and the warehouse isn't the laptop's own, or one is unfit.
    """
    if settings.api_signing_key is not None:
        text = settings.api_signing_key.get_secret_value()
    elif settings.warehouse_url is None and settings.api_warehouse_url is None:
        text = read_or_create_secret(settings.home, "api_signing_key", lambda: secrets.token_urlsafe(64))
    else:
        raise ConfigurationError(
            f"Set SPENDGATE_API_SIGNING_KEY to at least {MIN_SECRET_LENGTH} random characters or a PEM key: the API "
            "doesn't start without one."
        )
    keys = [load_key(text, "SPENDGATE_API_SIGNING_KEY")]
    if settings.api_previous_signing_key is not None:
        previous = settings.api_previous_signing_key.get_secret_value()
        keys.append(load_key(previous, "SPENDGATE_API_PREVIOUS_SIGNING_KEY"))
    return tuple(keys)


class Tokens:
    """Makes and verifies the tokens of one app."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._app = app
        keys = load_keys(settings)
        self._keys = {key.kid: key for key in keys}
        self._current = keys[0]
        self.access_lifetime = timedelta(minutes=settings.api_token_minutes)
        app.config.update(
            JWT_ALGORITHM=self._current.algorithm,
            JWT_DECODE_ALGORITHMS=sorted({key.algorithm for key in keys}),
            JWT_ENCODE_ISSUER=settings.api_issuer,
            JWT_DECODE_ISSUER=settings.api_issuer,
            JWT_ENCODE_AUDIENCE=settings.api_audience,
            JWT_DECODE_AUDIENCE=settings.api_audience,
        )
        manager = JWTManager(app)
        manager.encode_key_loader(lambda _identity: self._current.signs)
        manager.decode_key_loader(self._verifying_key)
        manager.additional_headers_loader(lambda _identity: {"kid": self._current.kid})

    def access(self, user_id: int, session: str) -> str:
        """An access token of a log-in."""
        return str(
            create_access_token(str(user_id), expires_delta=self.access_lifetime, additional_claims={"sid": session})
        )

    def refresh(self, user_id: int, session: str, lifetime: timedelta) -> tuple[str, str]:
        """A refresh token of a log-in, and its jti."""
        token = create_refresh_token(str(user_id), expires_delta=lifetime, additional_claims={"sid": session})
        return str(token), str(decode_token(token)["jti"])

    def verify(self, token: str, kind: str) -> dict[str, Any]:
        """The claims of a token that is whole, ours, of this kind and of now.

        Raises:
            ProblemError: 401, it isn't.
        """
        try:
            with self._app.app_context():
                claims: dict[str, Any] = decode_token(token)
        except jwt.ExpiredSignatureError as error:
            raise unauthorized("token_expired", "The token has expired: refresh it, or log in again.") from error
        except (jwt.PyJWTError, JWTExtendedException, ValueError, TypeError, KeyError) as error:
            raise unauthorized("token_invalid", "The token is none of ours: log in again.") from error
        if not claims.keys() >= REQUIRED or claims["type"] != kind or not claims["jti"]:
            raise unauthorized("token_invalid", f"The token is no {kind} token of ours: log in again.")
        return claims

    def _verifying_key(self, headers: dict[str, Any], _claims: dict[str, Any]) -> Any:
        key = self._keys.get(str(headers.get("kid")))
        if key is None or headers.get("alg") != key.algorithm:
            raise jwt.InvalidKeyError("no key of ours")
        return key.verifies


def unauthorized(code: str, detail: str) -> ProblemError:
    """A 401 problem."""
    return ProblemError(401, code, detail, {"WWW-Authenticate": 'Bearer realm="spendgate"'})
