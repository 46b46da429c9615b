"""Files of one SPENDGATE_HOME: written whole or not at all, and secrets that only their owner reads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write `text` to `path` so that a reader sees the old text or the new one, whatever dies meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _write_beside(path, text, mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_or_create_secret(home: Path, name: str, make: Callable[[], str]) -> str:
    """The secret `name` of this home, made by `make` once; two processes at once get the same one."""
    path = home / "secrets" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        temporary = _write_beside(path, make(), 0o600)
        try:
            # A link never replaces: of two processes, the second reads what the first wrote.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    return path.read_text(encoding="utf-8")


def _write_beside(path: Path, text: str, mode: int) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
