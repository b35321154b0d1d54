"""One driver at a time: a numbered lease, renewed while it is held.

Leases are objects ``lease/00001.json``, ``lease/00002.json``, ...; taking one is writing the next
number unless it exists, which exactly one process can. The highest number holds; it is the fencing
number of everything its driver commits. A holder rewrites its own object to show that it lives.
Whether another one does is told by watching, never by comparing clocks of two machines. A place in
which nothing but the first lease came to be is left as it was.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from ray_si.errors import LeaseLostError, RaySIError, RunError, StorageError
from ray_si.storage.base import Objects

LEASES = "lease/"
"""How the keys of leases begin; a place that holds no others is free."""

_LEASE = re.compile(re.escape(LEASES) + r"(\d{5,})\.json")

TTL_S = 30.0
"""A lease that was not renewed for so long may be taken. It is renewed three times in that."""

_FAREWELL_S = 3.0
"""Most seconds that giving a lease back may take after an error: its store may hang."""

_DEAD = "ZX"
"""States of a process that has ended."""

_held: set[str] = set()
"""Ids of the leases that this process holds: what else is recorded of it is left over."""

logger = logging.getLogger(__name__)


def check_exclusive(objects: Objects, location: str) -> None:
    """Raise StorageError unless of two writers of one key only the first is told to be.

    Tried with a key of its own; leaves nothing behind.
    """
    key = f"{LEASES}check-{uuid.uuid4().hex}"
    with objects.tidied():
        try:
            wins = [objects.put_if_absent(key, b"1"), objects.put_if_absent(key, b"2")]
        finally:
            objects.delete(key)
    if wins != [True, False]:
        raise StorageError(
            f"{location}: this store ignores the condition of conditional writes "
            "(If-None-Match), which a run needs; use one that obeys it"
        )


class Lease:
    """The right to write to a place; ``with`` takes it, keeps renewing it, and gives it back.

    Entering raises RunError, saying who holds it, while another driver lives. One that is known to
    be dead (it ran on this machine, or gave its lease back) is succeeded at once; of any other this
    waits for up to ``ttl_s`` seconds for a sign of life, told to ``notify``.

    ``number`` is the fencing number. ``lost`` ends with a LeaseLostError once another driver is
    found to have taken over, and never otherwise. Leaving with an error raises it then, from that
    error: whatever fails under a driver that was succeeded fails for this.
    """

    def __init__(
        self,
        objects: Objects,
        location: str,
        *,
        ttl_s: float | None = None,
        notify: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._objects, self._location = objects, location
        self._ttl_s, self._notify = TTL_S if ttl_s is None else ttl_s, notify
        self._record: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "started": _stat(os.getpid())[1],
            "id": uuid.uuid4().hex,
            "taken": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "renewals": 0,
            "released": False,
        }
        self.number = 0
        self.lost: Future[NoReturn] = Future()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        with ExitStack() as undo:
            undo.enter_context(self._objects.tidied())
            # before it can be read: another thread would take it for that of a dead process
            _held.add(self._record["id"])
            undo.callback(_held.discard, self._record["id"])
            while True:
                number, record = self._current()
                if record is not None and not self._is_free(number, record):
                    raise RunError(
                        f"{self._location} is being written by process {record['pid']} on "
                        f"{record['host']} since {record['taken']}; stop that one first"
                    )
                if self._objects.put_if_absent(_key(number + 1), self._data()):
                    break
            self.number = number + 1
            self._keeper.start()
            undo.push(self._give_back)
            for key, earlier in self._leases():
                if earlier < self.number:
                    self._objects.delete(key)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.__exit__(kind, error, trace)
        if isinstance(error, Exception) and self.lost.done():
            lost = self.lost.exception()
            if error is not lost:
                raise LeaseLostError(str(lost)) from error

    def check(self) -> None:
        """Raise LeaseLostError unless this driver still holds the lease. Asks the store."""
        if not self.lost.done() and self._highest()[1] != self.number:
            error = LeaseLostError(
                f"another driver has taken over {self._location}; what is finished is kept"
            )
            with suppress(InvalidStateError):  # the keeper found out in this moment
                self.lost.set_exception(error)
        if self.lost.done():
            self.lost.result()

    # Keeping -----------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Renew the lease until it ends, then give it back, unless it was lost."""
        while not self._ended.wait(self._ttl_s / 3):
            self._record["renewals"] += 1
            try:
                self.check()
                self._objects.put(_key(self.number), self._data())
            except LeaseLostError:
                self._withdraw()
                return
            except (OSError, RaySIError) as error:
                logger.warning("the lease could not be renewed yet: %s", error)
                with suppress(OSError, RaySIError):  # by whoever took over, perhaps
                    self.check()
        self._record["released"] = True
        try:
            self.check()
            # a later number may have been taken from a driver that only sleeps, and is not to be
            # taken again
            if self.number == 1 and self._is_alone():
                self._objects.delete(_key(self.number))
            else:
                self._objects.put(_key(self.number), self._data())
        except LeaseLostError:
            self._withdraw()
        except (OSError, RaySIError) as problem:  # it runs out by itself
            logger.warning("the lease could not be given back: %s", problem)

    def _give_back(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._keeper.join(None if kind is None else _FAREWELL_S)

    def _withdraw(self) -> None:
        """Take away what was renewed in the moment in which another driver took over."""
        with suppress(OSError, RaySIError):
            self._objects.delete(_key(self.number))

    def _is_alone(self) -> bool:
        """Whether nothing else came to be in this place."""
        return all(key.startswith(LEASES) for key in self._objects.list())

    # Others' leases ----------------------------------------------------------------------------

    def _leases(self) -> list[tuple[str, int]]:
        """Keys of all leases, and their numbers."""
        keys = self._objects.list(LEASES)
        return [(key, int(match[1])) for key in keys if (match := _LEASE.fullmatch(key))]

    def _highest(self) -> tuple[str, int]:
        """Key and number of the lease that counts; "" and 0 where there is none."""
        return max(self._leases(), key=lambda lease: lease[1], default=("", 0))

    def _current(self) -> tuple[int, dict[str, Any] | None]:
        """The lease that counts; number 0 and None where there is none."""
        key, number = self._highest()
        if not number:
            return 0, None
        try:
            data = self._objects.get(key)
        except KeyError:  # succeeded, or given back, in this moment
            return self._current()
        try:
            record: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise RunError(f"{self._location}/{key} is damaged: delete it") from error
        return number, record

    def _is_free(self, number: int, record: dict[str, Any]) -> bool:
        if record["released"]:
            return True
        if record["machine"] == _machine():
            if record["pid"] == os.getpid() and record.get("started") == self._record["started"]:
                return record["id"] not in _held
            return not _is_alive(record["pid"], record.get("started"))
        self._notify(
            f"waiting up to {self._ttl_s:g} s to see whether process {record['pid']} on "
            f"{record['host']}, which holds the run, is alive"
        )
        end = time.monotonic() + self._ttl_s
        while time.monotonic() < end:
            time.sleep(self._ttl_s / 30)
            now = self._current()
            if now != (number, record):
                return now in [(0, None), (number, record | {"released": True})]
        return True

    def _data(self) -> bytes:
        return (json.dumps(self._record, indent=2) + "\n").encode()


def _key(number: int) -> str:
    return f"{LEASES}{number:05d}.json"


def _machine() -> str:
    """The same for all processes that see each other's process ids, and for no others."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            is_link = os.path.islink(path)
            parts.append(os.readlink(path) if is_link else Path(path).read_text().strip())
        except OSError:  # not Linux
            parts.append("")
    return "/".join(parts)


def _stat(pid: int) -> tuple[str | None, str | None]:
    """A process's state, one letter, and when it was started, in ticks since the machine was.

    None for both where nothing tells: it has ended, cannot be seen, or this is not Linux.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None, None
    return fields[0], fields[19]


def _is_alive(pid: int, started: str | None) -> bool:
    """Whether the process of this number that was started then still runs."""
    state, since = _stat(pid)
    if state is not None:
        # killed, but nobody has asked how it ended; or its number is another process's now, as
        # where a container restarts
        return state not in _DEAD and since == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
