"""Reaching a namespace: options, ways through, identities, and one right sentence for every way in which it fails."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from tests.brokers import free_port
from tests.certificates import Authority
from tests.eventhubs.bench import HUB, HubBench, leaving_no_thread, numbered, taking_at_most
from tests.eventhubs.connection import sign
from tests.eventhubs.server import EventHubsServer
from tests.eventhubs.store import RefusedError

from spendgate.errors import (
    ConfigurationError,
    SpendGateError,
    StreamAccessError,
    StreamUnavailableError,
    StreamUnknownError,
)
from spendgate.settings import ROOT, Settings
from spendgate.streams.eventhub import EventHubStream
from spendgate.streams.eventhub_namespace import OPTIONS

SECRET = "hunter2hunter2"
KEYS = {"Root": "secret"}
GOOD = f"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={SECRET}"
EMULATED = GOOD.replace("ns.servicebus.windows.net/", "127.0.0.1:{port}") + ";UseDevelopmentEmulator=true"


@pytest.fixture
def server() -> Iterator[EventHubsServer]:
    with EventHubsServer({HUB: 2}) as server:
        yield server


@pytest.fixture
def bench(server: EventHubsServer) -> HubBench:
    return HubBench(server)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("Event Hubs of the tests")


@pytest.fixture(scope="module")
def trusted(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the authority that vouches for the server."""
    path = tmp_path_factory.mktemp("trusted") / "authority.pem"
    path.write_text(authority.certificate)
    return path


@pytest.fixture
def secure(authority: Authority, tmp_path: Path) -> Iterator[EventHubsServer]:
    """A server with TLS."""
    server = authority.certify("the server")
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    paths[0].write_text(server.certificate)
    paths[1].write_text(server.key)
    with EventHubsServer({HUB: 2}, certificate=paths) as running:
        yield running


def through(server: EventHubsServer, trusted: Path, **more: Any) -> dict[str, Any]:
    """Options to reach a server with TLS on a port of its own."""
    address = f"sb://127.0.0.1:{server.port}"
    return {"custom_endpoint_address": address, "connection_verify": str(trusted), **more}


# -- options

WRONG_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "Set SPENDGATE_EVENTHUB_CONNECTION"),
    "no option of ours": ({"connection_string": GOOD, "conection_verify": SECRET}, "conection_verify is none of"),
    "both ways to sign in": ({"connection_string": GOOD, "namespace": "a.b"}, "not both"),
    "a number as text": ({"connection_string": GOOD, "consumer_group": 7}, "consumer_group isn't text"),
    "no such transport": ({"connection_string": GOOD, "transport": SECRET}, "transport is amqp or websocket"),
    "a proxy as text": ({"connection_string": GOOD, "http_proxy": SECRET}, "http_proxy is an object"),
    "a proxy without a port": (
        {"connection_string": GOOD, "http_proxy": {"proxy_hostname": "a", "password": SECRET}},
        "http_proxy is an object",
    ),
    "a proxy's port as text": (
        {"connection_string": GOOD, "http_proxy": {"proxy_hostname": "a", "proxy_port": "80"}},
        "http_proxy is an object",
    ),
    "a proxy for plain AMQP": (
        {"connection_string": GOOD, "transport": "amqp", "http_proxy": {"proxy_hostname": "a", "proxy_port": 80}},
        "WebSockets only",
    ),
    "no file of authorities": ({"connection_string": GOOD, "connection_verify": "/absent.pem"}, "/absent.pem"),
    "a namespace that is a path": ({"namespace": "ns.servicebus.windows.net/hub"}, "host name of a namespace"),
    "no connection string": ({"connection_string": SECRET}, "it has the form"),
    "a half connection string": ({"connection_string": GOOD.replace("SharedAccessKey=", "Key=")}, "it has the form"),
    "no endpoint": ({"connection_string": f"SharedAccessKeyName=a;SharedAccessKey={SECRET}"}, "it has the form"),
    "a port where none counts": (
        {"connection_string": GOOD.replace("windows.net/", "windows.net:5671")},
        "custom_endpoint_address",
    ),
    "an emulator in capitals": (
        {"connection_string": GOOD + ";UseDevelopmentEmulator=True"},
        "write UseDevelopmentEmulator=true",
    ),
    "another hub's connection string": ({"connection_string": GOOD + ";EntityPath=other"}, "for the hub 'other' alone"),
}


@pytest.mark.parametrize("kind", WRONG_OPTIONS)
def test_a_wrong_option_is_one_sentence_that_says_where_it_stands_and_keeps_secrets(kind: str) -> None:
    options, told = WRONG_OPTIONS[kind]
    with pytest.raises(ConfigurationError, match=r"SPENDGATE_EVENTHUB_\w+.* connection spendgate_eventhub") as raised:
        EventHubStream(HUB, options, timeout=1)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)


def test_every_option_is_on_the_page_on_streams() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("streams*.md"))
    # The first two are settings of their own.
    assert [name for name in OPTIONS[2:] if f"`{name}`" not in pages] == []


def test_making_a_stream_makes_no_connection_and_needs_no_server() -> None:
    with taking_at_most(2):
        EventHubStream(HUB, {"connection_string": EMULATED.format(port=free_port())}, timeout=1)


def test_a_connection_string_of_this_hub_alone_will_do(server: EventHubsServer) -> None:
    bench = HubBench(server, connection_string=f"{server.connection_string};EntityPath={HUB}")
    assert len(bench.stream().partitions()) == 2


# -- ways to the server


def test_a_server_with_tls_is_reached_at_another_address_by_a_certificate_we_are_told_to_trust(
    secure: EventHubsServer, trusted: Path
) -> None:
    bench = HubBench(secure, **through(secure, trusted, transport="amqp"))
    bench.put(numbered(3_000))
    secure.cut_each(1_000, times=2)
    assert bench.read() == (numbered(3_000), "3000")


@pytest.mark.parametrize("transport", ["amqp", "websocket"])
def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_reason(
    secure: EventHubsServer, trusted: Path, transport: str
) -> None:
    options = through(secure, trusted, transport=transport)
    del options["connection_verify"]
    with leaving_no_thread(), taking_at_most(5), pytest.raises(StreamAccessError, match="certificate isn't trusted"):
        HubBench(secure, **options).stream().partitions()


def test_amqp_passes_through_websockets(secure: EventHubsServer, trusted: Path) -> None:
    bench = HubBench(secure, **through(secure, trusted, transport="websocket"))
    bench.put(numbered(3_000))
    secure.cut_each(1_000, times=2)
    with leaving_no_thread():
        assert bench.read() == (numbered(3_000), "3000")


def test_websockets_pass_through_a_proxy(secure: EventHubsServer, trusted: Path) -> None:
    with proxy() as (port, passed):
        way = {"proxy_hostname": "127.0.0.1", "proxy_port": port, "username": "me", "password": SECRET}
        bench = HubBench(secure, **through(secure, trusted, http_proxy=way))
        bench.put(numbered(100))
        assert bench.read() == (numbered(100), "100")
    assert passed[0].startswith(f"CONNECT 127.0.0.1:{secure.port} HTTP/1.")


def test_a_proxy_that_is_away_is_unavailable(secure: EventHubsServer, trusted: Path) -> None:
    way = {"proxy_hostname": "127.0.0.1", "proxy_port": free_port()}
    bench = HubBench(secure, **through(secure, trusted, http_proxy=way))
    with taking_at_most(5), pytest.raises(StreamUnavailableError, match="gave no answer"):
        bench.stream(timeout=1).partitions()


# -- who we are


def signature(server: EventHubsServer, seconds: float) -> str:
    """A connection string with a shared access signature that lasts so long, instead of a key."""
    resource, expiry = f"sb://127.0.0.1:{server.port}/{HUB}", str(int(time.time() + seconds))
    signed = sign(server.keys["Root"], resource, expiry)
    token = f"SharedAccessSignature sr={resource}&sig={quote_plus(signed)}&se={expiry}&skn=Root"
    return f"Endpoint=sb://127.0.0.1:{server.port};SharedAccessSignature={token};UseDevelopmentEmulator=true"


def test_a_shared_access_signature_will_do_while_it_lasts(server: EventHubsServer) -> None:
    bench = HubBench(server, connection_string=signature(server, 600))
    bench.put(numbered(10))
    assert bench.read() == (numbered(10), "10")


def test_an_expired_signature_is_refused(server: EventHubsServer) -> None:
    bench = HubBench(server, connection_string=signature(server, -10))
    with leaving_no_thread(), taking_at_most(5), pytest.raises(StreamAccessError, match="correct the credentials"):
        bench.stream().partitions()


@pytest.mark.parametrize(("policy", "key"), [("Root", SECRET), ("Nobody", "secret")])
def test_a_wrong_key_or_policy_is_refused_at_once_in_a_sentence_that_keeps_the_key(
    server: EventHubsServer, policy: str, key: str
) -> None:
    wrong = server.connection_string.replace("Name=Root", f"Name={policy}").replace("Key=secret", f"Key={key}")
    bench = HubBench(server, connection_string=wrong)
    with leaving_no_thread(), taking_at_most(5), pytest.raises(StreamAccessError, match="status 401") as raised:
        bench.stream().partitions()
    assert key not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_policy_that_may_only_send_is_refused_with_the_permissions_that_it_takes(server: EventHubsServer) -> None:
    server.policies["Root"] = frozenset({"Send"})
    with taking_at_most(5), pytest.raises(StreamAccessError, match="claims Listen and Send, or the roles"):
        HubBench(server).stream().partitions()


def test_a_right_that_is_taken_away_in_mid_read_is_told(server: EventHubsServer, bench: HubBench) -> None:
    bench.put([bytes(10_000)] * 4_000)
    with leaving_no_thread(), bench.stream().read(bench.partition(), None) as read:
        batches = read.batches(100)
        next(batches)
        server.policies["Root"] = frozenset()
        server.cut()
        with taking_at_most(8), pytest.raises(StreamAccessError):
            for _ in batches:
                pass


def test_azure_identity_signs_in_without_a_secret(
    secure: EventHubsServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure.tokens["a token"] = frozenset({"Listen"})
    with identity_endpoint("a token") as (url, asked):
        monkeypatch.setenv("IDENTITY_ENDPOINT", url)
        monkeypatch.setenv("IDENTITY_HEADER", "me")
        options = through(secure, trusted, transport="amqp", managed_identity_client_id="client-7")
        stream = EventHubStream(HUB, {"namespace": "ns.servicebus.windows.net", **options}, timeout=10)
        secure.put(HUB, [b"a", b"b"])
        with stream.read(stream.partitions()[0], None) as read:
            assert [batch.values for batch in read.batches(10)] == [[b"a", b"b"]]
    assert "resource=https://eventhubs.azure.net/" in asked[0]
    assert "client_id=client-7" in asked[0]


def test_an_identity_without_a_role_is_refused(
    secure: EventHubsServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure.tokens["a token"] = frozenset()
    with identity_endpoint("a token") as (url, _):
        monkeypatch.setenv("IDENTITY_ENDPOINT", url)
        monkeypatch.setenv("IDENTITY_HEADER", "me")
        options = {"namespace": "ns.servicebus.windows.net", **through(secure, trusted, transport="amqp")}
        with pytest.raises(StreamAccessError, match="Azure Event Hubs Data Receiver"):
            EventHubStream(HUB, options, timeout=10).partitions()


def test_a_machine_without_an_identity_is_refused_and_told_so(
    secure: EventHubsServer, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of all that the identity tries, the one that needs no network.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    options = {"namespace": "ns.servicebus.windows.net", **through(secure, trusted, transport="amqp")}
    with taking_at_most(15), pytest.raises(StreamAccessError, match="Azure identity gives no token"):
        EventHubStream(HUB, options, timeout=10).partitions()


# -- what isn't there


def test_an_unknown_consumer_group_is_unknown(bench: HubBench) -> None:
    bench.put(numbered(10))
    with leaving_no_thread(), taking_at_most(5), pytest.raises(StreamUnknownError, match="no consumer group 'ours'"):
        bench.read(consumer_group="ours")


def test_a_consumer_group_of_our_own_is_read_by(server: EventHubsServer, bench: HubBench) -> None:
    server.hubs[HUB].groups.add("ours")
    bench.put(numbered(10))
    assert bench.read(consumer_group="ours") == (numbered(10), "10")


REFUSALS: dict[str, tuple[type[SpendGateError], str]] = {
    "amqp:unauthorized-access": (StreamAccessError, "amqp:unauthorized-access"),
    "com.microsoft:auth-failed": (StreamAccessError, "com.microsoft:auth-failed"),
    "amqp:not-found": (StreamUnknownError, "no consumer group"),
    "com.microsoft:argument-out-of-range": (StreamUnknownError, "lacks a partition"),
    "amqp:link:stolen": (StreamAccessError, "holds a partition"),
    "amqp:resource-limit-exceeded": (StreamUnavailableError, "Too many readers"),
    "com.microsoft:server-busy": (StreamUnavailableError, "com.microsoft:server-busy"),
    "com.microsoft:timeout": (StreamUnavailableError, "com.microsoft:timeout"),
    "amqp:internal-error": (StreamUnavailableError, "amqp:internal-error"),
    "com.example:anything": (StreamUnavailableError, "com.example:anything"),
}


@pytest.mark.parametrize("condition", REFUSALS)
def test_what_a_refused_link_means_is_told_by_its_condition(
    server: EventHubsServer, bench: HubBench, condition: str
) -> None:
    wanted, words = REFUSALS[condition]
    bench.put(numbered(10))
    server.refusal = RefusedError(condition, "Words that nobody should rely on.")
    with leaving_no_thread(), taking_at_most(6), pytest.raises(wanted, match=words) as raised:
        bench.read(timeout=1)
    assert type(raised.value) is wanted
    assert "rely" not in str(raised.value)


# -- what can't be reached


def away(port: int, timeout: float = 1.0, host: str = "127.0.0.1") -> EventHubStream:
    options = {"connection_string": EMULATED.format(port=port).replace("127.0.0.1", host)}
    return EventHubStream(HUB, options, timeout=timeout)


def test_a_closed_port_is_unavailable_within_the_timeout() -> None:
    with leaving_no_thread(), taking_at_most(4), pytest.raises(StreamUnavailableError, match="connection refused"):
        away(free_port()).partitions()


def test_a_name_that_does_not_resolve_is_unavailable_within_the_timeout() -> None:
    with taking_at_most(6), pytest.raises(StreamUnavailableError, match=r"hub\.invalid"):
        away(5672, host="hub.invalid").partitions()


@contextmanager
def listener(answer: Callable[[socket.socket], None] = lambda _: None) -> Iterator[int]:
    """A port whose connections are taken, and handed to `answer`."""
    taken: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                taken.append(listening.accept()[0])
            except OSError:
                return
            try:
                answer(taken[-1])
            except OSError:
                continue

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for one in taken:
                one.close()


def answer_no_further(sock: socket.socket) -> None:
    """Send back the protocol's header, and then nothing."""
    sock.sendall(sock.recv(8))


HALF_SERVERS = {
    "nothing": lambda _: None,
    "a header": answer_no_further,
    "something else": lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a closed connection": lambda sock: sock.shutdown(socket.SHUT_RDWR),
}


@pytest.mark.parametrize("said", HALF_SERVERS)
def test_a_server_that_accepts_and_says_no_more_is_unavailable_and_no_thread_stays(said: str) -> None:
    with (
        listener(HALF_SERVERS[said]) as port,
        leaving_no_thread(),
        taking_at_most(6),
        pytest.raises(StreamUnavailableError, match="gave no answer about hub"),
    ):
        away(port).partitions()


@pytest.mark.parametrize("transport", ["amqp", "websocket"])
def test_a_server_that_never_shakes_hands_is_unavailable_and_no_thread_stays(trusted: Path, transport: str) -> None:
    with listener() as port, leaving_no_thread(), taking_at_most(8):
        options = {
            "connection_string": GOOD,
            "custom_endpoint_address": f"sb://127.0.0.1:{port}",
            "connection_verify": str(trusted),
            "transport": transport,
        }
        with pytest.raises(StreamUnavailableError, match="gave no answer about hub"):
            EventHubStream(HUB, options, timeout=1).partitions()


def test_a_server_that_falls_silent_before_a_question_is_unavailable_and_no_thread_stays(
    server: EventHubsServer, bench: HubBench
) -> None:
    stream = bench.stream(timeout=1)
    stream.news({})
    server.freeze()
    with leaving_no_thread(), taking_at_most(6), pytest.raises(StreamUnavailableError):
        stream.news({})


def test_the_default_timeout_keeps_every_failure_within_20_seconds() -> None:
    with listener() as port, taking_at_most(20), pytest.raises(StreamUnavailableError):
        away(port, timeout=Settings().stream_timeout).partitions()


# -- tools


@contextmanager
def identity_endpoint(token: str) -> Iterator[tuple[str, list[str]]]:
    """What a container of Azure has: an address that gives out tokens; and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(
                {"access_token": token, "expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{endpoint.server_address[1]}/msi/token", asked
        finally:
            endpoint.shutdown()
            thread.join(5)


@contextmanager
def proxy() -> Iterator[tuple[int, list[str]]]:
    """An HTTP proxy that passes connections on; its port, and the first lines of what it was asked."""
    asked: list[str] = []
    pumps: list[threading.Thread] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def connect(client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        asked.append(head.split(b"\r\n")[0].decode())
        host, _, port = asked[-1].split()[1].partition(":")
        server = socket.create_connection((host, int(port)), 5)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for ends in ((client, server), (server, client)):
            pumps.append(threading.Thread(target=pump, args=ends, daemon=True))
            pumps[-1].start()

    with listener(connect) as port:
        yield port, asked
    for one in pumps:
        one.join(5)
