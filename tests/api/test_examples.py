"""What docs/api.md shows is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spendgate.api.accounts import NewUser
from tests.api.callers import PASSWORD, Place


def examples(root: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (root / "docs/api.md").read_text(), re.DOTALL)


def test_the_python_quick_start_keeps_a_copy_of_all_flags(root: Path, address: str, place: Place) -> None:
    (program,) = examples(root, "python")
    given = f"API, KEY = {address!r}, {place.staff_key!r}\n{program}\nprint(may_serve)"
    done = subprocess.run([sys.executable, "-c", given], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "{1: True, 2: False, 3: False}\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_curl_line_answers(root: Path, address: str, place: Place) -> None:
    place.accounts.add_user(NewUser("maria", "maria@example.com", "Maria", "M", 1, False), PASSWORD)
    lines = [line for block in examples(root, "sh") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) == 4
    given = {**os.environ, "API": address, "KEY": place.staff_key, "PASSWORD": PASSWORD, "NO_PROXY": "127.0.0.1"}
    for line in lines:
        done = subprocess.run(
            [str(shutil.which("bash")), "-c", line], env=given, capture_output=True, timeout=30, check=True
        )
        answer = json.loads(done.stdout)
        assert "status" not in answer, f"{line}: {answer}"


def test_every_path_of_the_page_is_one_of_the_api(root: Path, place: Place) -> None:
    page = (root / "docs/api.md").read_text()
    rows = re.findall(r"^\| (`/.*?) \|", page, re.MULTILINE)
    told = {path.partition("?")[0] for row in rows for path in re.findall(r"`(/[^`]*)`", row)}
    there = {
        rule.rule.removeprefix("/v1").replace("<int(min=1, max=2147483647):advertiser_id>", "{id}")
        for rule in place.app.url_map.iter_rules()
    }
    assert told | {"/auth/token", "/auth/refresh", "/auth/revoke", "/docs", "/openapi.json"} == there
