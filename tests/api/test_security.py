"""bandit finds nothing in what strangers can reach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_bandit_finds_nothing_in_the_api_and_its_plugin(root: Path) -> None:
    command = [sys.executable, "-m", "bandit", "--quiet", "--recursive", "include/spendgate/api", "plugins"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
