"""`./spendgate env`: the `.env` that docker-compose.yaml needs, with fresh secrets that nobody has seen."""

from __future__ import annotations

import base64
import secrets
import string
from collections.abc import Callable
from pathlib import Path

from spendgate.errors import ConfigurationError
from spendgate.local.home import write_atomically

_HEADER = """\
# Secrets of docker-compose.yaml, made by ./spendgate env. Keep this file out of version control and back it up:
# without AIRFLOW_FERNET_KEY the connections stored in Airflow can't be read any more, and the databases keep the
# passwords of their first start. docs/deployment.md says how to change one.
"""

# SQL Server wants three kinds of characters of four, at least 8, at most 128:
# https://learn.microsoft.com/sql/relational-databases/security/password-policy
# These need no quoting in a URL, a shell, a .env file or a connection string.
_ALPHABET = string.ascii_letters + string.digits + "-_"
_PASSWORD_LENGTH = 32


def make_password() -> str:
    """A password of 190 bits that SQL Server's policy takes, beginning with a letter."""
    while True:
        made = "".join(secrets.choice(_ALPHABET) for _ in range(_PASSWORD_LENGTH))
        kinds = (str.islower, str.isupper, str.isdigit)
        if made[0].isalpha() and all(any(map(kind, made)) for kind in kinds):
            return made


def make_fernet_key() -> str:
    """What Airflow encrypts its stored connections with: 32 bytes, URL-safe base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii")


def make_signing_key() -> str:
    """64 bytes: what HS512, by which Airflow signs its tokens, asks for."""
    return secrets.token_urlsafe(64)


SECRETS: dict[str, tuple[str, Callable[[], str]]] = {
    "MSSQL_SA_PASSWORD": ("SQL Server's administrator; only the init service uses it", make_password),
    "WAREHOUSE_PIPELINE_PASSWORD": ("Login of the DAGs, role spendgate_pipeline", make_password),
    "WAREHOUSE_API_PASSWORD": ("Login of the API, role spendgate_api", make_password),
    "WAREHOUSE_ANALYST_PASSWORD": ("Login for queries, role spendgate_analyst", make_password),
    "REDIS_PASSWORD": ("Celery's broker", make_password),
    "AIRFLOW_DATABASE_PASSWORD": ("PostgreSQL that holds Airflow's metadata", make_password),
    "AIRFLOW_ADMIN_PASSWORD": ("The user admin of Airflow's UI", make_password),
    "AIRFLOW_FERNET_KEY": ("Encrypts the connections stored in Airflow", make_fernet_key),
    "AIRFLOW_API_SECRET_KEY": ("Signs sessions, and requests for workers' logs", make_signing_key),
    "API_SIGNING_KEY": ("Signs the tokens of the budget API", make_signing_key),
    "AIRFLOW_JWT_SECRET": ("Signs the tokens of tasks and users", make_signing_key),
}
"""What docker-compose.yaml can't do without: what each is of, and how it is made."""


def write_secrets(path: Path, *, force: bool = False) -> None:
    """Write a new file that only its owner reads.

    Raises:
        ConfigurationError: it exists, and `force` isn't set.
    """
    if path.exists() and not force:
        raise ConfigurationError(
            f"{path} exists, and running databases may know only its passwords: move it away, or add --force to "
            "overwrite it."
        )
    lines = [f"# {meaning}.\n{name}={make()}\n" for name, (meaning, make) in SECRETS.items()]
    write_atomically(path, "\n".join([_HEADER, *lines]), 0o600)
