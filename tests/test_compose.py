"""docker-compose.yaml, the Dockerfile and the values for Kubernetes: held to the settings, and to what they promise."""

from __future__ import annotations

import base64
import os
import re
import runpy
import shutil
import stat
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from spendgate.errors import ConfigurationError
from spendgate.health import CHECKS
from spendgate.provision import ANALYST_USER, API_USER
from spendgate.secrets_file import SECRETS, make_password, write_secrets
from spendgate.settings import ROOT, Settings

COMPOSE = ROOT / "docker-compose.yaml"
VALUES = ROOT / "docs" / "kubernetes-values.yaml"

# Ends when it has done its work: nothing to ask about its health.
ONE_SHOT = {"init", "spendgate", "demo-publisher"}
# Its program has file capabilities, which these options would take away, and wouldn't start.
AS_IT_COMES = {"sqlserver"}
# What may be changed in .env and has a right value without.
DEFAULTS = {"MSSQL_PID", "WAREHOUSE_PORT", "KAFKA_PORT", "AIRFLOW_UI_PORT", "AIRFLOW_BASE_URL"}

_REFERENCE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rest>[^}]*)\}")

DOCKER_COMPOSE = shutil.which("docker-compose")
needs_compose = pytest.mark.skipif(
    DOCKER_COMPOSE is None, reason="needs docker-compose (Debian: apt-get install docker-compose)"
)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def references() -> Iterator[tuple[str, str]]:
    """Each variable that the file takes from .env, with what stands behind its name."""
    code = "\n".join(line for line in COMPOSE.read_text("utf-8").splitlines() if not line.lstrip().startswith("#"))
    for found in _REFERENCE.finditer(code):
        yield found["name"], found["rest"]


def known_settings() -> set[str]:
    return {f"SPENDGATE_{name.upper()}" for name in Settings.model_fields}


@cache
def airflow_options() -> set[str]:
    """AIRFLOW__SECTION__OPTION of every option that Airflow and its providers know.

    Read from its files: whoever imports Airflow gives this process a home of Airflow's choosing.
    """
    spec = find_spec("airflow")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    described = [yaml.safe_load((package / "config_templates" / "config.yml").read_text("utf-8"))]
    for provider in ("celery", "fab"):
        made = runpy.run_path(str(package / "providers" / provider / "get_provider_info.py"))
        described.append(made["get_provider_info"]()["config"])
    return {
        f"AIRFLOW__{section}__{option}".upper()
        for sections in described
        for section, known in sections.items()
        for option in known["options"]
    }


# --- Settings and secrets --------------------------------------------------------------------------------------


def test_every_variable_is_a_setting_of_spendgate_or_of_airflow() -> None:
    known = known_settings() | airflow_options()
    for name, service in services().items():
        ours = {key for key in service.get("environment", {}) if key.startswith(("SPENDGATE_", "AIRFLOW_"))}
        assert ours <= known, f"{name}: no settings have the names {sorted(ours - known)}"


def test_every_secret_is_made_by_env_and_demanded_and_nothing_else_is() -> None:
    demanded = {name: rest for name, rest in references() if rest.startswith(":?")}
    assert demanded.keys() == SECRETS.keys()
    for name, rest in demanded.items():
        assert rest == f":?{name} is missing, run ./spendgate env"
    for name, rest in references():
        if name not in SECRETS:
            assert name in DEFAULTS | known_settings()
            assert rest.startswith(":-"), f"{name} has no default"


def test_no_secret_stands_in_the_file() -> None:
    for service in services().values():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|FERNET|_CONN|_URL$|BACKEND", key) and "BASE_URL" not in key:
                hidden = re.sub(_REFERENCE, "", str(value))
                assert not re.search(r":[^/@]+@", hidden), f"{key} holds a password"


def test_defaults_of_settings_are_those_of_the_settings_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in known_settings():
        monkeypatch.delenv(name, raising=False)
    default = Settings()
    for name, rest in references():
        if name in known_settings():
            monkeypatch.setenv(name, rest.removeprefix(":-"))
    assert Settings() == default


def test_workers_know_neither_airflows_keys_nor_any_warehouse_password() -> None:
    told = " ".join(map(str, services()["airflow-worker"]["environment"].values()))
    used = {found["name"] for found in _REFERENCE.finditer(told)} & SECRETS.keys()
    assert used == {"REDIS_PASSWORD", "AIRFLOW_DATABASE_PASSWORD", "AIRFLOW_API_SECRET_KEY"}
    for name, service in services().items():
        everything = " ".join(map(str, service.get("environment", {}).values()))
        assert ("MSSQL_SA_PASSWORD" in everything) == (name in ("sqlserver", "init"))


def test_env_makes_secrets_that_their_servers_take_and_only_the_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    write_secrets(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = dict(line.split("=", 1) for line in file.read_text("utf-8").splitlines() if line and line[0] != "#")
    assert made.keys() == SECRETS.keys()
    assert len(set(made.values())) == len(made)
    assert len(base64.urlsafe_b64decode(made["AIRFLOW_FERNET_KEY"])) == 32
    for _ in range(200):
        assert re.fullmatch(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[A-Za-z][A-Za-z0-9_-]{31}", make_password())

    with pytest.raises(ConfigurationError, match=r"exists.*--force"):
        write_secrets(file)
    assert made["REDIS_PASSWORD"] in file.read_text("utf-8")
    write_secrets(file, force=True)
    assert made["REDIS_PASSWORD"] not in file.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [file]


# --- What every service keeps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", services())
def test_a_service_is_pinned_limited_unprivileged_and_watched(name: str) -> None:
    service = services()[name]
    tag = service["image"].partition(":")[2]
    assert re.search(r"\d+\.\d+\.\d+|2022-CU\d+|\d+\.\d+-bookworm", tag), f"{service['image']} isn't pinned"
    assert service["mem_limit"]
    assert service["cpus"] > 0
    assert service["pids_limit"] > 0
    assert service["user"] not in ("root", "0", "0:0")
    if name not in AS_IT_COMES:
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert ("healthcheck" in service) == (name not in ONE_SHOT)
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), f"{name} listens on every address of the host: {port}"


def test_services_of_ours_ask_for_their_own_components_health() -> None:
    for name, service in services().items():
        if name.startswith("airflow-"):
            component = name.removeprefix("airflow-")
            assert component in CHECKS
            assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "spendgate.health", component]


def test_data_is_in_named_volumes() -> None:
    declared = set(compose()["volumes"])
    used = {mount.partition(":")[0] for service in services().values() for mount in service.get("volumes", ())}
    assert used == declared
    for name in ("sqlserver", "kafka", "redis", "postgres"):
        assert services()[name]["volumes"]


def test_workers_can_be_scaled_and_end_their_tasks_first() -> None:
    worker = services()["airflow-worker"]
    assert not {"container_name", "ports", "hostname"} & worker.keys()
    assert worker["stop_grace_period"] == "10m"
    partitions = int(services()["init"]["environment"]["SPENDGATE_TOPIC_PARTITIONS"])
    assert partitions >= 12


def test_everything_waits_for_init_and_init_for_healthy_servers() -> None:
    for name, service in services().items():
        awaited = service.get("depends_on", {})
        if name.startswith("airflow-") or name == "demo-publisher":
            assert awaited["init"] == {"condition": "service_completed_successfully"}
        for other, how in awaited.items():
            assert how["condition"] == "service_completed_successfully" or "healthcheck" in services()[other]
    assert services()["init"]["depends_on"].keys() == {"sqlserver", "kafka", "redis", "postgres"}


def test_profiles_add_the_publisher_of_the_demo_and_the_command_line() -> None:
    assert {name: one["profiles"] for name, one in services().items() if "profiles" in one} == {
        "spendgate": ["tools"],
        "demo-publisher": ["demo"],
    }


def test_apache_kafka_is_the_version_that_the_tests_run_on() -> None:
    tested = re.search(
        r"kafka_2\.13</artifactId>\s*<version>([\d.]+)<", (ROOT / "tests/apache-kafka.pom.xml").read_text()
    )
    assert tested
    assert services()["kafka"]["image"] == f"apache/kafka:{tested[1]}"


# --- docker-compose itself -------------------------------------------------------------------------------------


def read_by_compose(env_file: Path, *profiles: str) -> subprocess.CompletedProcess[str]:
    """What docker-compose makes of the file with these variables and no others."""
    assert DOCKER_COMPOSE
    profile = [word for name in profiles for word in ("--profile", name)]
    return subprocess.run(
        [DOCKER_COMPOSE, "--file", str(COMPOSE), "--env-file", str(env_file), *profile, "config"],
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_compose
def test_docker_compose_takes_the_file_with_the_secrets_of_env(tmp_path: Path) -> None:
    write_secrets(tmp_path / "env")
    done = read_by_compose(tmp_path / "env", "demo", "tools")
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    assert read["services"].keys() == services().keys()
    assert "${" not in done.stdout
    assert read["services"]["airflow-scheduler"]["depends_on"].keys() == {
        "init", "postgres", "redis", "airflow-api-server"
    }  # fmt: skip


@needs_compose
@pytest.mark.parametrize("lacking", ["AIRFLOW_FERNET_KEY", "REDIS_PASSWORD"])
def test_docker_compose_refuses_to_start_without_a_secret_and_says_which(tmp_path: Path, lacking: str) -> None:
    write_secrets(tmp_path / "env")
    lines = (tmp_path / "env").read_text("utf-8").splitlines()
    (tmp_path / "env").write_text("\n".join(line for line in lines if not line.startswith(lacking)), "utf-8")
    done = read_by_compose(tmp_path / "env")
    assert done.returncode != 0
    assert f"{lacking} is missing, run ./spendgate env" in done.stderr


# --- The image -------------------------------------------------------------------------------------------------


def test_the_image_is_pinned_locked_and_unprivileged() -> None:
    lines = [line.strip() for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()]
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert bases
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in bases), bases
    assert "--require-hashes -r /requirements.txt" in " ".join(lines)
    assert [line for line in lines if line.startswith("USER")] == ["USER 50000:0"]
    assert services()["airflow-worker"]["user"] == "50000:0"


def test_no_secret_reaches_the_builder() -> None:
    kept = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert kept[0] == "*"
    assert {line for line in kept if line.startswith("!")} == {
        "!dags", "!include", "!plugins", "!sql", "!requirements.txt"
    }  # fmt: skip


# --- Kubernetes ------------------------------------------------------------------------------------------------


def test_values_for_kubernetes_name_settings_that_there_are_and_hold_no_secret() -> None:
    values = yaml.safe_load(VALUES.read_text("utf-8"))
    options = airflow_options()
    told = [one["name"] for one in values["env"]] + [one["envName"] for one in values["secret"]]
    of_the_api = {one["name"]: one["valueFrom"]["secretKeyRef"]["name"] for one in values["apiServer"]["env"]}
    assert of_the_api.keys() == {"SPENDGATE_API_WAREHOUSE_URL", "SPENDGATE_API_SIGNING_KEY"}
    told += of_the_api
    for name in told:
        assert name in known_settings() | options or name.startswith("AIRFLOW_CONN_SPENDGATE_"), name
    assert not [one for one in values["env"] if re.search("PASSWORD|SECRET|URL|CONN", one["name"])]
    for section, settings in values["config"].items():
        for option in settings:
            assert f"AIRFLOW__{section}__{option}".upper() in options, f"Airflow has no [{section}] {option}"
    assert values["createUserJob"]["defaultUser"]["enabled"] is False
    assert values["securityContexts"]["pod"]["runAsNonRoot"] is True


def test_values_for_kubernetes_agree_with_the_compose_file_and_the_lock() -> None:
    values = yaml.safe_load(VALUES.read_text("utf-8"))
    worker = services()["airflow-worker"]["environment"]
    scheduler = services()["airflow-scheduler"]["environment"]
    for section, settings in values["config"].items():
        for option, value in settings.items():
            assert {**scheduler, **worker}[f"AIRFLOW__{section}__{option}".upper()] == value
    shared = {one["name"]: one["value"] for one in values["env"]}
    assert worker["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"] in shared.values()
    assert f"apache-airflow=={values['airflowVersion']} " in (ROOT / "requirements.txt").read_text("utf-8")


def test_the_page_on_kubernetes_makes_every_secret_that_the_values_name() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    values = yaml.safe_load(VALUES.read_text("utf-8"))
    names = {one["secretName"] for one in values["secret"]}
    names |= {value for key, value in values.items() if key.endswith("SecretName")}
    names |= set(values["data"].values())
    names |= {one["valueFrom"]["secretKeyRef"]["name"] for one in values["apiServer"]["env"]}
    for name in names:
        assert f"secret generic {name}" in page, f"docs/kubernetes.md doesn't make the secret {name}"
    for user in (API_USER, ANALYST_USER):
        assert user in (ROOT / "docs" / "deployment.md").read_text("utf-8")
