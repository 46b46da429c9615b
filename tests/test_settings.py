"""One reader of configuration: what it makes of the environment, and what it says of a wrong value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spendgate.errors import ConfigurationError
from spendgate.settings import ROOT, Settings, StreamKind, load_settings


@pytest.fixture(autouse=True)
def _read_again() -> Iterator[None]:
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def test_an_empty_environment_is_the_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SPENDGATE_{name.upper()}", raising=False)
    settings = load_settings()
    assert settings.home == ROOT / ".spendgate"
    assert settings.streams == ("ad-clicks", "ad-budgets", "ad-reference")
    assert (settings.warehouse_url, settings.kafka_bootstrap, settings.kafka_properties) == (None, None, {})


def test_streams_are_split_at_commas_and_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDGATE_STREAMS", " clicks , budgets,, ")
    assert load_settings().streams == ("clicks", "budgets")


def test_a_stream_without_a_kind_is_a_kafka_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDGATE_STREAMS", "ad-clicks,kafka:ad-ads,eventhub:ad-budgets,files:history")
    settings = load_settings()
    assert {name: kind.value for name, kind in settings.stream_kinds.items()} == {
        "ad-clicks": "kafka",
        "ad-ads": "kafka",
        "ad-budgets": "eventhub",
        "history": "files",
    }
    assert settings.streams_of(StreamKind.KAFKA) == ["ad-clicks", "ad-ads"]


def test_what_flags_are_published_to_is_used_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDGATE_STREAMS", "files:history")
    monkeypatch.setenv("SPENDGATE_FLAG_TOPIC", "eventhub:can-serve")
    settings = load_settings()
    assert [kind for kind in StreamKind if settings.uses(kind)] == [StreamKind.EVENTHUB, StreamKind.FILES]


def test_a_relative_home_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPENDGATE_HOME", "a home")
    assert load_settings().home == tmp_path / "a home"


def test_kafka_config_is_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDGATE_KAFKA_CONFIG", '{"security.protocol": "SASL_SSL", "sasl.password": "secret"}')
    assert load_settings().kafka_properties == {"security.protocol": "SASL_SSL", "sasl.password": "secret"}
    assert "secret" not in repr(load_settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPENDGATE_STREAMS", " , "),
        ("SPENDGATE_STREAMS", "amqp:ad-clicks"),
        ("SPENDGATE_STREAMS", "eventhub:"),
        ("SPENDGATE_STREAMS", "ad-clicks,eventhub:ad-clicks"),
        ("SPENDGATE_FLAG_TOPIC", "files:can-serve"),
        ("SPENDGATE_EVENTHUB_CONFIG", "secret"),
        ("SPENDGATE_FILES_CONFIG", '"secret"'),
        ("SPENDGATE_BATCH_SIZE", "many"),
        ("SPENDGATE_BATCH_SIZE", "50001"),
        ("SPENDGATE_BROKER_PORT", "70000"),
        ("SPENDGATE_STREAM_TIMEOUT", "0"),
        ("SPENDGATE_KAFKA_CONFIG", "secret=1"),
        ("SPENDGATE_KAFKA_CONFIG", '["secret"]'),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_variable_and_keeps_secrets(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^Set {name} to a right value: ") as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_nothing_that_stands_in_a_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDGATE_WAREHOUSE_URL", "postgresql+psycopg://me:hush@example/ads")
    assert "hush" not in repr(load_settings())
