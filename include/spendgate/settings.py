"""Every setting, read once from the environment (`SPENDGATE_*`); `.env.example` lists them for people."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from spendgate.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]

# An hour's worth of the busiest partition we have seen fits a few batches of this size, and a batch of
# this size, decoded, stays well under 200 MB.
MAX_BATCH_SIZE = 50_000


class Settings(BaseSettings):
    """The settings of one SpendGate home."""

    model_config = SettingsConfigDict(env_prefix="SPENDGATE_", extra="ignore", frozen=True)

    home: Path = Field(ROOT / ".spendgate", description="Directory of all local state.")

    warehouse_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the warehouse (postgresql+psycopg://... or mssql+mssqlpython://...); "
        "unset: the laptop's own PostgreSQL under SPENDGATE_HOME.",
    )
    kafka_bootstrap: str | None = Field(
        None, description="host:port,... of the Kafka brokers; unset: the laptop's own broker."
    )
    kafka_config: SecretStr | None = Field(
        None,
        description="Further librdkafka properties as one JSON object (security.protocol, sasl.username, ...).",
    )
    streams: Annotated[tuple[str, ...], NoDecode] = Field(
        ("ad-clicks", "ad-budgets", "ad-reference"), description="Topics to read, comma-separated."
    )
    consumer_group: str = Field("spendgate", description="Consumer group whose offsets lag monitors watch.")
    flag_topic: str = Field("can-serve", description="Compacted topic that flags are published to.")
    topic_partitions: int = Field(2, ge=1, le=1000, description="Partitions of topics made on the laptop.")

    batch_size: int = Field(MAX_BATCH_SIZE, ge=1, le=MAX_BATCH_SIZE, description="Most events in one staged batch.")
    lateness_days: int = Field(
        31, ge=1, le=3660, description="A click older than this many days when it was enqueued is rejected."
    )
    stream_timeout: float = Field(15.0, gt=0, description="Seconds to wait for a broker before giving up.")
    lock_timeout: float = Field(600.0, gt=0, description="Seconds a run waits for another one that is under way.")

    warehouse_port: int = Field(0, ge=0, le=65535, description="Port of the laptop's PostgreSQL; 0: a free one.")
    broker_port: int = Field(0, ge=0, le=65535, description="Port of the laptop's broker; 0: a free one.")
    ui_port: int = Field(
        0, ge=0, le=65535, description="Port of Airflow's UI; 0: 8080, or a free one if that is taken."
    )

    @field_validator("streams", mode="before")
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
    def _at_least_one(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one stream")
        return value

    @field_validator("warehouse_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        # Told by its shape: a library that parses it takes half a second to load.
        if value is not None and "://" not in value.get_secret_value():
            raise ValueError("not a database URL like postgresql+psycopg://user:password@host/database")
        return value

    @field_validator("kafka_config")
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

    @property
    def kafka_properties(self) -> dict[str, Any]:
        """`kafka_config` as a dict; empty when unset."""
        if self.kafka_config is None:
            return {}
        return dict(json.loads(self.kafka_config.get_secret_value()))


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
