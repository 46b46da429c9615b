"""A prefix of an object store as a folder of files, through fsspec.

Files are fetched by ranges, each a request of its own, so that every wait can be bounded: `timeout` seconds for one
request, `_LISTING_SECONDS` for a whole listing. That holds for fsspec's asynchronous file systems (Azure, S3, Google);
the others take no time limits but those of their own options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec

from spendgate.errors import ConfigurationError, StreamChangedError, StreamUnknownError
from spendgate.streams.file_folders import FoundFile, OpenFile, changed, is_passed_over, telling

# A listing of a million objects takes 200 requests and a minute or two.
_LISTING_SECONDS = 300.0
# Waiting for a range of this size is a small part of staging what it holds.
_RANGE_BYTES = 8 * 1024 * 1024
# etl.StreamPosition has room for 100 characters.
_LONGEST_TAG = 70

# File systems call these by different names; the first that is there counts.
_TAGS = ("etag", "ETag")
_TIMES = ("mtime", "last_modified", "LastModified", "modified", "updated", "created")


def open_store(url: str, options: Mapping[str, Any], name: str, *, timeout: float) -> StoreFolder:
    """The folder `name` under a URL that fsspec knows, on a file system made with `options`.

    Raises:
        ConfigurationError: the URL or the options can't be right, or the file system's package is missing.
    """
    address = url.partition("?")[0].rstrip("/")  # behind it there may be a signature
    try:
        # A shared instance would remember listings, and belong to threads that a fork leaves behind.
        fs, root = fsspec.url_to_fs(url, **{**options, "skip_instance_cache": True})
    except ImportError as error:
        raise ConfigurationError(
            f"{address} is on a file system whose package isn't installed ({error.name}): install it, or correct "
            "SPENDGATE_FILES_URL."
        ) from error
    except Exception as error:  # each file system has its own; its words may hold a secret
        raise ConfigurationError(
            f"{address} can't be opened ({type(error).__name__}): correct SPENDGATE_FILES_URL, SPENDGATE_FILES_CONFIG "
            "or the connection spendgate_files."
        ) from error
    return StoreFolder(fs, f"{root.rstrip('/')}/{name}", f"{address}/{name}", timeout)


class StoreFolder:
    """All files below a path of an fsspec file system, as a `Folder`; `address` is what people call it."""

    def __init__(self, fs: Any, root: str, address: str, timeout: float) -> None:
        self._fs = fs
        self._root = root
        self._address = address
        self._timeout = timeout
        self._reached = False

    def look(self) -> list[FoundFile]:
        """As `Folder.look`."""
        if not self._reached:
            self._require()
            self._reached = True
        with telling(self._address):
            self._fs.invalidate_cache()
            infos = self._fs.find(self._root, detail=True, **self._within(_LISTING_SECONDS))
        if not infos or self._root in infos:
            self._require()
        below = len(self._root) + 1
        files = {name[below:]: info for name, info in infos.items() if info.get("type") == "file"}
        return [self._found(path, info) for path, info in sorted(files.items()) if not is_passed_over(path)]

    def open(self, path: str, identity: str) -> OpenFile | None:
        """As `Folder.open`."""
        now = self.find(path)
        if now is None:
            return None
        if now.identity != identity:
            raise self.changed(path)
        return StoreFile(self, now)

    def find(self, path: str) -> FoundFile | None:
        """The file of that name as it is now, if there is one."""
        with telling(f"{self._address}/{path}", is_file=True):
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(f"{self._root}/{path}", **self._within(self._timeout))
            except FileNotFoundError:
                return None
        return self._found(path, info) if info.get("type") == "file" else None

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """The bytes of a file from `start` up to `end`."""
        with telling(f"{self._address}/{path}", is_file=True):
            within = self._within(self._timeout)
            return bytes(self._fs.cat_file(f"{self._root}/{path}", start=start, end=end, **within))

    def changed(self, path: str) -> StreamChangedError:
        """The error of a file that isn't what it was."""
        return changed(f"{self._address}/{path}")

    def _require(self) -> None:
        """Ask for the folder alone, which is answered soon, so that a store that is away is told of soon."""
        with telling(self._address):
            self._fs.invalidate_cache()
            info = self._fs.info(self._root, **self._within(self._timeout))
        if info.get("type") == "file":
            raise StreamUnknownError(
                f"{self._address} is a file, not a folder: correct SPENDGATE_FILES_URL or the stream's name."
            )

    def _within(self, seconds: float) -> dict[str, float]:
        return {"timeout": seconds} if getattr(self._fs, "async_impl", False) else {}

    def _found(self, path: str, info: Mapping[str, Any]) -> FoundFile:
        size = info.get("size")
        modified = next((info[key] for key in _TIMES if info.get(key) is not None), None)
        if size is None or modified is None:
            raise ConfigurationError(
                f"The file system of {self._address} doesn't tell when files were changed and how large they are, by "
                "which we know them: put them on another."
            )
        micros = _microseconds(modified)
        tag = next((str(info[key]).strip('"') for key in _TAGS if info.get(key)), str(micros))
        if len(tag) > _LONGEST_TAG:
            tag = hashlib.sha256(tag.encode()).hexdigest()
        return FoundFile(path, f"{size} {tag}", micros // 1000)


class StoreFile:
    """A file of an object store."""

    def __init__(self, folder: StoreFolder, file: FoundFile) -> None:
        self._folder = folder
        self._file = file
        self._size = int(file.identity.partition(" ")[0])
        self._fetched = 0
        self._range = memoryview(b"")

    @property
    def modified_ms(self) -> int:
        """As `OpenFile.modified_ms`."""
        return self._file.modified_ms

    def read(self, size: int) -> bytes:
        """As `OpenFile.read`."""
        if not self._range and self._fetched < self._size:
            end = min(self._fetched + _RANGE_BYTES, self._size)
            self._range = memoryview(self._folder.fetch(self._file.path, self._fetched, end))
            if len(self._range) != end - self._fetched:
                raise self._folder.changed(self._file.path)
            self._fetched = end
        taken, self._range = self._range[:size], self._range[size:]
        return bytes(taken)

    def require_unchanged(self) -> None:
        """As `OpenFile.require_unchanged`."""
        if self._folder.find(self._file.path) != self._file:
            raise self._folder.changed(self._file.path)

    def close(self) -> None:
        """Give up what was fetched ahead."""
        self._range = memoryview(b"")


def _microseconds(instant: object) -> int:
    """Since 1970, of what file systems give as a time.

    Raises:
        ConfigurationError: it is nothing that we know.
    """
    if isinstance(instant, str):
        try:
            instant = datetime.fromisoformat(instant)
        except ValueError as error:
            raise ConfigurationError(f"The file system gives {instant!r} as a file's time: use another.") from error
    if isinstance(instant, datetime):
        return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    if isinstance(instant, int | float):
        return round(instant * 1_000_000)
    raise ConfigurationError(f"The file system gives a {type(instant).__name__} as a file's time: use another.")
