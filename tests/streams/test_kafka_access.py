"""Logins and permissions on Apache Kafka: who may gets everything, who may not gets one sentence soon."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from tests import kafka_server
from tests.brokers import Bench, await_that
from tests.certificates import Authority, Certified
from tests.kafka_server import ApacheKafka

from spendgate.errors import SpendGateError, StreamAccessError, StreamUnavailableError
from spendgate.streams.kafka import KafkaStream
from spendgate.streams.kafka_producer import KafkaTopics, KafkaWriter

PASSWORD = "correct-horse"
WRONG = "battery-staple"
# Of the broker's users only `everyman` may do all that we do; each test gives the others what it is about.
USERS = ("everyman", "stranger", "onlooker", "reader", "fickle", "maker")
TIMEOUT = 5.0

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"

Properties = dict[str, str]


@dataclass(frozen=True)
class Guarded:
    """Apache Kafka that wants logins and checks permissions, and what a client needs to know of it."""

    kafka: ApacheKafka
    bench: Bench  # of the superuser: the plain listener asks nobody
    authority: Authority
    client: Certified

    def sasl(
        self, mechanism: str, user: str = "everyman", password: str = PASSWORD, *, tls: bool = False
    ) -> Properties:
        protocol = "SASL_SSL" if tls else "SASL_PLAINTEXT"
        return {
            "bootstrap.servers": self.kafka.addresses[protocol],
            "security.protocol": protocol,
            "sasl.mechanism": mechanism,
            "sasl.username": user,
            "sasl.password": password,
            **({"ssl.ca.pem": self.authority.certificate} if tls else {}),
        }

    def certified(self, client: Certified | None) -> Properties:
        own = {"ssl.certificate.pem": client.certificate, "ssl.key.pem": client.key} if client else {}
        return {
            "bootstrap.servers": self.kafka.addresses["SSL"],
            "security.protocol": "SSL",
            "ssl.ca.pem": self.authority.certificate,
            **own,
        }

    def allow(self, user: str, operation: AclOperation, name: str, kind: ResourceType = ResourceType.TOPIC) -> None:
        """Let `user` do that to everything whose name begins with `name`."""
        binding = AclBinding(
            kind, name, ResourcePatternType.PREFIXED, f"User:{user}", "*", operation, AclPermissionType.ALLOW
        )
        self.bench.admin.create_acls([binding])[binding].result(10)
        await_that(lambda: binding in self._rights(user))

    def forbid(self, user: str) -> None:
        """Take all that `user` may do away."""
        self.bench.admin.delete_acls([_everything_of(user)])[_everything_of(user)].result(10)
        await_that(lambda: not self._rights(user))

    def _rights(self, user: str) -> list[AclBinding]:
        """As the broker knows them, which hears of a change a moment after the controller."""
        found: list[AclBinding] = self.bench.admin.describe_acls(_everything_of(user)).result(10)
        return found


def _everything_of(user: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.ANY,
        None,
        ResourcePatternType.ANY,
        f"User:{user}",
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    kafka_server.require()
    authority = Authority("SpendGate's tests")
    with ApacheKafka(_guard(authority, tmp_path_factory.mktemp("tls")), ("SASL_PLAINTEXT", "SSL", "SASL_SSL")) as kafka:
        made = Guarded(kafka, Bench(kafka.bootstrap), authority, authority.certify("everyman"))
        admin = made.bench.admin
        scrams = [
            UserScramCredentialUpsertion("everyman", ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
        ]
        for one in scrams:
            admin.alter_user_scram_credentials([one])["everyman"].result(10)
        for user in ("everyman", "CN=everyman"):
            made.allow(user, AclOperation.ALL, "test-")
            made.allow(user, AclOperation.ALL, "test-", ResourceType.GROUP)
        yield made


def _guard(authority: Authority, directory: Path) -> Properties:
    server = authority.certify("broker")
    keystore, truststore = directory / "keystore.pem", directory / "truststore.pem"
    keystore.write_text(server.key + server.certificate)
    truststore.write_text(authority.certificate)
    users = " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{PLAIN} {users};",
        "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": SCRAM,
        "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": SCRAM,
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{PLAIN} {users};",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": SCRAM,
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(truststore),
    }


# -- logins

GOOD_LOGINS = {
    "SASL/PLAIN": lambda guarded: guarded.sasl("PLAIN"),
    "SCRAM-SHA-256": lambda guarded: guarded.sasl("SCRAM-SHA-256"),
    "SCRAM-SHA-512": lambda guarded: guarded.sasl("SCRAM-SHA-512"),
    "a client certificate": lambda guarded: guarded.certified(guarded.client),
    "SASL/PLAIN over TLS": lambda guarded: guarded.sasl("PLAIN", tls=True),
    "SCRAM-SHA-512 over TLS": lambda guarded: guarded.sasl("SCRAM-SHA-512", tls=True),
}


@pytest.mark.parametrize("login", GOOD_LOGINS)
def test_who_logs_in_can_write_read_and_commit(guarded: Guarded, login: str) -> None:
    properties = GOOD_LOGINS[login](guarded)
    topic = guarded.bench.topic()
    with KafkaWriter(properties, timeout=10) as writer:
        writer.require([topic])
        writer.write(topic, [(b"7", b"%d" % number) for number in range(100)])
        writer.flush()
    values: list[bytes | None] = []
    group = f"test-{login}"
    assert guarded.bench.committed(topic, group) is None
    stream = KafkaStream(topic, properties, group=group, timeout=10)
    (partition,) = stream.partitions()
    with stream.read(partition, None) as read:
        for batch in read.batches(50):
            values += batch.values
            read.commit(batch.next_position)
    assert values == [b"%d" % number for number in range(100)]
    assert guarded.bench.committed(topic, group) == 100


def _tls(guarded: Guarded, **changed: str) -> Properties:
    return {**guarded.sasl("PLAIN", tls=True), **{key.replace("_", "."): value for key, value in changed.items()}}


BAD_LOGINS = {
    "a wrong password by PLAIN": lambda guarded: guarded.sasl("PLAIN", password=WRONG),
    "a wrong password by SCRAM-SHA-256": lambda guarded: guarded.sasl("SCRAM-SHA-256", password=WRONG),
    "a wrong password by SCRAM-SHA-512": lambda guarded: guarded.sasl("SCRAM-SHA-512", password=WRONG),
    "a wrong password over TLS": lambda guarded: guarded.sasl("PLAIN", password=WRONG, tls=True),
    "an unknown user by PLAIN": lambda guarded: guarded.sasl("PLAIN", user="nobody"),
    "an unknown user by SCRAM": lambda guarded: guarded.sasl("SCRAM-SHA-512", user="nobody"),
    "a mechanism that isn't offered": lambda guarded: guarded.sasl("SCRAM-SHA-256", tls=True),
    "a server that we don't trust": lambda guarded: _tls(guarded, ssl_ca_pem=Authority("another").certificate),
    "a server of another name": lambda guarded: _tls(
        guarded, bootstrap_servers=guarded.kafka.addresses["SASL_SSL"].replace("127.0.0.1", "localhost")
    ),
    "SASL at a port without it": lambda guarded: {**guarded.sasl("PLAIN"), **guarded.bench.properties},
}
# TLS tells a client that its certificate is refused after the handshake, by an alert, and librdkafka gives that the
# code of any lost connection.
BAD_CERTIFICATES = {
    "a certificate that the broker doesn't trust": lambda guarded: guarded.certified(
        Authority("another").certify("everyman")
    ),
    "no certificate": lambda guarded: guarded.certified(None),
}


@dataclass(frozen=True)
class Refusal:
    error: BaseException | None
    seconds: float


@pytest.fixture(scope="module")
def refusals(guarded: Guarded) -> Mapping[str, Refusal]:
    """What each bad login comes to; all are tried at once, since each waits out the time limit."""

    bad = BAD_LOGINS | BAD_CERTIFICATES

    def attempt(login: str) -> Refusal:
        stream = KafkaStream("test-any", bad[login](guarded), group="test-any", timeout=TIMEOUT)
        begun = time.monotonic()
        error: BaseException | None = None
        try:
            stream.partitions()
        except SpendGateError as raised:
            error = raised
        return Refusal(error, time.monotonic() - begun)

    with ThreadPoolExecutor(len(bad)) as pool:
        return dict(zip(bad, pool.map(attempt, bad), strict=True))


@pytest.mark.parametrize("login", BAD_LOGINS)
def test_a_refused_login_is_an_access_error_of_one_sentence_within_the_timeout(
    refusals: Mapping[str, Refusal], login: str
) -> None:
    refusal = refusals[login]
    assert isinstance(refusal.error, StreamAccessError)
    assert "correct the credentials" in str(refusal.error)
    _assert_proper(refusal)


@pytest.mark.parametrize("login", BAD_CERTIFICATES)
def test_a_refused_client_certificate_is_told_in_one_sentence_within_the_timeout(
    refusals: Mapping[str, Refusal], login: str
) -> None:
    refusal = refusals[login]
    assert isinstance(refusal.error, StreamUnavailableError)
    assert "alert" in str(refusal.error)
    assert "security settings" in str(refusal.error)
    _assert_proper(refusal)


def _assert_proper(refusal: Refusal) -> None:
    sentence = str(refusal.error)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert not any(secret in sentence for secret in (PASSWORD, WRONG, "PRIVATE KEY", "CERTIFICATE-----"))
    assert refusal.seconds < TIMEOUT + 2


def test_a_writer_with_a_wrong_password_gets_an_access_error_within_the_timeout(guarded: Guarded) -> None:
    topic = guarded.bench.topic()
    begun = time.monotonic()
    with (
        KafkaWriter(guarded.sasl("PLAIN", password=WRONG), timeout=2.0) as writer,
        pytest.raises(StreamAccessError, match="correct the credentials"),
    ):
        _send(writer, topic)
    assert time.monotonic() - begun < 5
    assert guarded.bench.read(topic)[0] == []


# -- permissions


def test_a_topic_that_is_denied_is_an_access_error(guarded: Guarded) -> None:
    topic = guarded.bench.topic()
    begun = time.monotonic()
    with pytest.raises(StreamAccessError, match=topic):
        KafkaStream(topic, guarded.sasl("PLAIN", "stranger"), group="test-any", timeout=TIMEOUT).partitions()
    assert time.monotonic() - begun < 2  # an answer, not silence


def test_a_topic_that_may_be_seen_but_not_read_is_an_access_error(guarded: Guarded) -> None:
    topic = guarded.bench.topic()
    guarded.bench.produce(topic, [b"secret"])
    guarded.allow("onlooker", AclOperation.DESCRIBE, topic)
    stream = KafkaStream(topic, guarded.sasl("PLAIN", "onlooker"), group="test-any", timeout=TIMEOUT)
    (partition,) = stream.partitions()
    begun = time.monotonic()
    with pytest.raises(StreamAccessError, match=topic), stream.read(partition, None):
        pass
    assert time.monotonic() - begun < 2


def test_a_topic_that_may_be_seen_but_not_written_is_an_access_error_and_gets_nothing(guarded: Guarded) -> None:
    topic = guarded.bench.topic()
    guarded.allow("onlooker", AclOperation.DESCRIBE, topic)
    with (
        KafkaWriter(guarded.sasl("PLAIN", "onlooker"), timeout=TIMEOUT) as writer,
        pytest.raises(StreamAccessError, match=topic),
    ):
        _send(writer, topic)
    assert guarded.bench.read(topic)[0] == []


def test_a_writer_that_the_broker_refused_in_the_background_gets_an_access_error_at_the_next_write(
    guarded: Guarded,
) -> None:
    topic = guarded.bench.topic()
    guarded.allow("onlooker", AclOperation.DESCRIBE, topic)
    with KafkaWriter(guarded.sasl("PLAIN", "onlooker"), timeout=TIMEOUT) as writer:
        writer.write(topic, [(b"1", b"{}")])
        time.sleep(1)  # the refusal arrives
        with pytest.raises(StreamAccessError, match=topic):
            _send(writer, topic)


def test_a_writer_of_another_topic_gets_an_access_error_and_the_topic_nothing(guarded: Guarded) -> None:
    own, other = guarded.bench.topic(), guarded.bench.topic()
    guarded.allow("onlooker", AclOperation.WRITE, own)
    with KafkaWriter(guarded.sasl("PLAIN", "onlooker"), timeout=TIMEOUT) as writer:
        _send(writer, own)
        with pytest.raises(StreamAccessError, match=other):
            _send(writer, other)
    assert (guarded.bench.read(own)[0], guarded.bench.read(other)[0]) == ([b"{}"], [])


def test_a_group_that_is_denied_costs_only_the_committed_offset(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    topic = guarded.bench.topic()
    guarded.bench.produce(topic, [b"a", b"b"])
    guarded.allow("reader", AclOperation.READ, topic)
    stream = KafkaStream(topic, guarded.sasl("PLAIN", "reader"), group="test-denied", timeout=TIMEOUT)
    (partition,) = stream.partitions()
    with stream.read(partition, None) as read:
        (batch,) = read.batches(10)
        read.commit(batch.next_position)
    assert batch.values == [b"a", b"b"]
    assert "test-denied has no committed offset" in caplog.text


def test_a_permission_that_is_withdrawn_in_mid_read_is_an_access_error(guarded: Guarded) -> None:
    topic = guarded.bench.topic()
    guarded.bench.produce(topic, [bytes(10_000)] * 1_000)
    guarded.allow("fickle", AclOperation.READ, topic)
    properties = {**guarded.sasl("PLAIN", "fickle"), "queued.max.messages.kbytes": "1024"}
    stream = KafkaStream(topic, properties, group="test-any", timeout=TIMEOUT)
    (partition,) = stream.partitions()
    with stream.read(partition, None) as read:
        batches = read.batches(50)
        next(batches)
        guarded.forbid("fickle")
        with pytest.raises(StreamAccessError):
            for _ in batches:
                pass


# -- the flag topic


def test_a_missing_topic_that_may_not_be_made_is_an_access_error_that_says_so(
    guarded: Guarded, topic_name: str
) -> None:
    guarded.allow("onlooker", AclOperation.DESCRIBE, topic_name)
    begun = time.monotonic()
    with pytest.raises(StreamAccessError, match=rf"{topic_name}.*may not create it.*cleanup\.policy=compact"):
        KafkaTopics(guarded.sasl("PLAIN", "onlooker"), timeout=TIMEOUT).ensure_topic(topic_name, 1, compacted=True)
    assert time.monotonic() - begun < 3


def test_a_missing_topic_that_may_be_made_is_made(guarded: Guarded, topic_name: str) -> None:
    guarded.allow("maker", AclOperation.CREATE, topic_name)
    guarded.allow("maker", AclOperation.DESCRIBE, topic_name)
    made = KafkaTopics(guarded.sasl("PLAIN", "maker"), timeout=TIMEOUT).ensure_topic(topic_name, 1, compacted=True)
    assert guarded.bench.partition(topic_name).incarnation == made


def test_a_topic_whose_settings_we_may_not_see_is_published_to_all_the_same(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    topic = guarded.bench.topic()
    guarded.allow("onlooker", AclOperation.DESCRIBE, topic)
    topics = KafkaTopics(guarded.sasl("PLAIN", "onlooker"), timeout=TIMEOUT)
    assert topics.ensure_topic(topic, 1, compacted=True) == guarded.bench.partition(topic).incarnation
    assert caplog.records == []


def _send(writer: KafkaWriter, topic: str) -> None:
    writer.write(topic, [(b"1", b"{}")])
    writer.flush()
