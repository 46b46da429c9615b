"""The errors that SpendGate raises on purpose.

Whether a failure is worth a retry is a matter of type, never of message text: a task retries on
`TransientError` and fails at once on `PermanentError`. Every message is one sentence that says what to do.
"""

from __future__ import annotations


class SpendGateError(Exception):
    """Root of all errors that SpendGate raises on purpose."""


class TransientError(SpendGateError):
    """The same call may succeed later: a server away, a deadlock, a time-out."""


class PermanentError(SpendGateError):
    """The same call will fail again until a person changes something."""


class ConfigurationError(PermanentError):
    """A setting, a file or an argument is wrong."""


class StreamUnavailableError(TransientError):
    """The broker can't be reached or didn't answer in time."""


class StreamChangedError(StreamUnavailableError):
    """What was read changed meanwhile: a file that is still written to. Other partitions of the stream can be read."""


class StreamUnknownError(PermanentError):
    """The broker answers, but has no such stream."""


class StreamAccessError(PermanentError):
    """The broker refuses the credentials or the permission."""


class StreamGapError(PermanentError):
    """Retention removed events that were never read; a person has to accept the loss."""


class WarehouseUnavailableError(TransientError):
    """The warehouse can't be reached, or a lock or a connection was lost on the way."""


class WarehouseFullError(PermanentError):
    """The warehouse has no room left to write to."""


class WarehouseAccessError(PermanentError):
    """The warehouse refuses the credentials, the database or the permission."""


class WarehouseOutdatedError(PermanentError):
    """The warehouse's schema isn't the one this version works with."""


class TransactionLostError(PermanentError):
    """The warehouse ended a transaction without an error; what was written may be there in part."""


class CheckFailedError(PermanentError):
    """A data check returned rows that must not exist."""


class HeldBatchError(PermanentError):
    """The gate holds batches until a person releases or discards them; everything else was done."""


class QualityDisagreementError(PermanentError):
    """Great Expectations judges a batch other than the gate did."""


class DiscrepancyError(PermanentError):
    """What came in isn't what is in the tables or on the topic; a person should look."""


class RunUnderWayError(TransientError):
    """Another run holds the lock."""


class ServiceError(PermanentError):
    """A local service didn't start, stop or answer."""
