"""A directory as a folder of files, by the operating system's own calls.

Links are followed, to files and to directories, except to a directory that contains the link: what is behind such a
loop is listed already. No wait here can be bounded: a network file system that hangs, hangs us.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from operator import attrgetter

from spendgate.errors import PermanentError
from spendgate.streams.file_folders import FoundFile, OpenFile, changed, is_passed_over, telling

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


class LocalFolder:
    """A directory as a `Folder`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def look(self) -> list[FoundFile]:
        """As `Folder.look`."""
        with telling(self._root):
            os.stat(self._root)
            return sorted(_walk(self._root, "", (os.path.realpath(self._root),)), key=attrgetter("path"))

    def open(self, path: str, identity: str) -> OpenFile | None:
        """As `Folder.open`."""
        where = os.path.join(self._root, path)
        try:
            # Without O_NONBLOCK, opening a pipe waits for somebody who writes to it.
            descriptor = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _GONE and not os.path.lexists(where):
                with telling(self._root):
                    os.stat(self._root)
                return None
            with telling(where, is_file=True):
                raise _refused(where, error) from error
        return LocalFile(descriptor, where, identity)


class LocalFile:
    """A file by its descriptor: whatever becomes of its name, it can be read to its end."""

    def __init__(self, descriptor: int, where: str, identity: str) -> None:
        self._descriptor = descriptor
        self._where = where
        self._identity = identity
        try:
            if not stat.S_ISREG(self._seen().st_mode):
                raise _irregular(where)
            self.require_unchanged()
        except BaseException:
            self.close()
            raise

    @property
    def modified_ms(self) -> int:
        """As `OpenFile.modified_ms`."""
        return self._seen().st_mtime_ns // 1_000_000

    def read(self, size: int) -> bytes:
        """As `OpenFile.read`."""
        with telling(self._where, is_file=True):
            return os.read(self._descriptor, size)

    def require_unchanged(self) -> None:
        """As `OpenFile.require_unchanged`; what becomes of the file's name changes nothing in what we read."""
        if _identity(self._seen()) != self._identity:
            raise changed(self._where)

    def close(self) -> None:
        """Close the descriptor; once only."""
        os.close(self._descriptor)

    def _seen(self) -> os.stat_result:
        with telling(self._where, is_file=True):
            return os.fstat(self._descriptor)


def _walk(directory: str, prefix: str, way: tuple[str, ...]) -> Iterator[FoundFile]:
    """The files below `directory`; `way` are the real paths of the directories that led to it, its own the last."""
    for entry in _entries(directory):
        if is_passed_over(entry.name):
            continue
        path = prefix + entry.name
        if not _is_directory(entry):
            yield from _found(entry, path)
            continue
        real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(way[-1], entry.name)
        if not any(_contains(real, passed) for passed in way):
            yield from _walk(entry.path, f"{path}/", (*way, real))


def _entries(directory: str) -> list[os.DirEntry[str]]:
    with telling(directory):
        try:
            with os.scandir(directory) as entries:
                return list(entries)
        except FileNotFoundError:  # it was there when the directory above was read
            return []


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _contains(directory: str, other: str) -> bool:
    return f"{other}/".startswith(f"{directory.rstrip('/')}/")


def _found(entry: os.DirEntry[str], path: str) -> Iterator[FoundFile]:
    try:
        seen = entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        # A link to nothing a person must hear of; anything else was removed just now.
        if entry.is_symlink():
            yield FoundFile(path, "", 0)
        return
    yield FoundFile(path, _identity(seen), seen.st_mtime_ns // 1_000_000)


def _identity(seen: os.stat_result) -> str:
    return f"{seen.st_size} {seen.st_mtime_ns}"


def _refused(where: str, error: OSError) -> Exception:
    """What is wrong with one file, which keeps nobody from reading the others; anything else stays as it is."""
    if error.errno in (*_GONE, errno.ELOOP):
        return PermanentError(f"{where} is a link to nothing: mend it, or remove it.")
    if error.errno == errno.ENXIO:
        return _irregular(where)
    return error


def _irregular(where: str) -> PermanentError:
    return PermanentError(f"{where} is no regular file: move it out of the stream's folder.")
