"""The launcher makes, keeps, renews and repairs its virtual environment, wherever it is and is called from."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from spendgate.settings import ROOT

# What the launcher runs here in place of SpendGate: it says where and how it was called.
PROGRAM = """
import importlib.util, os, sys
print(os.getcwd(), sys.argv[1:], bool(importlib.util.find_spec("iniconfig")), sep="|")
"""


def lock(source: str, package: str) -> str:
    """One package of a lock file, with its hashes."""
    found = re.search(rf"^{package}==(?:.*\\\n)+.*\n", (ROOT / source).read_text(), re.MULTILINE)
    assert found
    return found.group(0)


class Checkout:
    """A checkout whose lock names one small package, in a directory with a space in its name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.launcher = root / "spendgate"
        (root / "include" / "spendgate").mkdir(parents=True)
        (root / "include" / "spendgate" / "__init__.py").touch()
        (root / "include" / "spendgate" / "__main__.py").write_text(PROGRAM)
        for name in ("spendgate", "requirements-bootstrap.txt"):
            shutil.copy(ROOT / name, root)
        (root / "requirements.txt").write_text(lock("requirements.txt", "filelock"))
        (root / "requirements-test.txt").write_text(lock("requirements-test.txt", "iniconfig"))

    def run(
        self, *arguments: str, program: Path | None = None, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program or self.launcher), *arguments],
            cwd=cwd or self.root, env={**os.environ, **variables}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen([str(self.launcher)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("launcher") / "a checkout")
    done = checkout.run()
    if "could not be fetched" in done.stderr:
        pytest.skip("no package index is reachable")
    assert done.returncode == 0, done.stderr
    return checkout


@pytest.fixture
def checkout(installed: Checkout, tmp_path: Path) -> Checkout:
    """A fresh copy of the installed one: an environment that is moved still works."""
    shutil.copytree(installed.root, tmp_path / "a checkout", symlinks=True)
    checkout = Checkout.__new__(Checkout)
    checkout.root, checkout.launcher = tmp_path / "a checkout", tmp_path / "a checkout" / "spendgate"
    return checkout


def test_it_keeps_the_callers_directory_and_arguments(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.run("publish", "a file", "*", cwd=tmp_path)
    assert done.stdout == f"{tmp_path}|['publish', 'a file', '*']|False\n"
    assert done.stderr == ""


def test_it_is_found_through_links(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "first").symlink_to("../a checkout/spendgate")
    second = tmp_path / "second"
    second.symlink_to(tmp_path / "bin" / "first")
    assert checkout.run("x", program=second, cwd=tmp_path).stdout == f"{tmp_path}|['x']|False\n"


def test_with_nothing_changed_it_adds_less_than_150_milliseconds(checkout: Checkout) -> None:
    def fastest(*command: str) -> float:
        times = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run(command, cwd=checkout.root, env=variables, stdout=subprocess.DEVNULL, check=True)
            times.append(time.monotonic() - began)
        return min(times)

    variables = {**os.environ, "PYTHONPATH": str(checkout.root / "include")}
    alone = fastest(str(checkout.root / ".venv" / "bin" / "python"), "-m", "spendgate")
    assert fastest(str(checkout.launcher)) - alone < 0.15


def test_a_changed_lock_is_installed_and_what_it_no_longer_names_removed(checkout: Checkout) -> None:
    (checkout.root / "requirements.txt").write_text(lock("requirements-test.txt", "iniconfig"))
    assert checkout.run().stdout.endswith("|True\n")
    packages = checkout.root / ".venv" / "lib" / "python3.11" / "site-packages"
    assert not (packages / "filelock").exists()


def test_the_tests_packages_come_with_the_command_test_and_stay(checkout: Checkout) -> None:
    assert checkout.run("test").stdout.endswith("|True\n")
    again = checkout.run("status")
    assert again.stdout.endswith("|True\n")
    assert again.stderr == ""


def test_a_package_whose_hash_is_another_one_is_refused_in_the_end_with_a_sentence(checkout: Checkout) -> None:
    requirements = checkout.root / "requirements.txt"
    requirements.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, requirements.read_text()))
    shutil.rmtree(checkout.root / ".venv" / "lib" / "python3.11" / "site-packages" / "filelock")
    next(checkout.root.glob(".venv/lib/python3.11/site-packages/filelock-*")).rename(checkout.root / "gone")
    done = checkout.run()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("spendgate: the packages could not be installed")


def kill_family(process: subprocess.Popen[str]) -> None:
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself in this very moment
            member.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_an_installation_killed_at_each_step_is_repaired_by_the_next_call(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv")
    for step in (1, 2, 3):
        process = checkout.start()
        assert process.stderr
        while f"step {step}" not in process.stderr.readline():
            pass
        time.sleep(0.05)
        kill_family(process)
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert checkout.run().stderr == ""


@pytest.mark.slow
def test_of_two_launchers_at_once_one_installs_and_both_run(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv")
    both = [checkout.start(), checkout.start()]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("step 3 of 3" in errors for _, errors in ended) == 1
    assert sum("waiting for another installation" in errors for _, errors in ended) == 1


def test_a_python_that_was_removed_is_replaced(checkout: Checkout) -> None:
    for name in ("python", "python3", "python3.11"):
        (checkout.root / ".venv" / "bin" / name).unlink()
    assert checkout.run().returncode == 0


def test_a_chosen_python_of_another_version_is_one_sentence(checkout: Checkout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.root / ".venv")
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    done = checkout.run(SPENDGATE_PYTHON=str(other))
    assert done.returncode == 1
    assert done.stderr == f"spendgate: SPENDGATE_PYTHON ({other}) is not Python 3.11: set it to one.\n"


def test_without_any_python_311_it_is_one_sentence(checkout: Checkout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.root / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "readlink", "cmp", "rm", "flock"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    done = checkout.run(PATH=str(tools))
    assert done.returncode == 1
    assert done.stderr.startswith("spendgate: Python 3.11 was not found: install it")
    assert done.stderr.count("\n") == 1


def test_a_python_without_ensurepip_says_what_to_install(checkout: Checkout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.root / ".venv")
    bare = tmp_path / "python3.11"
    bare.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; *) exec "{sys.executable}" "$@";; esac\n')
    bare.chmod(0o755)
    done = checkout.run(SPENDGATE_PYTHON=str(bare))
    assert done.returncode == 1
    assert "python3.11-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_module_in_the_callers_directory_is_not_taken_for_a_real_one(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "importlib.py").write_text("raise SystemExit('wrong module')")
    (tmp_path / "spendgate.py").write_text("raise SystemExit('wrong module')")
    assert checkout.run(cwd=tmp_path).returncode == 0


def test_it_names_no_package_index() -> None:
    for name in ("spendgate", "requirements-bootstrap.txt", "requirements.txt", "requirements-test.txt"):
        assert not re.search(r"https?://|--index-url|--find-links ", (ROOT / name).read_text()), name
