"""What is asked of a folder of files, wherever it is.

A folder is looked at as a whole, sub-folders included, and a file is known by what tells it from another one under the
same name: its size with its entity tag, or with its modification time where the store has no tags. Whoever reads a file
asks `require_unchanged` before handing on what was read, so that bytes of two versions never mix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec

from spendgate.errors import (
    SpendGateError,
    StreamAccessError,
    StreamChangedError,
    StreamUnavailableError,
    StreamUnknownError,
)

# Names that tools write under before they rename.
_PASSING_ENDINGS = (
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".filepart",
    ".inprogress",
    ".crdownload",
    ".crswap",
    ".swp",
    "._copying_",
    "~",
)


class FoundFile(msgspec.Struct, frozen=True, gc=False):
    """A file of a folder (a folder may have a million: they are no work for the garbage collector).

    Attributes:
        path: relative to the folder, with slashes.
        identity: changes when the file does, begins with its size; "" of a file that can't be looked at.
        modified_ms: milliseconds since 1970, UTC.
    """

    path: str
    identity: str
    modified_ms: int


class OpenFile(Protocol):
    """A file that is read from its beginning."""

    @property
    def modified_ms(self) -> int:
        """When the file was changed last, milliseconds since 1970, UTC."""

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end.

        Raises:
            StreamUnavailableError, StreamAccessError, StreamChangedError
        """

    def require_unchanged(self) -> None:
        """Return if everything that was read is of the version that was opened.

        Raises:
            StreamChangedError: it was written to, replaced or removed.
            StreamUnavailableError, StreamAccessError
        """

    def close(self) -> None: ...


class Folder(Protocol):
    """A folder with everything below it."""

    def look(self) -> list[FoundFile]:
        """All files but those that `is_passed_over`, in path order.

        Raises:
            StreamUnknownError: there is no such folder.
            StreamAccessError: we may not list it.
            StreamUnavailableError: it can't be reached.
            ConfigurationError: its file system doesn't tell what we need.
        """

    def open(self, path: str, identity: str) -> OpenFile | None:
        """The file, if it still is the one of that identity; None if nothing has that name any more.

        Raises:
            StreamChangedError: it is another one now.
            PermanentError: it can't be read.
            StreamUnavailableError, StreamUnknownError, ConfigurationError: as `look`.
        """


def is_passed_over(path: str) -> bool:
    """Whether a file or folder isn't for us: hidden, a tool's own (`_SUCCESS`), or written under a passing name."""
    below = f"/{path}"
    return "/." in below or "/_" in below or below.lower().endswith(_PASSING_ENDINGS)


@contextmanager
def telling(what: str, *, is_file: bool = False) -> Iterator[None]:
    """Turns what a file system raises into our errors; `what` is the folder or file as people call it."""
    try:
        yield
    except SpendGateError:
        raise
    except Exception as error:
        raise _failure(error, what, is_file) from error


def changed(what: str) -> StreamChangedError:
    """The error of a file that isn't what it was."""
    return StreamChangedError(f"{what} was changed or removed while it was read: run again.")


def _failure(error: Exception, what: str, is_file: bool) -> SpendGateError:
    """Our error, by type, errno or HTTP status; the words of a store's client are left out, they may hold a secret."""
    if _is_refusal(error):
        return StreamAccessError(
            f"We may not read {what} ({_kind(error)}): give us the right to list and to read it, or correct "
            "SPENDGATE_FILES_CONFIG or the connection spendgate_files."
        )
    is_missing = isinstance(error, FileNotFoundError | NotADirectoryError) or _status(error) == 404
    if is_missing and is_file:
        return changed(what)
    if is_missing:
        return StreamUnknownError(
            f"There is no folder {what}: make it, or correct SPENDGATE_FILES_URL, the connection spendgate_files or "
            "the stream's name."
        )
    return StreamUnavailableError(
        f"{what} can't be reached now ({_kind(error)}): run again, and check SPENDGATE_FILES_URL, "
        "SPENDGATE_FILES_CONFIG or the connection spendgate_files if that doesn't help."
    )


def _is_refusal(error: Exception) -> bool:
    # azure-core's error for credentials may come without a status; it isn't loaded where nobody uses it.
    named = any(base.__name__ == "ClientAuthenticationError" for base in type(error).__mro__)
    return named or isinstance(error, PermissionError) or _status(error) in (401, 403)


def _status(error: Exception) -> int | None:
    """The HTTP status of a store's answer, as azure-core, aiohttp and gcsfs name it."""
    found = (getattr(error, name, None) for name in ("status_code", "status", "code"))
    return next((value for value in found if isinstance(value, int)), None)


def _kind(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    status = _status(error)
    return type(error).__name__ if status is None else f"{type(error).__name__}, HTTP status {status}"
