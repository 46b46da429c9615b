"""Whether a locked package is known to be bad; a part of `./spendgate test`.

    python -m spendgate.audit

Both lock files are held against .ci/advisories.toml, our own dated list, which needs no network. Then pip-audit asks a
database of advisories. Where none answers, that is said loudly and fails nothing: pip-audit itself ends well when its
database knows none of the packages, so its word counts only for those that it says it looked at.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from spendgate.settings import ROOT
from spendgate.show import tell

LOCKS = ("requirements.txt", "requirements-test.txt")
ADVISORIES = ROOT / ".ci" / "advisories.toml"
# Some 300 packages are asked for one by one.
AUDIT_SECONDS = 180
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ \\;]+)", re.MULTILINE)
_SERVICES = ("pypi", "osv")


@dataclass(frozen=True, slots=True)
class Answer:
    """What pip-audit says: what it looked at, what it couldn't, and what is bad, a line each."""

    looked_at: int
    left_out: int
    bad: Sequence[str]


def locked(lock: str) -> dict[str, Version]:
    """Packages and their versions in the text of a lock file."""
    return {canonicalize_name(name): Version(version) for name, version in _LOCKED.findall(lock)}


def known_bad(packages: Mapping[str, Version], advisories: str) -> list[str]:
    """A line for each package that is below what an advisory of this TOML asks for."""
    return [
        f"{bad['package']} {packages[name]} is below {bad['below']}: {bad['advisory']}"
        for bad in tomllib.loads(advisories)["bad"]
        if (name := canonicalize_name(bad["package"])) in packages and packages[name] < Version(bad["below"])
    ]


def read_answer(report: Mapping[str, Any]) -> Answer:
    """pip-audit's JSON."""
    told = report["dependencies"]
    looked_at = [one for one in told if "skip_reason" not in one]
    bad = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in looked_at
        for flaw in one["vulns"]
    ]
    return Answer(len(looked_at), len(told) - len(looked_at), bad)


def ask(requirements: str, service: str, *flags: str) -> Answer | None:
    """What a database says of the text of a lock file; None: it doesn't answer."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off", "--timeout", "5"]
    command += ["--vulnerability-service", service, "--format", "json", "-r", "/dev/stdin", *flags]
    try:
        done = subprocess.run(
            command, input=requirements, capture_output=True, text=True, timeout=AUDIT_SECONDS, check=False
        )
        return read_answer(json.loads(done.stdout))
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None


def audit(locks: Mapping[str, str], advisories: str) -> int:
    """Say what is bad in these lock files, and what couldn't be looked at; 1 if anything is bad, else 0."""
    packages = {name: version for text in locks.values() for name, version in locked(text).items()}
    bad = known_bad(packages, advisories)
    service = next((one for one in _SERVICES if _answers(one)), None)
    if service is None:
        tell(
            f"PIP-AUDIT COULDN'T LOOK: no database of advisories answers here. {len(packages)} packages were held "
            f"against our own list of {tomllib.loads(advisories)['looked']} alone."
        )
    else:
        for name, text in locks.items():
            answer = ask(text, service, "--require-hashes")
            if answer is None or answer.left_out:
                tell(f"PIP-AUDIT LEFT OUT {'all' if answer is None else answer.left_out} packages of {name}.")
            bad += [] if answer is None else answer.bad
    for line in bad:
        tell(line)
    return 1 if bad else 0


def _answers(service: str) -> bool:
    """Whether a database knows a package that all of them know; one is asked for quickly."""
    answer = ask("flask==3.1.3\n", service, "--no-deps")
    return answer is not None and answer.looked_at > 0


if __name__ == "__main__":
    files = {name: (ROOT / name).read_text(encoding="utf-8") for name in LOCKS}
    sys.exit(audit(files, ADVISORIES.read_text(encoding="utf-8")))
