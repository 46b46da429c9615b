"""The documented configuration for a hub's Kafka endpoint works: taken from the page, it logs in where its user may."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import kafka_server
from tests.brokers import Bench
from tests.certificates import Authority
from tests.kafka_server import ApacheKafka

from spendgate.errors import StreamAccessError
from spendgate.settings import ROOT, Settings
from spendgate.streams.kafka import KafkaStream
from spendgate.streams.kafka_producer import KafkaWriter

KEY = "Endpoint=sb://NAME.servicebus.windows.net/;SharedAccessKeyName=spendgate;SharedAccessKey=..."


def blocks(marker: str) -> list[str]:
    """The examples on the page on streams that hold some words."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("streams*.md")))
    return [block for block in pages.split("```")[1::2] if marker in block]


def documented() -> dict[str, str]:
    """The settings of the example, as a shell reads them."""
    (example,) = blocks("windows.net:9093\nSPENDGATE")
    return dict(word.split("=", 1) for word in shlex.split(example))


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Apache Kafka that asks for what the endpoint asks for, and how to reach it."""
    kafka_server.require()
    authority = Authority("Event Hubs of the tests")
    server = authority.certify("broker")
    folder = tmp_path_factory.mktemp("tls")
    keystore: Path = folder / "keystore.pem"
    keystore.write_text(server.key + server.certificate)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    properties = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{login} user_$ConnectionString="{KEY}";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
    }
    with ApacheKafka(properties, ("SASL_SSL",)) as kafka:
        Bench(kafka.bootstrap).create("ad-clicks")
        yield {"bootstrap.servers": kafka.addresses["SASL_SSL"], "ssl.ca.pem": authority.certificate}


@pytest.mark.slow
def test_the_documented_configuration_logs_in_writes_and_reads(
    endpoint: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in documented().items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.kafka_bootstrap == "NAME.servicebus.windows.net:9093"
    properties = {**settings.kafka_properties, **endpoint}
    with KafkaWriter(properties, timeout=15) as writer:
        writer.require(["ad-clicks"])
        writer.write("ad-clicks", [(b"1", b"a"), (b"2", b"b"), (b"3", bytes(900_000))])
        writer.flush()
    stream = KafkaStream("ad-clicks", properties, group=settings.consumer_group, timeout=15)
    with stream.read(stream.partitions()[0], None) as read:
        (batch,) = read.batches(50)
    assert batch.values == [b"a", b"b", bytes(900_000)]


@pytest.mark.slow
def test_another_key_is_refused(endpoint: dict[str, str]) -> None:
    properties = {**json.loads(documented()["SPENDGATE_KAFKA_CONFIG"]), **endpoint}
    properties["sasl.password"] = KEY.replace("...", "hunter2")
    with pytest.raises(StreamAccessError) as raised:
        KafkaStream("ad-clicks", properties, group="spendgate", timeout=5).partitions()
    assert "hunter2" not in str(raised.value)


def test_the_airflow_connection_on_the_page_holds_the_same_properties() -> None:
    (line,) = blocks('windows.net:9093", "security.protocol"')
    extra = json.loads(line.partition("=")[2])["extra"]
    settings = json.loads(documented()["SPENDGATE_KAFKA_CONFIG"])
    assert extra.keys() - {"bootstrap.servers"} == settings.keys()
    same = settings.keys() - {"sasl.password"}
    assert {name: extra[name] for name in same} == {name: settings[name] for name in same}
