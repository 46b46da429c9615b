"""Every setting, read once from the environment (`SPENDGATE_*`); `.env.example` lists them for people."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from spendgate.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]

# An hour's worth of the busiest partition we have seen fits a few batches of this size, and a batch of
# this size, decoded, stays well under 200 MB.
MAX_BATCH_SIZE = 50_000


class StreamKind(StrEnum):
    """What a stream is read from; the prefix of its name in SPENDGATE_STREAMS, Kafka's left out."""

    KAFKA = "kafka"
    EVENTHUB = "eventhub"
    FILES = "files"


def split_stream(text: str) -> tuple[StreamKind, str]:
    """`eventhub:ad-clicks` as kind and name; without a kind it is a Kafka topic.

    Raises:
        ValueError: there is no such kind, or no name.
    """
    kind, colon, name = text.rpartition(":")
    if colon and kind not in list(StreamKind):
        raise ValueError(f"{text!r} has no kind of {', '.join(StreamKind)} before the colon")
    if not name:
        raise ValueError(f"{text!r} names no stream")
    return StreamKind(kind) if colon else StreamKind.KAFKA, name


def _load_object(value: SecretStr | None) -> dict[str, Any]:
    """A setting that is a JSON object, as a dict; empty when unset."""
    return {} if value is None else dict(json.loads(value.get_secret_value()))


class Settings(BaseSettings):
    """The settings of one SpendGate home."""

    model_config = SettingsConfigDict(env_prefix="SPENDGATE_", extra="ignore", frozen=True)

    home: Path = Field(ROOT / ".spendgate", description="Directory of all local state.")

    warehouse_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the warehouse (postgresql+psycopg://... or mssql+mssqlpython://...); "
        "unset: the laptop's own PostgreSQL under SPENDGATE_HOME.",
    )
    warehouse_admin_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of SQL Server's administrator, by which `init` makes the database and logins; "
        "unset: they are there. Nothing else reads it.",
    )
    api_password: SecretStr | None = Field(
        None, description="Password that `init` gives the login spendgate_api_user; unset: it isn't made."
    )
    analyst_password: SecretStr | None = Field(
        None, description="Password that `init` gives the login spendgate_analyst_user; unset: it isn't made."
    )
    airflow_password: SecretStr | None = Field(
        None, description="Password that `init --airflow` gives the user admin of Airflow's UI."
    )
    warehouse_connections: int = Field(
        6, ge=2, le=1000, description="Most connections to the warehouse that one task, or the API, holds at a time."
    )
    kafka_bootstrap: str | None = Field(
        None, description="host:port,... of the Kafka brokers; unset: the laptop's own broker."
    )
    kafka_config: SecretStr | None = Field(
        None,
        description="Further librdkafka properties as one JSON object (security.protocol, sasl.username, ...).",
    )
    eventhub_connection: SecretStr | None = Field(
        None, description="Connection string of the Event Hubs namespace (Endpoint=sb://...;SharedAccessKey=...)."
    )
    eventhub_namespace: str | None = Field(
        None,
        description="Host name of the namespace, instead of a connection string: signs in by Azure identity.",
    )
    eventhub_consumer_group: str | None = Field(
        None, description="Consumer group of Event Hubs that reads belong to; unset: $Default, which every hub has."
    )
    eventhub_config: SecretStr | None = Field(
        None,
        description="Further options for Event Hubs as one JSON object (transport, http_proxy, ...).",
    )
    files_url: str | None = Field(
        None, description="Directory, or fsspec URL (abfs://container/path), with one folder a files stream."
    )
    files_config: SecretStr | None = Field(
        None, description="Options of the file system as one JSON object (account_name, credential, ...)."
    )
    files_settle_seconds: float = Field(
        5.0, ge=0, description="A file that was changed less than this many seconds ago is left for later."
    )

    streams: Annotated[tuple[str, ...], NoDecode] = Field(
        ("ad-clicks", "ad-budgets", "ad-reference"),
        description="Streams to read, comma-separated: Kafka topics, eventhub:NAME for a hub, files:NAME for a folder.",
    )
    consumer_group: str = Field("spendgate", description="Kafka consumer group whose offsets lag monitors watch.")
    flag_topic: str = Field(
        "can-serve", description="Compacted Kafka topic that flags are published to, or eventhub:NAME for a hub."
    )
    topic_partitions: int = Field(2, ge=1, le=1000, description="Partitions of topics that are made.")

    batch_size: int = Field(MAX_BATCH_SIZE, ge=1, le=MAX_BATCH_SIZE, description="Most events in one staged batch.")
    lateness_days: int = Field(
        31, ge=1, le=3660, description="A click older than this many days when it was enqueued is rejected."
    )
    files_lateness_days: int = Field(
        3660, ge=1, le=3660, description="The same for clicks in files, by which history is brought in."
    )
    quality_file: Path = Field(
        ROOT / "quality.yaml", description="YAML file with what the gate expects of a batch before it is merged."
    )
    stream_timeout: float = Field(15.0, gt=0, description="Seconds to wait for a broker before giving up.")
    lock_timeout: float = Field(600.0, gt=0, description="Seconds a run waits for another one that is under way.")

    staging_keep_days: int = Field(
        7, ge=1, le=3660, description="Days that staged rows and raw messages are kept after their batch was merged."
    )
    rejected_keep_days: int = Field(
        90, ge=1, le=3660, validate_default=True, description="Days that rejected events are kept."
    )
    outbox_keep_days: int = Field(7, ge=1, le=3660, description="Days that published messages are kept in the outbox.")
    run_log_keep_days: int = Field(400, ge=1, le=3660, description="Days that entries of etl.RunLog are kept.")
    discrepancy_keep_days: int = Field(400, ge=1, le=3660, description="Days that closed differences are kept.")
    clicks_keep_days: int | None = Field(
        None, ge=32, le=36600, description="Days that clicks are kept; their windows stay; unset: for ever."
    )
    alarm_webhook: SecretStr | None = Field(
        None, description="URL that failed tasks and late runs are posted to as JSON; it may hold a token."
    )

    flag_max_age: float = Field(
        3.0,
        gt=0,
        description="Hours after which a flag that was not decided again counts as no: the API calls it stale.",
    )
    api_warehouse_url: SecretStr | None = Field(
        None, description="The API's own login, as a SQLAlchemy URL; unset: SPENDGATE_WAREHOUSE_URL."
    )
    api_signing_key: SecretStr | None = Field(
        None,
        description="What the API signs tokens with: a secret of at least 32 characters (HS256), or a private key as "
        "PEM (RS256, ES256); unset: the laptop makes its own, anything else doesn't start.",
    )
    api_previous_signing_key: SecretStr | None = Field(
        None, description="The key before: its tokens are still taken, and no new ones are signed with it."
    )
    api_issuer: str = Field("spendgate", min_length=1, description="iss of the API's tokens.")
    api_audience: str = Field("spendgate-api", min_length=1, description="aud of the API's tokens.")
    api_token_minutes: float = Field(15.0, gt=0, le=1440, description="Minutes that an access token holds.")
    api_session_days: float = Field(
        30.0, gt=0, le=365, description="Days after which a log-in ends, however often it was refreshed."
    )
    api_cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API, comma-separated; empty: none."
    )
    api_rate_limit: str = Field(
        "100000/minute", description="Most requests of one user or key, for each server process: NUMBER/PERIOD."
    )
    api_login_rate_limit: str = Field(
        "20/minute", description="Most log-ins and refreshes from one address, for each server process: NUMBER/PERIOD."
    )
    api_host: str = Field("127.0.0.1", min_length=1, description="Address that ./spendgate api listens on.")
    api_port: int = Field(8090, ge=0, le=65535, description="Port of ./spendgate api; 0: a free one.")

    warehouse_port: int = Field(0, ge=0, le=65535, description="Port of the laptop's PostgreSQL; 0: a free one.")
    broker_port: int = Field(0, ge=0, le=65535, description="Port of the laptop's broker; 0: a free one.")
    ui_port: int = Field(
        0, ge=0, le=65535, description="Port of Airflow's UI; 0: 8080, or a free one if that is taken."
    )

    @field_validator("streams", "api_cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("streams")
    @classmethod
    def _named_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one stream")
        # The books know a stream by its name alone, so that it keeps them when it moves.
        names = [split_stream(text)[1] for text in value]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{repeated} is named twice")
        return value

    @field_validator("rejected_keep_days")
    @classmethod
    def _longer_than_staged(cls, value: int, info: ValidationInfo) -> int:
        # Reconciliation counts the rejections of every batch that is staged.
        if value < info.data.get("staging_keep_days", value):
            raise ValueError("rejected events are kept at least as long as SPENDGATE_STAGING_KEEP_DAYS says")
        return value

    @field_validator("clicks_keep_days")
    @classmethod
    def _longer_than_late(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value <= info.data.get("lateness_days", 0):
            raise ValueError("clicks are kept for longer than SPENDGATE_LATENESS_DAYS lets them be late")
        return value

    @field_validator("flag_topic")
    @classmethod
    def _topic_or_hub(cls, value: str) -> str:
        if split_stream(value)[0] is StreamKind.FILES:
            raise ValueError("flags are published to a Kafka topic or to eventhub:NAME, not to files")
        return value

    @field_validator("api_rate_limit", "api_login_rate_limit")
    @classmethod
    def _rate(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9]\d{0,8}/(second|minute|hour)", value):
            raise ValueError("write it like 600/minute; periods are second, minute and hour")
        return value

    @field_validator("warehouse_url", "warehouse_admin_url", "api_warehouse_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        # Told by its shape: a library that parses it takes half a second to load.
        if value is not None and "://" not in value.get_secret_value():
            raise ValueError("not a database URL like postgresql+psycopg://user:password@host/database")
        return value

    @field_validator("kafka_config", "eventhub_config", "files_config")
    @classmethod
    def _json_object(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                loaded = json.loads(value.get_secret_value())
            except json.JSONDecodeError as error:
                raise ValueError("not a JSON object") from error
            if not isinstance(loaded, dict):
                raise ValueError("not a JSON object")
        return value

    def as_environment(self) -> dict[str, str]:
        """The settings that were set, and the home, as variables: a process that is given them reads the same ones."""
        result = {}
        for name in {*self.model_fields_set, "home"}:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, tuple):
                value = ",".join(value)
            if value is not None:
                result[f"SPENDGATE_{name.upper()}"] = str(value)
        return result

    @property
    def kafka_properties(self) -> dict[str, Any]:
        """`kafka_config` as a dict; empty when unset."""
        return _load_object(self.kafka_config)

    @property
    def eventhub_options(self) -> dict[str, Any]:
        """`eventhub_config` as a dict; empty when unset."""
        return _load_object(self.eventhub_config)

    @property
    def files_options(self) -> dict[str, Any]:
        """`files_config` as a dict; empty when unset."""
        return _load_object(self.files_config)

    @property
    def stream_kinds(self) -> dict[str, StreamKind]:
        """The kind of every stream by its name, in the order in which they were named."""
        return {name: kind for kind, name in map(split_stream, self.streams)}

    def streams_of(self, kind: StreamKind) -> list[str]:
        """The names of the streams of one kind."""
        return [name for name, found in self.stream_kinds.items() if found is kind]

    def uses(self, kind: StreamKind) -> bool:
        """Whether anything is read from or published to this kind."""
        return kind in self.stream_kinds.values() or split_stream(self.flag_topic)[0] is kind


@cache
def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: a variable's value is wrong; the sentence names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "SPENDGATE_" + str(first["loc"][0] if first["loc"] else "").upper()
        raise ConfigurationError(f"Set {name} to a right value: {first['msg']}.") from error
