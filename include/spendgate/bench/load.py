"""A load on one address of this machine: connections that stay open, each asking again as soon as it is answered.

Plain sockets and a few lines of HTTP: a client library would cost more than the servers that it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it; times in seconds, the shortest first."""

    times: Sequence[float]
    seconds: float
    statuses: frozenset[int]
    body_bytes: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def percentile(self, share: float) -> float:
        """The time in which this share of all was answered."""
        return self.times[int(len(self.times) * share)]


def together(loads: Sequence[Load]) -> Load:
    """Loads one after another as one."""
    times = sorted(time for load in loads for time in load.times)
    statuses = frozenset(status for load in loads for status in load.statuses)
    return Load(times, sum(load.seconds for load in loads), statuses, max(load.body_bytes for load in loads))


def measure(url: str, headers: dict[str, str], *, connections: int, seconds: float) -> Load:
    """Ask one URL over so many connections for so long; only of this machine."""
    parts = urlsplit(url)
    if parts.hostname != "127.0.0.1" or parts.port is None:
        raise ValueError(f"{url} is not of this machine")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{told}\r\n".encode()
    return asyncio.run(_measure(parts.port, request, connections, seconds))


async def _measure(port: int, request: bytes, connections: int, seconds: float) -> Load:
    began = time.perf_counter()
    until = began + seconds
    done = await asyncio.gather(*(_ask(port, request, until) for _ in range(connections)))
    took = time.perf_counter() - began
    times = sorted(duration for times, _, _ in done for duration in times)
    statuses = frozenset(status for _, found, _ in done for status in found)
    size = max(size for _, _, size in done)
    return Load(times, took, statuses, size)


async def _ask(port: int, request: bytes, until: float) -> tuple[list[float], set[int], int]:
    times: list[float] = []
    statuses: set[int] = set()
    size = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    try:
        while not times or time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            statuses.add(int(head[9:12]))
            _, marked, rest = head.partition(b"content-length:")
            size = int(rest.split(b"\r\n", 1)[0]) if marked and b" 304 " not in head[:15] else 0
            if size:
                await reader.readexactly(size)
            times.append(time.perf_counter() - began)
            if b"connection: close" in head:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    finally:
        writer.close()
    return times, statuses, size
