"""A URL of SQL Server says how to sign in and encrypts, or says what it lacks; the driver gets what it means."""

from __future__ import annotations

import pytest
from mssql_python import constants
from sqlalchemy import URL, make_url

from spendgate.errors import ConfigurationError
from spendgate.warehouse.address import checked_url, mssql_options
from spendgate.warehouse.engine import Warehouse

SERVER = "mssql+mssqlpython://loader:w%40rd@db.example:1433/spendgate"
ENTRA = "mssql+mssqlpython://{}db.example/spendgate?Authentication={}"
SAFE = "Encrypt=yes;TrustServerCertificate=no"


def connection_string(url: URL | str) -> str:
    """What the driver is given, for statements and, parsed again, for bulk copies."""
    warehouse = Warehouse(url)
    arguments, _ = warehouse.engine.dialect.create_connect_args(warehouse.engine.url)
    warehouse.close()
    return str(arguments[0])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (SERVER, f"Server=db.example,1433;Database=spendgate;UID=loader;PWD=w@rd;{SAFE}"),
        (
            f"{SERVER}?trustservercertificate=true",
            "Server=db.example,1433;Database=spendgate;UID=loader;PWD=w@rd;Encrypt=yes;TrustServerCertificate=yes",
        ),
        (
            f"{SERVER}?encrypt=Strict&host_name_in_certificate=sql.example&packet_size=16384",
            "Server=db.example,1433;Database=spendgate;UID=loader;PWD=w@rd;Encrypt=strict;"
            "TrustServerCertificate=no;HostnameInCertificate=sql.example;PacketSize=16384",
        ),
        (
            make_url(SERVER).set(password="a;b}c=d", database="Spend Gate"),
            f"Server=db.example,1433;Database=Spend Gate;UID=loader;PWD={{a;b}}}}c=d}};{SAFE}",
        ),
        (
            ENTRA.format("", "ActiveDirectoryMSI"),
            f"Server=db.example;Database=spendgate;{SAFE};Authentication=ActiveDirectoryMSI",
        ),
        (
            ENTRA.format("0f-client-id@", "activedirectorymsi"),
            f"Server=db.example;Database=spendgate;UID=0f-client-id;{SAFE};Authentication=ActiveDirectoryMSI",
        ),
        (
            ENTRA.format("", "ActiveDirectoryDefault"),
            f"Server=db.example;Database=spendgate;{SAFE};Authentication=ActiveDirectoryDefault",
        ),
        (
            ENTRA.format("app-id:s3cret@", "ActiveDirectoryServicePrincipal"),
            "Server=db.example;Database=spendgate;UID=app-id;PWD=s3cret;"
            f"{SAFE};Authentication=ActiveDirectoryServicePrincipal",
        ),
        (
            "mssql+mssqlpython://db.example/spendgate?Trusted_Connection=yes",
            f"Server=db.example;Database=spendgate;{SAFE};Trusted_Connection=yes",
        ),
    ],
    ids=[
        "login", "trusting", "strict", "odd password", "managed identity", "user-assigned identity", "default",
        "service principal", "kerberos",
    ],
)  # fmt: skip
def test_the_driver_gets_what_the_url_means_and_always_an_encryption(url: URL | str, expected: str) -> None:
    assert sorted(connection_string(url).split(";")) == sorted(expected.split(";"))
    again = checked_url(checked_url(url))
    assert sorted(connection_string(again).split(";")) == sorted(expected.split(";"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"{SERVER}?Encrypt=perhaps", "Encrypt as 'perhaps'; make it yes, no or strict"),
        (f"{SERVER}?TrustServerCertificate=maybe", "TrustServerCertificate as 'maybe'; make it yes or no"),
        (f"{SERVER}?Authentication=ActiveDirectoryPassword", "Authentication as 'ActiveDirectoryPassword'; make it"),
        (f"{SERVER}?driver=ODBC+Driver+17", "has an option 'driver'; there are ApplicationIntent, Authentication"),
        (f"{SERVER}?Encrypt=yes&encrypt=no", "gives Encrypt twice"),
        (f"{SERVER}?Encrypt=yes&Encrypt=no", "gives Encrypt twice"),
        ("mssql+mssqlpython://u:p@db.example/", "names no database"),
        ("mssql+mssqlpython://u:p@/spendgate", "names no server"),
        ("mssql+mssqlpython://db.example/spendgate", "names nobody; add user and password, or an Authentication"),
        (ENTRA.format("app-id@", "ActiveDirectoryServicePrincipal"), "client id as user and its secret as password"),
        ("mssql+mssqlpython://u:p@db.example:port/spendgate", "is no database URL"),
    ],
)
def test_what_a_url_lacks_is_one_sentence_that_names_the_setting(url: str, says: str) -> None:
    for setting in ("SPENDGATE_WAREHOUSE_URL", "connection spendgate_warehouse"):
        with pytest.raises(ConfigurationError, match=setting) as failure:
            checked_url(url, setting)
        assert says in str(failure.value)
        assert "\n" not in str(failure.value)


def test_options_are_told_as_a_form_has_them() -> None:
    form = {"encrypt": True, "Trust Server Certificate": False, "connect_retry_count": 3}
    assert mssql_options(form) == {"Encrypt": "yes", "TrustServerCertificate": "no", "ConnectRetryCount": "3"}


def test_every_keyword_is_one_that_the_driver_takes() -> None:
    taken = set(constants._ALLOWED_CONNECTION_STRING_PARAMS.values())
    by_other_means = {"Server", "Database", "UID", "PWD", "Driver", "APP"}
    with pytest.raises(ConfigurationError) as failure:
        mssql_options({"none of them": ""})
    known = str(failure.value).partition("there are ")[2].rstrip(".").split(", ")
    assert set(known) == taken - by_other_means
