"""What a build that is the entry point of a job leaves in its run: its log, and how it ended.

``job/outcome.json`` is of the last driver, ``job/driver-*.log`` of each. Neither takes the run's
lease: a configuration that has to be mended never gets as far, and is told here all the same.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from ray_si.errors import (
    BudgetError,
    ClusterLostError,
    NoProgressError,
    RaySIError,
    UserError,
    one_line,
)
from ray_si.run.layout import JOB
from ray_si.run.run import LIVE
from ray_si.storage.base import Objects
from ray_si.storage.objects import open_objects

OUTCOME = f"{JOB}outcome.json"
"""Key of how the last driver ended."""

_EVERY_S = 60.0
"""Seconds between copies of the log."""

_TAIL = 4 << 20
"""Most bytes of a log that are kept: its end."""

_MESSAGE = 2000
"""Most characters of an outcome's message."""

_LOST_ALIKE = 3
"""Drivers in a row that may be lost with no progress in between; then it is the run's own fault."""

_STOP_S = 60.0
"""Seconds for a job that stops itself to be ended."""

logger = logging.getLogger(__name__)


class JobReport:
    """Of one driver, about the run at ``location``; writes nothing where that cannot be written."""

    def __init__(self, location: str) -> None:
        self._objects: Objects = open_objects(location)
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._log_key = f"{JOB}driver-{began}-{socket.gethostname()}-{os.getpid()}.log"
        self._log = _output_file()
        self._ended = threading.Event()
        self._copier = threading.Thread(target=self._copy, name="driver-log", daemon=True)
        self.lost_alike = 0

    def begin(self) -> None:
        """Say that a driver runs, and copy its log from here on."""
        earlier = self._read(OUTCOME)
        progress = _progress(self._read(LIVE))
        if earlier.get("state") == "running":  # it was killed
            alike = earlier.get("progress") == progress
            self.lost_alike = earlier.get("lost_alike", 0) * alike + 1
        self._write("running", None, "", progress=progress, lost_alike=self.lost_alike)
        self._copier.start()

    def end(self, state: str, exit_status: int, message: str) -> None:
        """Say how it ended, with the whole log."""
        self._ended.set()
        self._copier.join(timeout=_EVERY_S)
        self._write(state, exit_status, message)

    def _copy(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self._copy_log()
        self._copy_log()

    def _copy_log(self) -> None:
        if self._log is None:
            return
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                self._objects.put(self._log_key, file.read())
        except (OSError, RaySIError) as problem:  # nothing depends on it
            logger.warning("the log could not be kept: %s", problem)

    def _write(self, state: str, exit_status: int | None, message: str, **more: Any) -> None:
        outcome = {
            "state": state,
            "exit_status": exit_status,
            "message": one_line(message, _MESSAGE),
            "at": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "log": self._log_key if self._log else None,
            **more,
        }
        try:
            self._objects.put(OUTCOME, (json.dumps(outcome, indent=2) + "\n").encode())
        except (OSError, RaySIError) as problem:
            logger.warning("%s could not be written: %s", OUTCOME, problem)

    def _read(self, key: str) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(self._objects.get(key))
        except (KeyError, ValueError, OSError, RaySIError):  # none, damaged, or out of reach
            return {}
        return value


@contextmanager
def reported(location: str, *, repeat: bool) -> Iterator[None]:
    """Leave a `JobReport` of what is done inside.

    Unless ``repeat``, what repeating cannot mend (the user's to mend, a spent budget, no progress,
    drivers lost one after the other in the same place) stops the job that this process is the entry
    point of, for operators that repeat whatever fails; elsewhere it is raised as ever.
    """
    report = JobReport(location)
    report.begin()
    is_hopeless = not repeat and report.lost_alike >= _LOST_ALIKE
    try:
        if is_hopeless:
            raise ClusterLostError(
                f"{report.lost_alike} drivers in a row were lost in the same place, as with too "
                "little memory on the head; give it more and submit again"
            )
        yield
    except KeyboardInterrupt:
        report.end("interrupted", 130, "stopped from outside; the same build goes on")
        raise
    except RaySIError as error:
        state = "stopped" if is_hopeless else state_of(error)
        report.end(state, 2 if state == "mend" else 1, str(error))
        if not repeat and state in ("mend", "stopped"):
            stop_own_job(str(error))
        raise
    except BaseException as error:
        report.end("failed", 1, f"{type(error).__name__}: {error}")
        raise
    report.end("done", 0, "")


def state_of(error: BaseException | None) -> str:
    """How a build ended that ended with this error: "mend" and "stopped" stay so if repeated."""
    if isinstance(error, UserError):
        return "mend"
    return "stopped" if isinstance(error, BudgetError | NoProgressError) else "failed"


def stop_own_job(reason: str, wait_s: float = _STOP_S) -> None:
    """Have the cluster stop the job whose entry point this process is, which ends the process.

    Returns where it is no job, or the cluster does not do it in time.
    """
    try:
        id_ = json.loads(os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR])["metadata"]["job_submission_id"]
    except (KeyError, ValueError):
        return
    print(f"this job stops itself, to be repeated by nobody: {reason}", file=sys.stderr, flush=True)
    try:
        JobSubmissionClient().stop_job(id_)
    except (
        RuntimeError,
        ConnectionError,
        requests.RequestException,
        AuthenticationError,
    ) as error:
        logger.warning("the job could not be stopped: %s", one_line(error))
    else:
        time.sleep(wait_s)  # for SIGTERM


def _output_file() -> Path | None:
    """The file that standard output goes to, as a job's does; None for terminals and pipes."""
    path = Path("/proc/self/fd/1")
    try:
        return path if stat.S_ISREG(path.stat().st_mode) else None
    except OSError:  # closed, or no Linux
        return None


def _progress(live: dict[str, Any]) -> list[Any]:
    """How far a build had come, to be compared."""
    written = live.get("written", {})
    return [live.get("phase"), live.get("done"), written.get("instructions")]
