"""Services as detached processes of one home: start, find again, stop, and leave nothing behind.

A service runs in a session of its own, so closing the terminal doesn't end it. Three marks find its processes
again, because each of them gets lost somewhere:

1. `run/NAME.json`, the service's own process. A descendant isn't in it.
2. The environment variable `SPENDGATE_SUPERVISED=NAME:HOME`, inherited by every descendant, also of a parent
   that was killed. PostgreSQL's children and whoever calls setproctitle (Airflow) write their titles over it.
3. The session: it stays when the parent dies and can't be overwritten. PostgreSQL's children leave it, so
   they carry `Supervisor.mark` in their title (`cluster_name`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from spendgate.errors import ServiceError
from spendgate.local.home import write_atomically

log = logging.getLogger(__name__)

SUPERVISED = "SPENDGATE_SUPERVISED"
LOCALHOST = "127.0.0.1"

# A log that grew past this is set aside when its service starts; one older generation is kept.
MAX_LOG_BYTES = 20_000_000

# Children of this process: kept, so that they are reaped when they end and never become zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Record:
    """What `run/NAME.json` holds of a started service.

    `identity` tells the process from another one that got the same pid later. `fingerprint` is the caller's:
    of the settings that the service was started with. `started_at` is in seconds since 1970.
    """

    name: str
    pid: int
    identity: str
    started_at: float
    fingerprint: str = ""


def process_identity(pid: int) -> str | None:
    """What tells this process from every other one that had or will have its pid; None when it isn't running.

    On Linux: the boot and the clock ticks since then, which no change of the wall clock moves.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return f"{process.create_time():.2f}"
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name in parentheses may hold spaces and parentheses too; starttime is the 20th field after it.
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return f"{boot}:{fields[19]}"
    except (psutil.Error, OSError):
        return None


class Supervisor:
    """The services of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mark = "spendgate-" + hashlib.blake2s(os.fsencode(home), digest_size=6).hexdigest()

    def log_file(self, name: str) -> Path:
        """Where the service's output goes."""
        return self.home / "logs" / f"{name}.log"

    def record(self, name: str) -> Record | None:
        """The running service's record; None when it isn't running."""
        record = self._stored(name)
        if record is None:
            return None
        _reap(record.pid)
        return record if process_identity(record.pid) == record.identity else None

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        fingerprint: str = "",
    ) -> Record:
        """Start `command` detached, after stopping whatever is left of an earlier `name`.

        Raises:
            ServiceError: the program can't be started, or a left-over process can't be stopped.
        """
        # Orphans of a killed parent wait for nothing any more.
        self.stop([name], timeout=2.0)
        path = self.log_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        started_at = time.time()
        with path.open("ab") as output:
            try:
                child = subprocess.Popen(
                    command,
                    env={**environment, SUPERVISED: f"{name}:{self.home}"},
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServiceError(
                    f"{command[0]} can't be started ({error.strerror}): check that it is there."
                ) from error
        _children[child.pid] = child
        record = Record(name, child.pid, process_identity(child.pid) or "", started_at, fingerprint)
        try:
            write_atomically(self._record_file(name), json.dumps(asdict(record)))
        except BaseException:
            child.kill()
            raise
        return record

    def stop(
        self,
        names: Collection[str] | None = None,
        *,
        timeout: float = 10.0,
        signals: Mapping[str, signal.Signals] | None = None,
    ) -> None:
        """Stop the services `names` (None: all) and every descendant of theirs.

        Each is asked by its signal in `signals` (else SIGTERM) and given `timeout` seconds together; what is
        left is killed.

        Raises:
            ServiceError: a process is still there after it was killed.
        """
        found = self._members(names)
        if found:
            leaders = self._leaders(names)
            for process, name in found.items():
                # A leader ends its own children in order; those whose leader is gone are asked one by one.
                if process.pid == leaders.get(name, process.pid):
                    _send(process, (signals or {}).get(name, signal.SIGTERM))
            _wait(found, timeout)
            self._kill(names)
        for path in self._record_files(names):
            path.unlink(missing_ok=True)

    def processes(self, names: Collection[str] | None = None) -> list[psutil.Process]:
        """Every live process of the services `names` (None: all), by any of the three marks."""
        return list(self._members(names))

    def _members(self, names: Collection[str] | None) -> dict[psutil.Process, str]:
        for pid in list(_children):
            _reap(pid)
        sessions = self._sessions()
        kin = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        others = (process for process in psutil.process_iter() if process.pid not in kin)
        owned = {process: self._owner(process, sessions) for process in others}
        return {process: name for process, name in owned.items() if name and (names is None or name in names)}

    def remembered_port(self, name: str) -> int | None:
        """The port that the service had last, running or not."""
        try:
            return int((self.home / "run" / f"{name}.port").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def remember_port(self, name: str, port: int) -> None:
        """Keep the service's port for those who connect, and for its next start."""
        write_atomically(self.home / "run" / f"{name}.port", str(port))

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The last lines of the service's log, for a debugging message."""
        try:
            text = self.log_file(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _record_file(self, name: str) -> Path:
        return self.home / "run" / f"{name}.json"

    def _record_files(self, names: Collection[str] | None) -> list[Path]:
        if names is None:
            return sorted((self.home / "run").glob("*.json"))
        return [self._record_file(name) for name in names]

    def _stored(self, name: str) -> Record | None:
        try:
            return Record(**json.loads(self._record_file(name).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _leaders(self, names: Collection[str] | None) -> dict[str, int]:
        """The pids of the services' own processes, by name, as far as they run."""
        records = (self.record(path.stem) for path in self._record_files(names))
        return {record.name: record.pid for record in records if record is not None}

    def _sessions(self) -> dict[int, str]:
        """Sessions that belong to us, and whose: their leader is the recorded process, or is gone.

        The kernel gives out no pid that still names a session with members, so a leader that is gone can't
        have been replaced while its children live; one that is another process now means they are gone too.
        """
        stored = (self._stored(path.stem) for path in self._record_files(None))
        return {
            record.pid: record.name
            for record in stored
            if record is not None and process_identity(record.pid) in (record.identity, None)
        }

    def _owner(self, process: psutil.Process, sessions: Mapping[int, str]) -> str | None:
        """The service that the process belongs to; None when it isn't ours."""
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            session = os.getsid(process.pid)
            if session in sessions:
                return sessions[session]
            if "".join(process.cmdline()[:1]).startswith(f"postgres: {self.mark}"):
                return "postgres"
            service, _, home = process.environ().get(SUPERVISED, "").partition(":")
        except (psutil.Error, OSError):
            return None
        return service if home == str(self.home) else None

    def _kill(self, names: Collection[str] | None) -> None:
        # A process may fork between the scan and its end, so the scan is repeated, a bounded number of times.
        for _ in range(10):
            left = self.processes(names)
            if not left:
                return
            log.info("killing %d processes that did not stop", len(left))
            for process in left:
                _send(process, signal.SIGKILL)
            _wait(left, 2.0)
        raise ServiceError(
            f"Process {left[0].pid} doesn't end even when killed: stop it as the user it belongs to, "
            "then run ./spendgate down again."
        )


def pick_port(setting: str, chosen: int, *preferred: int | None) -> int:
    """A free TCP port on 127.0.0.1: `chosen` unless 0, else the first free one of `preferred`, else any.

    Raises:
        ServiceError: `chosen` is in use or not allowed; the sentence names `setting`.
    """
    if chosen:
        if not _is_free(chosen):
            raise ServiceError(f"Port {chosen} is in use: set {setting} to a free port, or to 0 to pick one.")
        return chosen
    for port in preferred:
        if port and _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True


def _send(process: psutil.Process, number: signal.Signals) -> None:
    # psutil compares create times first, so a pid that was given out again is left alone.
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process.send_signal(number)


def _wait(processes: Collection[psutil.Process], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and any(_runs(process) for process in processes):
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    _reap(process.pid)
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        _children.pop(pid, None)
