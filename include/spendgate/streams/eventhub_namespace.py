"""A namespace of Event Hubs as we are told to reach it: options, clients, and what their errors mean."""

from __future__ import annotations

import logging
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.exceptions import ClientAuthenticationError
from azure.eventhub import EventHubConsumerClient, EventHubProducerClient, TransportType, parse_connection_string

from spendgate.errors import (
    ConfigurationError,
    PermanentError,
    SpendGateError,
    StreamAccessError,
    StreamUnavailableError,
    StreamUnknownError,
)
from spendgate.streams.eventhub_transport import (
    RECEIVE_SECONDS,
    SEND_SECONDS,
    BoundedContext,
    Wires,
    explain,
    is_expired,
)

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

DEFAULT_GROUP = "$Default"
OPTIONS = (
    "connection_string",
    "namespace",
    "consumer_group",
    "custom_endpoint_address",
    "transport",
    "http_proxy",
    "connection_verify",
    "managed_identity_client_id",
)
_TRANSPORTS = {"amqp": TransportType.Amqp, "websocket": TransportType.AmqpOverWebsocket}
_PROXY = {"proxy_hostname": str, "proxy_port": int, "username": str, "password": str}
_HOST = re.compile(r"[A-Za-z0-9.-]+")

_WHERE = "SPENDGATE_EVENTHUB_CONNECTION, SPENDGATE_EVENTHUB_CONFIG or the connection spendgate_eventhub"

# Conditions of AMQP's error frames, as the service uses them.
_REFUSED = frozenset({"amqp:unauthorized-access", "com.microsoft:auth-failed", "com.microsoft:entity-disabled"})
_UNKNOWN = frozenset({"amqp:not-found", "amqp:resource-deleted"})
_NO_PARTITION = "com.microsoft:argument-out-of-range"
_HELD = "amqp:link:stolen"
_CROWDED = "amqp:resource-limit-exceeded"
_TOO_LARGE = "amqp:link:message-size-exceeded"
# Why a token is refused (HTTP's codes).
_TOKEN_REFUSED = (401, 403)
_TOKEN_FOR_NOTHING = 404

# After its sockets are shut a call ends within moments.
_LAST_SECONDS = 2.0

Result = TypeVar("Result")


class Namespace:
    """Where hubs are and how we sign in. Makes clients, each for one piece of work, and turns their errors into ours.

    `timeout` (seconds) bounds every wait for the service. No connection is made before one is asked for.

    Raises:
        ConfigurationError: an option is unknown, missing or malformed; never shows a value that may be a secret.
    """

    def __init__(self, options: Mapping[str, Any], timeout: float) -> None:
        self.timeout = timeout
        self._options = _checked(options)
        self.group: str = self._options.get("consumer_group") or DEFAULT_GROUP
        self._connection_string: str | None = self._options.get("connection_string")
        self._entity: str | None = None
        if self._connection_string is None:
            self.host = _host_name(self._options.get("namespace"))
        else:
            self.host, self._entity = _endpoint(self._connection_string)
        self._tls: ssl.SSLContext | None = None
        self._identity: TokenCredential | None = None
        _silence_the_library()

    def require_hub(self, hub: str) -> None:
        """Raise if the connection string is for another hub.

        Raises:
            ConfigurationError
        """
        if self._entity and self._entity != hub:
            raise ConfigurationError(
                f"The connection string is for the hub {self._entity!r} alone (EntityPath), and {hub!r} is another: "
                "put a connection string of the namespace into SPENDGATE_EVENTHUB_CONNECTION or the connection "
                "spendgate_eventhub."
            )

    def consumer(self, hub: str, wires: Wires) -> EventHubConsumerClient:
        """A client for reading a hub, and for asking about it; makes no connection yet."""
        settings = {**self._client_settings(wires, RECEIVE_SECONDS), "eventhub_name": hub, "consumer_group": self.group}
        if self._connection_string is not None:
            return EventHubConsumerClient.from_connection_string(self._connection_string, **settings)
        return EventHubConsumerClient(self.host, credential=self._credential(), **settings)

    def producer(self, hub: str, wires: Wires) -> EventHubProducerClient:
        """A client for sending to a hub; makes no connection yet."""
        settings = {**self._client_settings(wires, SEND_SECONDS), "eventhub_name": hub}
        if self._connection_string is not None:
            return EventHubProducerClient.from_connection_string(self._connection_string, **settings)
        return EventHubProducerClient(self.host, credential=self._credential(), **settings)

    def _client_settings(self, wires: Wires, socket_timeout: float) -> dict[str, Any]:
        proxy = self._options.get("http_proxy")
        transport = self._options.get("transport") or ("websocket" if proxy else "amqp")
        if self._tls is None:
            self._tls = BoundedContext.trusting(self._options.get("connection_verify"), self.timeout)
        settings: dict[str, Any] = {
            "amqp_transport": wires,
            "transport_type": _TRANSPORTS[transport],
            "custom_endpoint_address": self._options.get("custom_endpoint_address"),
            "http_proxy": proxy,
            "ssl_context": self._tls,
            # We try again by ourselves, from where we are; the client would wait even after its last try.
            "retry_total": 0,
            "retry_backoff_factor": 0,
            "user_agent": "spendgate",
        }
        if transport == "amqp":  # a WebSocket connects within its time limit too, so that it keeps the client's own
            settings["socket_timeout"] = socket_timeout
        return settings

    def _credential(self) -> TokenCredential:
        """Azure's identity of this machine, container or user; tokens are kept between clients."""
        if self._identity is None:
            from azure.identity import DefaultAzureCredential  # half a second that connection strings don't need

            client_id = self._options.get("managed_identity_client_id")
            told = {"managed_identity_client_id": client_id} if client_id else {}
            self._identity = DefaultAzureCredential(**told)
        return self._identity

    def within(self, seconds: float, hub: str, call: Callable[[], Result], cut: Callable[[], None]) -> Result:
        """The result of a call to the client, which is cut off when it takes longer.

        Raises:
            SpendGateError: our error for the client's, or for its silence.
        """
        results: list[Result] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True, name=f"eventhub-call-{hub}")
        thread.start()
        try:
            thread.join(seconds)
        finally:
            is_late = thread.is_alive()
            if is_late:
                cut()
                thread.join(_LAST_SECONDS)
        if results:
            return results[0]
        if is_late:
            raise self.silence(hub)
        raise self.failure(errors[0], hub) from errors[0]

    def failure(self, error: BaseException, hub: str, *, reading: bool = False) -> SpendGateError:
        """Our error for the client's, by type and code; `reading`: it came from a link of our consumer group."""
        if isinstance(error, SpendGateError):
            return error
        told = list(explain(error))
        conditions = {condition for _, condition, _ in told}
        statuses = {status for _, _, status in told}
        if _is_refusal(told, conditions, statuses):
            return self._refused(hub, _reason(told))
        if conditions & _UNKNOWN or _TOKEN_FOR_NOTHING in statuses:
            return self._unknown(hub, reading)
        if _NO_PARTITION in conditions:
            return StreamUnknownError(f"Hub {hub!r} at {self.host} lacks a partition: correct etl.StreamPosition.")
        if _HELD in conditions:
            return StreamAccessError(
                f"Another reader holds a partition of hub {hub!r} for itself in consumer group {self.group!r}: make a "
                "consumer group for SpendGate alone, and name it in SPENDGATE_EVENTHUB_CONSUMER_GROUP or the "
                "connection spendgate_eventhub."
            )
        if _TOO_LARGE in conditions:
            return PermanentError(f"A message for hub {hub!r} is larger than the hub takes: shorten it.")
        if _CROWDED in conditions:
            return StreamUnavailableError(
                f"Too many readers or connections are open at hub {hub!r}, consumer group {self.group!r}: run again, "
                "or give SpendGate a consumer group of its own (SPENDGATE_EVENTHUB_CONSUMER_GROUP)."
            )
        return self.silence(hub, _reason(told))

    def silence(self, hub: str, reason: str = "") -> StreamUnavailableError:
        """Our error for a service that can't be reached or hasn't answered in time."""
        why = f" ({reason})" if reason else ""
        return StreamUnavailableError(
            f"Event Hubs at {self.host} gave no answer about hub {hub!r} in {self.timeout:g} s{why}: check the "
            f"network and {_WHERE}, and run again."
        )

    def _refused(self, hub: str, reason: str) -> StreamAccessError:
        return StreamAccessError(
            f"Event Hubs at {self.host} refuses us hub {hub!r} ({reason}): correct the credentials in "
            "SPENDGATE_EVENTHUB_CONNECTION or the connection spendgate_eventhub, and give them the claims Listen and "
            "Send, or the roles Azure Event Hubs Data Receiver and Data Sender."
        )

    def _unknown(self, hub: str, reading: bool) -> StreamUnknownError:
        if reading:
            return StreamUnknownError(
                f"Event Hubs at {self.host} has no consumer group {self.group!r} at hub {hub!r}: create it, or correct "
                "SPENDGATE_EVENTHUB_CONSUMER_GROUP or the connection spendgate_eventhub."
            )
        return StreamUnknownError(f"Event Hubs at {self.host} has no hub {hub!r}: create it, or correct its name.")


def _is_refusal(told: list[tuple[BaseException, str, int]], conditions: set[str], statuses: set[int]) -> bool:
    if conditions & _REFUSED or any(status in statuses for status in _TOKEN_REFUSED):
        return True
    return any(
        isinstance(one, ClientAuthenticationError | ssl.SSLCertVerificationError) or is_expired(one)
        for one, _, _ in told
    )


def _reason(told: list[tuple[BaseException, str, int]]) -> str:
    """A few words on what lies deepest: what the network said, or a code; never the library's text."""
    for one, condition, status in reversed(told):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate isn't trusted, {one.verify_message}; connection_verify names a file of authorities"
        if isinstance(one, OSError) and one.strerror:
            return one.strerror.lower()
        if isinstance(one, ClientAuthenticationError):
            return "Azure identity gives no token"
        if is_expired(one):
            return "the shared access signature has expired"
        if status or condition:
            return f"status {status} for the token" if status else condition
    return type(told[0][0]).__name__


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [str(name) for name in options if name not in OPTIONS]
    if unknown:
        raise _wrong(f"{', '.join(sorted(unknown))} is none of {', '.join(OPTIONS)}")
    found = {name: value for name, value in options.items() if value not in (None, "")}
    for name, value in found.items():
        if name != "http_proxy" and not isinstance(value, str):
            raise _wrong(f"{name} isn't text")
    if "connection_string" in found and "namespace" in found:
        raise _wrong("give a connection string or a namespace, not both")
    if found.get("transport", "amqp") not in _TRANSPORTS:
        raise _wrong(f"transport is {' or '.join(_TRANSPORTS)}")
    if "http_proxy" in found:
        _check_proxy(found["http_proxy"], found.get("transport"))
    if ca_file := found.get("connection_verify"):
        try:
            BoundedContext.trusting(ca_file, 0)
        except OSError as error:
            raise _wrong(f"connection_verify, {ca_file}, isn't a readable file of certificates") from error
    return found


def _check_proxy(proxy: object, transport: object) -> None:
    if transport == "amqp":
        raise _wrong("an http_proxy passes WebSockets only, so transport can't be amqp")
    known = isinstance(proxy, Mapping) and all(
        name in _PROXY and isinstance(value, _PROXY[name]) for name, value in proxy.items()
    )
    if not known or not {"proxy_hostname", "proxy_port"} <= set(_names(proxy)):
        raise _wrong("http_proxy is an object of proxy_hostname (text), proxy_port (number), username and password")


def _names(mapping: object) -> Iterator[str]:
    return map(str, mapping) if isinstance(mapping, Mapping) else iter(())


def _host_name(namespace: str | None) -> str:
    host = (namespace or "").removeprefix("sb://").rstrip("/")
    if not _HOST.fullmatch(host):
        raise ConfigurationError(
            "Set SPENDGATE_EVENTHUB_CONNECTION to a connection string, or SPENDGATE_EVENTHUB_NAMESPACE to the host "
            "name of a namespace (NAME.servicebus.windows.net); in Airflow, the connection spendgate_eventhub."
        )
    return host


def _endpoint(connection_string: str) -> tuple[str, str | None]:
    """(host and port, EntityPath) of a connection string."""
    try:
        parsed = parse_connection_string(connection_string)
    except ValueError:  # its text could quote a part of the string
        raise _malformed(
            "it has the form Endpoint=sb://NAME.servicebus.windows.net/;SharedAccessKeyName=...;SharedAccessKey=..."
        ) from None
    host: str = parsed.fully_qualified_namespace
    emulator = re.search(r"(?:^|;)UseDevelopmentEmulator=([^;]*)", connection_string, re.IGNORECASE)
    if emulator and emulator[1].lower() == "true" and emulator[0].lstrip(";") != "UseDevelopmentEmulator=true":
        raise _malformed("write UseDevelopmentEmulator=true in exactly these letters")
    if ":" in host and not emulator:
        raise _malformed("a port counts for the emulator only, and custom_endpoint_address takes one elsewhere")
    return host, parsed.eventhub_name


def _wrong(why: str) -> ConfigurationError:
    return ConfigurationError(f"Correct the options for Event Hubs in {_WHERE}: {why}.")


def _malformed(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"Correct the connection string in SPENDGATE_EVENTHUB_CONNECTION or the connection spendgate_eventhub: {why}."
    )


def _silence_the_library() -> None:
    """What matters of the libraries' log lines arrives as errors; a level that somebody set stays."""
    for name in ("azure.eventhub", "azure.identity"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
