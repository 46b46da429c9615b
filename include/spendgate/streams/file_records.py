"""What the readers of files have in common: where bytes come from, records in pieces, and damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# Read from the file at once: enough that the calls cost nothing, little enough to stay in the processor's cache.
READ_BYTES = 256 * 1024


class DamageError(Exception):
    """A file can't be read further; the text says why, after the file's name. Never leaves `spendgate.streams`."""


class Source(Protocol):
    """Bytes of a file from its beginning."""

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive records of a file, as parallel sequences.

    Attributes:
        values: raw bytes; None: a record without a value.
        numbers: of each record, its place in the file from 0; ascending, with holes where nothing is.
        enqueued_ms: milliseconds since 1970, UTC.
        next_number: where the next piece goes on.
        size: bytes of the values, or a few more.
    """

    values: list[bytes | None]
    numbers: Sequence[int]
    enqueued_ms: list[int]
    next_number: int
    size: int


class ExactReader:
    """Reads a source by exact sizes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            DamageError: the file ends before.
        """
        taken = self.take_up_to(size)
        if len(taken) < size:
            raise DamageError("is cut off")
        return taken

    def take_up_to(self, size: int) -> bytes:
        """The next `size` bytes, or those that are left."""
        end = self._at + size
        if end > len(self._held):
            self._fill(size)
            end = size
        taken = self._held[self._at : end]
        self._at += len(taken)
        return taken

    def _fill(self, size: int) -> None:
        parts = [self._held[self._at :]]
        missing = size - len(parts[0])
        while missing > 0 and (part := self._source.read(max(missing, READ_BYTES))):
            parts.append(part)
            missing -= len(part)
        self._held = b"".join(parts)
        self._at = 0
