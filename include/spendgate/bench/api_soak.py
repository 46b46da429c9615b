"""bench api --soak: 50 clients on the app mounted in Airflow's API server while builds run, and what they saw.

Each answer is looked at: its numbers have to agree with each other, and it may not be older than a second. Of a list
all flags have to be of one build. What counts as an error: another status than 200 or 304, a connection that breaks.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import msgspec
import psutil

from spendgate.api.flags import Flag, FlagList
from spendgate.bench.api import add_user
from spendgate.bench.api_builds import store_advertisers
from spendgate.bench.api_servers import Served, environment_of, serve_ours
from spendgate.bench.ingest import Figures, Rows
from spendgate.errors import ServiceError
from spendgate.local import services
from spendgate.settings import Settings
from spendgate.show import tell
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse

# Fifty: most ask for one flag after the other; lists are asked for every second, as who keeps a copy does.
FLAG_CLIENTS, LIST_CLIENTS, CHANGE_CLIENTS, SPEND_CLIENTS = 42, 3, 3, 2
LIST_SECONDS = 1.0
FIRST_BUILD_SECONDS = 120.0
MEMORY_SECONDS, MEDIAN_SECONDS = 1.0, 10.0
# Until then all have asked, and some builds have committed: threads, connections, two snapshots and a list are there.
WARM_SHARE = 1 / 4
TELL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Build:
    """A pass of the pipeline: by when it had committed (seconds of time.monotonic), and for which instant."""

    committed: float
    as_of: str


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    builds: list[Build] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    answers: int = 0
    errors: int = 0
    torn: int = 0
    oldest: float = 0.0

    def look_at_flag(self, flag: Flag) -> None:
        """Count a flag whose numbers don't agree."""
        spent, budget = Decimal(flag.spent_today or 0), None if flag.budget is None else Decimal(flag.budget)
        remaining = Decimal(0) if budget is None else max(budget - spent, Decimal(0))
        reason = "no_budget" if budget is None else "exhausted" if spent >= budget else "ok"
        agrees = flag.reason == reason and flag.can_serve == (reason == "ok")
        self.torn += not (agrees and remaining == Decimal(flag.remaining or 0) and not flag.stale)

    def look_at_age(self, as_of: str | None, asked: float) -> None:
        """How long before `asked` the first build had committed that the answer doesn't know of."""
        newer = next((build.committed for build in self.builds if as_of is None or build.as_of > as_of), None)
        if newer is not None:
            self.oldest = max(self.oldest, asked - newer)


def measure_soak(
    settings: Settings, advertisers: int, seconds: float, *, unzipped: bool = False
) -> tuple[Figures, Rows]:
    """Figures (JSON keys) and table rows of so many seconds; `unzipped`: lists are taken as they are.

    Raises:
        ServiceError: a server or the builds didn't start.
    """
    warehouse = Warehouse(services.warehouse_url(settings))
    schema.migrate(warehouse)
    password = add_user(warehouse)
    store_advertisers(warehouse, advertisers)
    warehouse.close()
    seen = Seen()
    with (
        tempfile.TemporaryDirectory(prefix="spendgate-bench-") as folder,
        serve_ours(settings, password, Path(folder), mounted=True) as ours,
        _builds(settings, advertisers, seen),
    ):
        tell(f"{advertisers:,} advertisers; asking for {seconds:.0f} s while builds run")
        memory = asyncio.run(_soak(ours, seen, advertisers, seconds, unzipped))
    seen.times.sort()
    warm, middle, end = (around(memory, share) for share in (WARM_SHARE, 1 / 2, 1))
    figures = {
        "soak_s": float(seconds),
        "builds": float(len(seen.builds)),
        "answers": float(seen.answers),
        "errors": float(seen.errors),
        "torn": float(seen.torn),
        "oldest_answer_s": seen.oldest,
        "rps": seen.answers / seconds,
        "p50_ms": seen.times[len(seen.times) // 2] * 1000,
        "p99_ms": seen.times[len(seen.times) * 99 // 100] * 1000,
        "memory_cold_mb": memory[0],
        "memory_start_mb": warm,
        "memory_middle_mb": middle,
        "memory_end_mb": end,
        "memory_peak_mb": max(memory),
        "memory_grown_mb": end - warm,
    }
    rows: Rows = [
        ["half of the flags within", f"{figures['p50_ms'] / 1000:.4f}", f"{figures['rps']:,.0f}/s", "all answers"],
        ["99% of the flags within", f"{figures['p99_ms'] / 1000:.4f}", "", f"{len(seen.builds)} builds"],
        ["oldest answer", f"{seen.oldest:.2f}", "", "what a build committed and an answer didn't know"],
        ["errors, torn answers", "", f"{seen.errors}, {seen.torn}", f"of {seen.answers:,}"],
        [
            "memory at start, middle, end",
            "",
            f"{warm:.0f} {middle:.0f} {end:.0f}",
            f"MB; at most {max(memory):.0f}",
        ],
    ]
    return figures, rows


def around(memory: Sequence[float], share: float) -> float:
    """The median of ten seconds about this share of the run: a second in which flags are loaded isn't told apart."""
    some = round(MEDIAN_SECONDS / MEMORY_SECONDS) + 1
    first = min(max(0, round(share * (len(memory) - 1)) - some // 2), max(0, len(memory) - some))
    return median(memory[first : first + some])


@contextmanager
def _builds(settings: Settings, advertisers: int, seen: Seen) -> Iterator[None]:
    """Builds in a process of their own until the block ends; returns when the first has committed."""
    command = [sys.executable, "-P", "-m", "spendgate.bench.api_builds", str(advertisers)]
    process = subprocess.Popen(
        command, env=environment_of(settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    output = process.stdout

    def follow() -> None:
        for line in output or ():
            told = json.loads(line)
            seen.builds.append(Build(told["committed"], told["as_of"]))

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + FIRST_BUILD_SECONDS
        while not seen.builds:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError("The builds of the benchmark didn't start: see above.")
            time.sleep(0.05)
        yield
        if process.poll() is not None:
            raise ServiceError("The builds of the benchmark ended before its clients: see above.")
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        reader.join(10)


async def _soak(ours: Served, seen: Seen, advertisers: int, seconds: float, unzipped: bool) -> list[float]:
    port = urlsplit(ours.base).port or 0
    until = time.monotonic() + seconds
    rnd = random.Random(1)

    def client(path: Callable[[], str], look: Callable[[_Answer, float], None], pause: float = 0.0) -> _Client:
        headers = {**ours.headers, "Accept-Encoding": "identity" if unzipped else "gzip"}
        return _Client(port, urlsplit(ours.base).path, headers, seen, path, look, pause)

    def look_at_one(answer: _Answer, asked: float) -> None:
        flag = msgspec.json.decode(answer.body, type=Flag)
        seen.look_at_flag(flag)
        seen.look_at_age(flag.as_of, asked)
        seen.times.append(time.monotonic() - asked)

    def look_at_list(answer: _Answer, asked: float) -> None:
        if answer.status == 304:
            return
        told = msgspec.json.decode(answer.body, type=FlagList)
        instants = {flag.as_of for flag in told.flags}
        seen.torn += len(instants) != 1 or len(told.flags) != advertisers
        for flag in rnd.sample(told.flags, 50):
            seen.look_at_flag(flag)
        seen.look_at_age(min(instant or "" for instant in instants), asked)

    def look_at_changes(answer: _Answer, asked: float) -> None:
        told = msgspec.json.decode(answer.body, type=FlagList)
        versions[0] = max(versions[0], told.version)
        for flag in told.flags[:50]:
            seen.look_at_flag(flag)

    def look_at_spend(answer: _Answer, asked: float) -> None:
        for window in msgspec.json.decode(answer.body)["items"]:
            gross, net = Decimal(window["gross_spend"]), Decimal(window["net_spend"])
            seen.torn += not 0 <= net <= gross

    versions = [0]
    clients = [
        *(
            client(lambda: f"/advertisers/{rnd.randint(1, advertisers)}/can-serve", look_at_one)
            for _ in range(FLAG_CLIENTS)
        ),
        *(client(lambda: "/can-serve", look_at_list, LIST_SECONDS) for _ in range(LIST_CLIENTS)),
        *(
            client(lambda: f"/can-serve?changed_since={versions[0]}", look_at_changes, LIST_SECONDS)
            for _ in range(CHANGE_CLIENTS)
        ),
        *(
            client(lambda: f"/advertisers/{rnd.randint(1, advertisers)}/spend?grain=hour", look_at_spend, 0.1)
            for _ in range(SPEND_CLIENTS)
        ),
    ]
    memory: list[float] = []
    await asyncio.gather(_watch(ours.process, memory, seen, until), *(one.ask(until) for one in clients))
    return memory


async def _watch(process: psutil.Process, memory: list[float], seen: Seen, until: float) -> None:
    began, told = time.monotonic(), 0
    while (now := time.monotonic()) < until:
        memory.append(process.memory_info().rss / 2**20)
        if now - began >= told * TELL_SECONDS:
            tell(f"{now - began:.0f} s: {memory[-1]:.0f} MB, {seen.answers:,} answers, {len(seen.builds)} builds")
            told += 1
        await asyncio.sleep(MEMORY_SECONDS)
    memory.append(process.memory_info().rss / 2**20)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    etag: str | None
    body: bytes


@dataclass(slots=True)
class _Client:
    """One connection that stays open, and asks again as soon as it is answered, or after a pause."""

    port: int
    root: str
    headers: dict[str, str]
    seen: Seen
    path: Callable[[], str]
    look: Callable[[_Answer, float], None]
    pause: float

    async def ask(self, until: float) -> None:
        """Ask until then."""
        reader, writer = await self._connect()
        while time.monotonic() < until:
            asked = time.monotonic()
            told = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            writer.write(f"GET {self.root}{self.path()} HTTP/1.1\r\nHost: 127.0.0.1\r\n{told}\r\n".encode())
            try:
                answer = await _read(reader)
            except (OSError, asyncio.IncompleteReadError):
                self.seen.errors += 1
                writer.close()
                reader, writer = await self._connect()
                continue
            self.seen.answers += 1
            if answer.status not in (200, 304):
                self.seen.errors += 1
            else:
                self.look(answer, asked)
            if answer.etag is not None:
                self.headers["If-None-Match"] = answer.etag
            if self.pause:
                await asyncio.sleep(self.pause)
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**26)


async def _read(reader: asyncio.StreamReader) -> _Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    told = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split(" ")[1])
    body = b""
    if told.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    elif status != 304:
        body = await reader.readexactly(int(told.get("content-length", 0)))
    if told.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return _Answer(status, told.get("etag"), body)
