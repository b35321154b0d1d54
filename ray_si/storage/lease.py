"""One driver at a time: a numbered lease, renewed while it is held.

Leases are objects ``lease/00001.json``, ``lease/00002.json``, ...; taking one is writing the next
number unless it exists, which exactly one process can. The highest number holds; it is the fencing
number of everything its driver commits. A holder rewrites its own object to show that it lives.
Whether another one does is told by watching, never by comparing clocks of two machines.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ray_si.errors import LeaseLostError, RaySIError, RunError
from ray_si.storage.base import Objects

_PREFIX = "lease/"

TTL_S = 30.0
"""A lease that was not renewed for so long may be taken. It is renewed three times in that."""

logger = logging.getLogger(__name__)


class Lease:
    """The right to write to a run; ``with`` takes it, keeps renewing it, and gives it back.

    Entering raises RunError, saying who holds it, while another driver lives. One that is known to
    be dead (it ran on this machine, or gave its lease back) is succeeded at once; of any other this
    waits for up to ``ttl_s`` seconds for a sign of life, told to ``notify``.
    """

    def __init__(
        self,
        objects: Objects,
        location: str,
        *,
        ttl_s: float = TTL_S,
        notify: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._objects, self._location = objects, location
        self._ttl_s, self._notify = ttl_s, notify
        self._record: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "id": uuid.uuid4().hex,
            "taken": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "renewals": 0,
            "released": False,
        }
        self.number = 0
        self._lost = False
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
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
        for key in list(self._objects.list(_PREFIX)):
            if key < _key(self.number):
                self._objects.delete(key)
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._keeper.join()
        if not self._lost:
            self._record["released"] = True
            try:
                self._objects.put(_key(self.number), self._data())
            except (OSError, RaySIError) as problem:  # it runs out by itself
                logger.warning("the lease could not be given back: %s", problem)

    def check(self) -> None:
        """Raise LeaseLostError unless this driver still holds the lease. Asks the store."""
        self._lost = self._lost or self._current()[0] != self.number
        if self._lost:
            raise LeaseLostError(
                f"another driver has taken over {self._location}; what is finished is kept"
            )

    def _keep(self) -> None:
        while not self._ended.wait(self._ttl_s / 3):
            self._record["renewals"] += 1
            try:
                self.check()
                self._objects.put(_key(self.number), self._data())
            except LeaseLostError:
                return
            except (OSError, RaySIError) as error:
                logger.warning("the lease could not be renewed yet: %s", error)

    def _current(self) -> tuple[int, dict[str, Any] | None]:
        """The highest lease; number 0 and None where there was none yet."""
        keys = [key for key in self._objects.list(_PREFIX) if key.endswith(".json")]
        if not keys:
            return 0, None
        number = int(Path(keys[-1]).stem)
        try:
            data = self._objects.get(keys[-1])
        except KeyError:  # succeeded in this moment
            return self._current()
        try:
            record: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise RunError(f"{self._location}/{keys[-1]} is damaged: delete it") from error
        return number, record

    def _is_free(self, number: int, record: dict[str, Any]) -> bool:
        if record["released"]:
            return True
        if record["machine"] == _machine():
            # a container that restarts gives the same numbers to other processes
            is_another = record.get("started") != _started(record["pid"])
            return is_another or not _is_alive(record["pid"])
        self._notify(
            f"waiting up to {self._ttl_s:g} s to see whether process {record['pid']} on "
            f"{record['host']}, which holds the run, is alive"
        )
        end = time.monotonic() + self._ttl_s
        while time.monotonic() < end:
            time.sleep(self._ttl_s / 30)
            if self._current() != (number, record):
                return self._current() == (number, record | {"released": True})
        return True

    def _data(self) -> bytes:
        return (json.dumps(self._record, indent=2) + "\n").encode()


def _key(number: int) -> str:
    return f"{_PREFIX}{number:05d}.json"


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


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None where nothing tells."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # ended, or not Linux
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
