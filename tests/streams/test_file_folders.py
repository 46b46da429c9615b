"""Where files are: what is found in a folder, and what is told of one that can't be read, within a bounded time."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from tests.brokers import free_port
from tests.streams.azure_storage import KEY, REFUSAL, connection_string, listener

from spendgate.errors import (
    ConfigurationError,
    PermanentError,
    SpendGateError,
    StreamAccessError,
    StreamChangedError,
    StreamUnavailableError,
    StreamUnknownError,
)
from spendgate.settings import Settings
from spendgate.streams.base import PartitionRef
from spendgate.streams.endpoints import Endpoints
from spendgate.streams.file_folders import is_passed_over
from spendgate.streams.files import FilesStream
from spendgate.streams.local_files import LocalFolder
from spendgate.streams.store_files import StoreFolder

NAME = "ad-clicks"


def stream_of(url: str, options: dict[str, Any] | None = None, timeout: float = 2.0) -> FilesStream:
    return FilesStream(NAME, url, options or {}, settle=timedelta(0), timeout=timeout)


def read(stream: FilesStream, ref: PartitionRef) -> list[bytes | None]:
    with stream.read(ref, None) as opened:
        return [value for batch in opened.batches(100) for value in batch.values]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / NAME
    made.mkdir()
    return made


# -- names


@pytest.mark.parametrize(
    "path",
    [
        "_SUCCESS",
        ".a.jsonl.x7Gh",
        "a/_temporary/0/b.jsonl",
        "a/.snapshot/b.jsonl",
        "a.jsonl.tmp",
        "a.jsonl.gz.part",
        "A.JSONL.PARTIAL",
        "a.jsonl.crswap",
        "a.jsonl._COPYING_",
        "a.jsonl~",
        "a.jsonl.filepart",
    ],
)
def test_what_is_hidden_or_written_under_a_passing_name_is_passed_over(path: str) -> None:
    assert is_passed_over(path)


@pytest.mark.parametrize("path", ["a.jsonl", "a_b/c.d/e.jsonl", "a._b.jsonl", "part.jsonl", "a.tmp.jsonl"])
def test_anything_else_is_not(path: str) -> None:
    assert not is_passed_over(path)


# -- directories


@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}", "{}/"])
def test_a_directory_can_be_named_as_a_path_or_a_url(folder: Path, form: str) -> None:
    (folder / "a.jsonl").write_bytes(b"{}")
    stream = stream_of(form.format(folder.parent))
    assert read(stream, stream.partitions()[0]) == [b"{}"]


def test_a_stream_can_be_a_folder_further_down(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b"{}")
    stream = FilesStream(f"{folder.parent.name}/{NAME}", str(folder.parents[1]), {}, settle=timedelta(0))
    assert [(ref.stream, ref.partition) for ref in stream.partitions()] == [(stream.name, "a.jsonl")]


def test_a_path_from_home_is_one_and_a_relative_path_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert stream_of("~").partitions() == []
    with pytest.raises(ConfigurationError, match="absolute path"):
        stream_of("events").partitions()


def test_a_folder_that_is_missing_is_unknown(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"")
    for url in (str(tmp_path / "nowhere"), str(tmp_path), f"memory://{tmp_path}"):
        for look in (
            lambda stream: stream.partitions(),
            lambda stream: stream.unread({}),
            lambda stream: stream.news({}),
        ):
            with pytest.raises(StreamUnknownError, match=r"no folder .*/ad-clicks: .*SPENDGATE_FILES_URL"):
                look(stream_of(url))


def test_a_folder_that_goes_away_is_unknown_and_its_files_are_no_gap(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b"{}")
    stream = stream_of(str(folder.parent))
    [ref] = stream.partitions()
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StreamUnknownError, match="no folder"):
        read(stream, ref)


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who may nothing; root may everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_or_a_file_that_we_may_not_read_is_told(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b"{}")
    (folder / "b").mkdir()
    stream = stream_of(str(folder.parent))
    [ref] = stream.partitions()
    try:
        # Everybody may pass through what pytest keeps for us alone, so that it is our folder that refuses.
        for parent in folder.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(0o711)
        folder.chmod(0o711)
        (folder / "a.jsonl").chmod(0)
        with without_rights(), pytest.raises(StreamAccessError, match=r"a\.jsonl \(Permission denied\)"):
            read(stream, ref)
        with without_rights(), pytest.raises(StreamAccessError, match=r"ad-clicks \(Permission denied\)"):
            stream.partitions()
        folder.chmod(0o755)
        (folder / "b").chmod(0)
        with without_rights(), pytest.raises(StreamAccessError, match=r"ad-clicks/b \(Permission denied\)"):
            stream.partitions()
    finally:
        (folder / "b").chmod(0o700)


def test_links_are_followed_but_for_loops(folder: Path, tmp_path: Path) -> None:
    (folder / "year").mkdir()
    (folder / "year" / "a.jsonl").write_bytes(b"a")
    archive = tmp_path / "archive"
    (archive / "deep").mkdir(parents=True)
    (archive / "deep" / "b.jsonl").write_bytes(b"b")
    (folder / "old").symlink_to(archive)
    (folder / "c.jsonl").symlink_to(archive / "deep" / "b.jsonl")
    (folder / "year" / "up").symlink_to(folder)
    (folder / "year" / "root").symlink_to("/")
    (archive / "deep" / "back").symlink_to(folder)
    (archive / "deep" / "self").symlink_to(archive / "deep")
    stream = stream_of(str(tmp_path))
    found = stream.partitions()
    assert [ref.partition for ref in found] == ["c.jsonl", "old/deep/b.jsonl", "year/a.jsonl"]
    assert [read(stream, ref) for ref in found] == [[b"b"], [b"b"], [b"a"]]


def test_a_folder_may_be_a_link_itself(folder: Path, tmp_path: Path) -> None:
    (folder / "a.jsonl").write_bytes(b"a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / NAME).symlink_to(folder)
    assert len(stream_of(str(tmp_path / "elsewhere")).partitions()) == 1


def test_what_is_no_file_is_told_and_waits_for_nobody(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "nothing.jsonl").symlink_to("nowhere")
    (folder / "self.jsonl").symlink_to("self.jsonl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket.jsonl"))
        stream = stream_of(str(folder.parent))
        refs = stream.unread({})
        assert [ref.partition for ref in refs] == ["nothing.jsonl", "pipe.jsonl", "self.jsonl", "socket.jsonl"]
        for ref in refs:
            with pytest.raises(PermanentError, match=r"link to nothing|no regular file"):
                read(stream, ref)
    assert [ref.partition for ref in stream.partitions()] == ["pipe.jsonl", "socket.jsonl"]


def test_a_link_that_breaks_after_it_was_listed_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"{}")
    (folder / "a.jsonl").symlink_to(tmp_path / "target")
    stream = stream_of(str(folder.parent))
    [ref] = stream.partitions()
    (tmp_path / "target").unlink()
    with pytest.raises(PermanentError, match="link to nothing"):
        read(stream, ref)


def test_no_descriptor_is_left_open(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b"{}")
    (folder / "b.jsonl.gz").write_bytes(b"{}")
    os.mkfifo(folder / "c.jsonl")
    stream = stream_of(str(folder.parent))
    before = len(os.listdir("/proc/self/fd"))
    for ref in stream.unread({}):
        for incarnation in (ref.incarnation, "0 0"):
            try:
                read(stream, PartitionRef(NAME, ref.partition, incarnation))
            except SpendGateError:
                continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_without_files_has_none(folder: Path) -> None:
    assert LocalFolder(str(folder)).look() == []


# -- settings


def test_streams_of_files_need_a_url() -> None:
    settings = Settings(streams=(f"files:{NAME}",))
    with pytest.raises(ConfigurationError, match="Set SPENDGATE_FILES_URL"):
        Endpoints(settings).stream(NAME)


def test_endpoints_open_streams_of_files(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b"{}")
    settings = Settings(streams=(f"files:{NAME}",), files_settle_seconds=3600)
    endpoints = Endpoints(settings, files_url=str(folder.parent))
    assert endpoints.stream(NAME).name == NAME
    assert endpoints.stream(NAME).partitions() == []
    assert endpoints.lateness(NAME) == timedelta(days=3660)


@pytest.mark.parametrize(
    ("url", "options", "told"),
    [
        ("nosuch://bucket/events", {}, "can't be opened"),
        ("s3://bucket/events", {}, "isn't installed"),
        ("abfs://events", {}, "can't be opened"),
        ("abfs://events", {"connection_string": f"AccountKey={KEY}"}, "can't be opened"),
    ],
)
def test_a_store_that_is_set_up_wrongly_is_told_without_secrets(url: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        stream_of(url, options).partitions()
    assert "SPENDGATE_FILES_URL" in str(caught.value)
    assert KEY not in str(caught.value)


# -- object stores: what they tell of files


class Told(MemoryFileSystem):
    """A store that tells of its files what a test wants it to, and gives what it likes of a range."""

    protocol = "told"
    cachable = False
    details: dict[str, Any] = {}
    cut = 0

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        seen: dict[str, Any] = super().info(path, **kwargs)
        return self._tell(seen)

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        found = super().find(path, *args, **kwargs)
        return {name: self._tell(seen) for name, seen in found.items()} if isinstance(found, dict) else found

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        content: bytes = super().cat_file(path, start, end, **kwargs)
        return content[: len(content) - self.cut]

    def _tell(self, seen: dict[str, Any]) -> dict[str, Any]:
        if seen["type"] == "directory":
            return seen
        kept = {key: value for key, value in seen.items() if key != "created"}
        return {key: value for key, value in {**kept, **self.details}.items() if value is not None}


AT = datetime(2026, 11, 23, 10, 0, 0, 250_000, tzinfo=UTC)
AT_MS = round(AT.timestamp() * 1000)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[StoreFolder, Told]]:
    fs = Told()
    fs.pipe_file(f"{tmp_path}/{NAME}/a.jsonl", b"{}")
    yield StoreFolder(fs, f"{tmp_path}/{NAME}", "told://x", 1.0), fs
    fs.rm(str(tmp_path), recursive=True)


@pytest.mark.parametrize(
    ("details", "identity"),
    [
        ({"mtime": AT.timestamp()}, f"2 {AT_MS * 1000}"),
        ({"mtime": round(AT.timestamp())}, f"2 {round(AT.timestamp()) * 1_000_000}"),
        ({"modified": AT.replace(tzinfo=None)}, f"2 {AT_MS * 1000}"),
        ({"updated": "2026-11-23T10:00:00.250Z"}, f"2 {AT_MS * 1000}"),
        ({"LastModified": AT, "ETag": '"9b2cf535f27731c974343645a3985328-2"'}, "2 9b2cf535f27731c974343645a3985328-2"),
        ({"last_modified": AT, "etag": '"0x8DC2F4A"'}, "2 0x8DC2F4A"),
        ({"last_modified": AT, "etag": None}, f"2 {AT_MS * 1000}"),
    ],
)
def test_files_are_known_by_size_and_tag_or_time_whatever_a_store_calls_them(
    told: tuple[StoreFolder, Told], details: dict[str, Any], identity: str
) -> None:
    folder, fs = told
    fs.details = details
    [found] = folder.look()
    assert (found.path, found.identity) == ("a.jsonl", identity)
    assert found.modified_ms in (AT_MS, AT_MS - 250)
    opened = folder.open("a.jsonl", identity)
    assert opened is not None
    assert opened.read(10) == b"{}"
    opened.require_unchanged()


def test_a_long_tag_fits_the_books(told: tuple[StoreFolder, Told]) -> None:
    folder, fs = told
    fs.details = {"mtime": AT, "etag": "x" * 500}
    [first] = folder.look()
    fs.details = {"mtime": AT, "etag": "x" * 499 + "y"}
    [second] = folder.look()
    assert first.identity != second.identity
    assert len(first.identity) <= 100


@pytest.mark.parametrize("details", [{}, {"mtime": AT, "size": None}, {"mtime": "yesterday"}, {"mtime": [1]}])
def test_a_store_that_does_not_tell_what_files_are_known_by_is_refused(
    told: tuple[StoreFolder, Told], details: dict[str, Any]
) -> None:
    folder, fs = told
    fs.details = details
    with pytest.raises(ConfigurationError, match="file system"):
        folder.look()


def test_a_range_that_comes_short_is_of_another_file(told: tuple[StoreFolder, Told]) -> None:
    folder, fs = told
    fs.details = {"mtime": AT}
    [found] = folder.look()
    fs.cut = 1
    opened = folder.open("a.jsonl", found.identity)
    assert opened is not None
    with pytest.raises(StreamChangedError):
        opened.read(10)


def test_a_file_in_the_place_of_a_folder_is_told(told: tuple[StoreFolder, Told]) -> None:
    _, fs = told
    name = next(name for name in fs.store if name.endswith(f"/{NAME}/a.jsonl"))
    fs.details = {"mtime": AT}
    with pytest.raises(StreamUnknownError, match="is a file, not a folder"):
        StoreFolder(fs, name, "told://x", 1.0).look()


# -- object stores: what they raise


class Failing(MemoryFileSystem):
    """A store that raises what a test wants it to."""

    protocol = "failing"
    cachable = False
    error: Exception

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        raise self.error


def with_status(status: int) -> HttpResponseError:
    error = HttpResponseError(f"AccountKey={KEY}")
    error.status_code = status
    return error


@pytest.mark.parametrize(
    ("error", "expected", "told"),
    [
        (with_status(403), StreamAccessError, "HttpResponseError, HTTP status 403"),
        (with_status(401), StreamAccessError, "HTTP status 401"),
        (with_status(404), StreamUnknownError, "no folder"),
        (with_status(503), StreamUnavailableError, "HTTP status 503"),
        (ClientAuthenticationError(f"no token for {KEY}"), StreamAccessError, "ClientAuthenticationError"),
        (ServiceRequestError("no route"), StreamUnavailableError, "ServiceRequestError"),
        (PermissionError(f"AccessDenied {KEY}"), StreamAccessError, "PermissionError"),
        (FileNotFoundError("bucket"), StreamUnknownError, "no folder"),
        (ConnectionResetError(104, "reset"), StreamUnavailableError, "Connection reset by peer"),
        (RuntimeError(KEY), StreamUnavailableError, "RuntimeError"),
    ],
)
def test_what_a_store_raises_is_told_by_type_and_status_without_secrets(
    error: Exception, expected: type[SpendGateError], told: str
) -> None:
    fs = Failing()
    fs.error = error
    with pytest.raises(expected, match=told) as caught:
        StoreFolder(fs, "/x", "abfs://events/x", 1.0).look()
    assert type(caught.value) is expected
    assert "SPENDGATE_FILES_URL" in str(caught.value) or "SPENDGATE_FILES_CONFIG" in str(caught.value)
    assert KEY not in str(caught.value)


class Silent(AsyncFileSystem):
    """A store that never answers."""

    protocol = "silent"
    cachable = False

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}


def test_a_store_that_never_answers_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(StreamUnavailableError, match="no answer in time"):
        StoreFolder(Silent(), "x", "silent://x", 0.5).look()
    assert time.monotonic() - began < 5


# -- Azure's client, and nobody there


def test_azure_without_a_server_is_given_up_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(StreamUnavailableError, match="abfs://events/ad-clicks can't be reached now"):
        stream_of("abfs://events", {"connection_string": connection_string(free_port())}).partitions()
    assert time.monotonic() - began < 20


def test_azure_that_never_answers_is_given_up_in_time() -> None:
    began = time.monotonic()
    with listener(None) as port, pytest.raises(StreamUnavailableError, match="can't be reached now"):
        stream_of("abfs://events", {"connection_string": connection_string(port)}).news({})
    assert time.monotonic() - began < 20


def test_azure_that_refuses_us_says_so() -> None:
    with listener(REFUSAL) as port, pytest.raises(StreamAccessError, match="HTTP status 403") as caught:
        stream_of("abfs://events", {"connection_string": connection_string(port)}, timeout=10.0).partitions()
    assert KEY not in str(caught.value)


def test_a_local_folder_is_opened_without_loading_fsspec(folder: Path) -> None:
    assert isinstance(stream_of(str(folder.parent))._folder(), LocalFolder)
    assert isinstance(stream_of(f"memory://{folder.parent}")._folder(), StoreFolder)
    assert fsspec.get_filesystem_class("memory") is MemoryFileSystem
