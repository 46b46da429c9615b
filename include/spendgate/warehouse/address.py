"""Where the warehouse is and how to sign in: a URL that is checked, and for SQL Server complete, before it is used.

SQL Server is reached through two clients of one package: its ODBC driver for statements, and a core of its own for
bulk copies. What a URL leaves open each decides by itself, so encryption is always written out.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from spendgate.errors import ConfigurationError

# What a person changes: named in errors. Airflow's tasks may have a connection in its place.
SETTING = "SPENDGATE_WAREHOUSE_URL"
POSTGRESQL = "postgresql+psycopg"
MSSQL = "mssql+mssqlpython"

# Keywords that the driver takes in a connection string; it sets Driver and APP by itself.
# https://github.com/microsoft/mssql-python/wiki/Connection-to-SQL-Database
_KEYWORDS = (
    "ApplicationIntent",
    "Authentication",
    "ConnectRetryCount",
    "ConnectRetryInterval",
    "Encrypt",
    "HostnameInCertificate",
    "IpAddressPreference",
    "KeepAlive",
    "KeepAliveInterval",
    "MultiSubnetFailover",
    "PacketSize",
    "ServerCertificate",
    "ServerSPN",
    "TrustServerCertificate",
    "Trusted_Connection",
)
_SWITCHES = ("MultiSubnetFailover", "TrustServerCertificate", "Trusted_Connection")
# Ways to sign in of which both clients take a token or a login.
SERVICE_PRINCIPAL = "ActiveDirectoryServicePrincipal"
_SIGN_INS = (
    "ActiveDirectoryDefault",
    "ActiveDirectoryDeviceCode",
    "ActiveDirectoryInteractive",
    "ActiveDirectoryMSI",
    SERVICE_PRINCIPAL,
    "SqlPassword",
)
# By default the line is encrypted and the server's certificate is checked, whatever a client's own default is.
_DEFAULTS = {"Encrypt": "yes", "TrustServerCertificate": "no"}
_YES_NO = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no"}
_ENCRYPT = {**_YES_NO, "mandatory": "yes", "optional": "no", "strict": "strict"}


def checked_url(url: URL | str, setting: str = SETTING) -> URL:
    """`url` as a warehouse's URL; `setting` is what errors name.

    Raises:
        ConfigurationError: it is none, of another database or driver, or lacks what is needed to sign in.
    """
    wanted = f"Set {setting} to {POSTGRESQL}://... or {MSSQL}://..."
    try:
        parsed = make_url(url)
        name = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise ConfigurationError(f"{wanted}; what it holds is no database URL.") from error
    if parsed.drivername not in (POSTGRESQL, MSSQL):
        raise ConfigurationError(f"{wanted}, not {name}.")
    return _completed(parsed, setting) if parsed.drivername == MSSQL else parsed


def _completed(url: URL, setting: str) -> URL:
    options = {**_DEFAULTS, **mssql_options(url.query, setting)}
    if not url.host:
        raise ConfigurationError(f"{setting} names no server; add its host.")
    if not url.database:
        raise ConfigurationError(f"{setting} names no database; add the one that is SpendGate's.")
    sign_in = options.get("Authentication", "SqlPassword")
    if sign_in == SERVICE_PRINCIPAL and not (url.username and url.password):
        raise ConfigurationError(
            f"{setting} signs in as a service principal; give its client id as user and its secret as password."
        )
    if sign_in == "SqlPassword" and not url.username and options.get("Trusted_Connection") != "yes":
        raise ConfigurationError(f"{setting} names nobody; add user and password, or an Authentication.")
    return url.set(query=options)


def mssql_options(given: Mapping[str, object], setting: str = SETTING) -> dict[str, str]:
    """`given` in the driver's spelling: names in any case, with or without `_`; true and false, also as JSON has them.

    Raises:
        ConfigurationError: the driver doesn't know a name or a value, or a name is given twice.
    """
    spelt = {_plain(keyword): keyword for keyword in _KEYWORDS}
    options: dict[str, str] = {}
    for name, value in given.items():
        keyword = spelt.get(_plain(name))
        if keyword is None:
            raise ConfigurationError(f"{setting} has an option {name!r}; there are {', '.join(_KEYWORDS)}.")
        if keyword in options or isinstance(value, tuple):
            raise ConfigurationError(f"{setting} gives {keyword} twice; leave one of them.")
        options[keyword] = _value(keyword, str(value), setting)
    return options


def _value(keyword: str, value: str, setting: str) -> str:
    known: Mapping[str, str]
    if keyword == "Encrypt":
        known = _ENCRYPT
    elif keyword in _SWITCHES:
        known = _YES_NO
    elif keyword == "Authentication":
        known = {name.lower(): name for name in _SIGN_INS}
    else:
        return value
    found = known.get(value.strip().lower())
    if found is None:
        raise ConfigurationError(f"{setting} gives {keyword} as {value!r}; make it {_or(known)}.")
    return found


def _or(known: Mapping[str, str]) -> str:
    *some, last = dict.fromkeys(known.values())
    return f"{', '.join(some)} or {last}"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")
