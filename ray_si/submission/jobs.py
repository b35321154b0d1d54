"""Builds as Ray jobs: submitted, followed through lost connections, submitted again, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests
from packaging.version import Version
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from ray_si.config.secrets import is_secret
from ray_si.errors import ClusterLostError, ConfigError, one_line
from ray_si.storage.objects import open_objects
from ray_si.submission.packaging import CONFIG_NAME, Package

T = TypeVar("T")

DEFAULT_ADDRESS = "http://127.0.0.1:8265"

_OLDEST_RAY = "2.50"
"""As in pyproject.toml."""

_PATIENCE_S = 600.0
"""Silence after which a head that answered counts as lost; a restart takes some minutes."""

_SILENCE_S = 15.0
"""Seconds without a line of the log after which the job's status is asked for."""

_SILENCES = 4
"""Such silences in a row after which the log is asked for anew: its connection may be dead."""

_REJOIN_S = 15.0
"""Seconds in which nodes join a head again that was begun anew."""

_STOP_S = 30
"""Seconds that a stopped driver has for giving back its replicas and its lease."""

_TIMEOUT_S = 10.0, 120.0
"""Seconds that connecting and each silence of a request may take."""

_CHATTY = "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"
"""Loggers whose messages of success say nothing that ours do not."""

_REASON = 300
"""Most characters of an answer that a message quotes."""

_METADATA = "ray_si_run"
"""Key of a job's metadata with the location of its run."""

_KILLED = {-9, -15, 137, 143}
"""Exit codes of an entry point that something else ended, with its machine, say."""

_LOST = {"JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"}
"""What Ray says of jobs that were lost with their node."""

_NO_SUPERVISOR = "failed to get job supervisor"
"""What it says, beside a failure to start, of a job that ran on a head that was begun again."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    ``exit_code`` is the driver's own where it lived to have one, 143 of a job that was stopped,
    else 1. ``is_lost`` says that nothing in the job itself ended it, so that submitting it again
    makes sense.
    """

    status: str
    exit_code: int
    is_lost: bool
    reason: str = ""


class Cluster:
    """The job server at ``address``, a dashboard's http(s) URL.

    Raises ConfigError where nothing answers there, or no Ray that ray_si runs on, or where it wants
    a token that the environment lacks; later, ClusterLostError once it has been silent for
    ``patience_s`` seconds.
    """

    def __init__(self, address: str | None, *, patience_s: float = _PATIENCE_S) -> None:
        self.address = (address or _address_from_environment()).rstrip("/")
        self._patience_s = patience_s
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError(
                f"{self.address} is not a dashboard's address: write {DEFAULT_ADDRESS}, or what "
                "the port-forward or tunnel to the cluster says"
            )
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with _without_ray_address():
                self._client = _Client(self.address)
            version = self._client.ray_version()
        except AuthenticationError as error:
            raise _wants_token(self.address) from error
        except (ConnectionError, requests.ConnectionError, requests.Timeout) as error:
            if isinstance(error.__context__, requests.exceptions.SSLError):
                raise ConfigError(
                    f"{self.address} has a certificate that is not trusted here: "
                    f"{one_line(error.__context__, _REASON)}; REQUESTS_CA_BUNDLE and SSL_CERT_FILE "
                    "name a file with its authority's"
                ) from error
            raise ConfigError(
                f"no Ray dashboard answers at {self.address}; is the cluster up, and the "
                "port-forward or tunnel to it?"
            ) from error
        except (RuntimeError, ValueError, TypeError, KeyError, requests.RequestException) as error:
            raise ConfigError(
                f"what answers at {self.address} is no Ray dashboard with jobs: "
                f"{one_line(error, _REASON)}"
            ) from error
        if Version(version) < Version(_OLDEST_RAY):
            raise ConfigError(
                f"the cluster at {self.address} runs Ray {version}; ray_si needs {_OLDEST_RAY} or "
                "newer there"
            )

    # Submitting --------------------------------------------------------------------------------

    def submit(
        self,
        package: Package,
        out: str,
        *,
        finish: bool = False,
        env: dict[str, str] | None = None,
        retries: int = 0,
        notify: Callable[[str], None] = lambda message: None,
    ) -> str:
        """Upload a package and start its build as a job; the job's id.

        Its driver is begun again on the cluster, up to ``retries`` times, where something kills it
        (`ray_si.submission.supervisor`). A head that is on its way up is waited for, told to
        ``notify``. Raises ConfigError where a job that is not over yet writes to ``out`` already,
        or the cluster refuses the package. A job whose node is gone is told to
        stop, and keeps nobody away.
        """
        for job in self._patiently(self.jobs, notify):
            if (
                run_of(job) == out
                and not job.status.is_terminal()
                and not self._patiently(partial(self._is_gone, job), notify)
            ):
                raise ConfigError(
                    f"job {job.submission_id} writes {out} already ({job.status}); "
                    "follow or end it with ray-si jobs"
                )
        command = ["python", "-m", "ray_si", "build", CONFIG_NAME, "--out", out, "--keep-log"]
        command += ["--finish"] * finish + [f"--retries={retries}"] * bool(retries)
        id_ = f"ray-si-{uuid.uuid4().hex[:10]}"

        notify(f"submitting as {id_}")

        def submit() -> None:
            if self._status(id_):  # the answer to the first try was lost
                return
            with _answering(self.address):
                self._client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=id_,
                    runtime_env={
                        "working_dir": str(package.path),
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S)} | (env or {}),
                    },
                    metadata={_METADATA: out},
                )

        self._patiently(submit, notify)
        return id_

    def jobs(self) -> list[JobDetails]:
        """Every job that was submitted to the cluster, oldest first."""
        with _answering(self.address):
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def job(self, id_: str) -> JobDetails:
        """One job; ConfigError where the cluster knows none of that id."""
        details = self._status(id_)
        if details is None:
            raise ConfigError(f"the cluster at {self.address} knows no job {id_}")
        return details

    def stop(self, id_: str, *, wait_s: float = _STOP_S + 30) -> JobDetails:
        """Tell a job to end, and wait until it has; ConfigError where there is none."""
        self.job(id_)
        with _answering(self.address):
            self._client.stop_job(id_)
        end = time.monotonic() + wait_s
        while not (job := self.job(id_)).status.is_terminal() and time.monotonic() < end:
            time.sleep(0.5)
        return job

    def run(
        self,
        package: Package,
        out: str,
        *,
        retries: int,
        write: Callable[[str], None],
        notify: Callable[[str], None],
        finish: bool = False,
        env: dict[str, str] | None = None,
    ) -> Outcome:
        """`submit` and `follow`, again up to ``retries`` times while the job is lost.

        That is, with its node or its head; killed drivers are the job's own affair. ``notify``
        hears of each job's id. The run itself goes on from what is stored.
        """
        for left in range(retries, -1, -1):
            id_ = self.submit(package, out, finish=finish, env=env, retries=retries, notify=notify)
            notify(f"submitted as {id_}")
            outcome = self.follow(id_, write, notify)
            if not outcome.is_lost or not left:
                break
            notify(f"job {id_} is lost ({outcome.reason}); submitting it again, {left} tries left")
        return outcome

    # Following ---------------------------------------------------------------------------------

    def follow(
        self,
        id_: str,
        write: Callable[[str], None],
        notify: Callable[[str], None] = lambda message: None,
    ) -> Outcome:
        """Hand on the job's log from its beginning until the job is over.

        Connections that break are made anew, and what was handed on is not repeated. ``notify``
        hears of it. A job whose node is gone is told to stop, and is lost. Raises ClusterLostError.
        """
        log = _Log(write)
        while True:
            log.rewind()
            with suppress(aiohttp.ClientError, OSError, RuntimeError, ClusterLostError):
                asyncio.run(self._tail(id_, log))
            job = self._patiently(lambda: self._status(id_), notify)
            if job is None:
                return Outcome(
                    "LOST", 1, True, "the cluster knows the job no more; its head was restarted"
                )
            if job.status.is_terminal():
                self._read_rest(id_, log, notify)
                return outcome_of(job)
            if self._patiently(partial(self._is_gone, job), notify):
                return Outcome("LOST", 1, True, "its node is gone")
            time.sleep(1)

    def _read_rest(self, id_: str, log: _Log, notify: Callable[[str], None]) -> None:
        """Hand on what is left of the log of a job that is over, where it can still be read."""
        try:
            with _answering(self.address):
                rest = self._client.get_job_logs(id_)
        except (ClusterLostError, ConfigError):  # it lay on the node that took the job along
            notify("the end of the job's log cannot be read")
            return
        log.rewind()
        log.take(rest)

    def _is_gone(self, job: JobDetails) -> bool:
        """Whether the node of a job that is not over is no more; such a job is stopped.

        A head that took another's place knows jobs out of Redis, and says RUNNING of those that
        ended with the other one until it is asked to do something about a job. Nodes that outlived
        a head join it again within seconds, so it is looked twice.
        """
        with _answering(self.address):
            if self._has_node(job):
                return False
            time.sleep(_REJOIN_S)
            if self._has_node(job):
                return False
            self._client.stop_job(job.submission_id)
        return True

    def _has_node(self, job: JobDetails) -> bool:
        """Whether its node is there, as far as the dashboard tells."""
        alive = self._client.live_nodes() if job.driver_node_id else set()
        return not alive or job.driver_node_id in alive

    async def _tail(self, id_: str, log: _Log) -> None:
        """Read the log until it ends, is silent for long, or the job ended without its end."""
        lines = self._client.tail_job_logs(id_).__aiter__()
        while True:
            pending = asyncio.ensure_future(anext(lines))
            looks = 0
            while not (await asyncio.wait([pending], timeout=_SILENCE_S))[0]:
                looks += 1
                job = await asyncio.to_thread(self._status, id_)
                if job is None or job.status.is_terminal() or looks == _SILENCES:
                    pending.cancel()
                    return
            try:
                log.take(pending.result())
            except StopAsyncIteration:
                return

    def _patiently(self, ask: Callable[[], T], notify: Callable[[str], None]) -> T:
        """What ``ask`` returns, asked until the cluster answers."""
        end = time.monotonic() + self._patience_s
        has_notified = False
        while True:
            try:
                return ask()
            except ClusterLostError as error:
                if time.monotonic() > end:
                    raise
                if not has_notified:
                    notify(f"{error}; waiting for it")
                has_notified = True
            time.sleep(2)

    def _status(self, id_: str) -> JobDetails | None:
        """What the cluster knows of a job; None where it knows none. Raises ClusterLostError."""
        with _answering(self.address):
            try:
                return self._client.get_job_info(id_)
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise


class _Client(JobSubmissionClient):
    """With a limit to how long an answer is waited for; Ray's own has none."""

    def ray_version(self) -> str:
        """Of the cluster."""
        version: str = self._do_request("GET", "/api/version").json()["ray_version"]
        return version

    def live_nodes(self) -> set[str]:
        """Ids of the cluster's nodes; none where the dashboard does not tell."""
        answer = self._do_request("GET", "/nodes?view=summary")
        if answer.status_code != 200:
            return set()
        nodes = [node["raylet"] for node in answer.json()["data"]["summary"]]
        return {node["nodeId"] for node in nodes if node.get("state") == "ALIVE"}

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _TIMEOUT_S} | kwargs)


class _Log:
    """Hands on a text that is told from its beginning again and again, each part of it once."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written = self._position = 0

    def rewind(self) -> None:
        """The text begins anew."""
        self._position = 0

    def take(self, text: str) -> None:
        """The next part of the text."""
        new = text[max(0, self._written - self._position) :]
        self._position += len(text)
        if new:
            self._written = self._position
            self._write(new)


def outcome_of(job: JobDetails) -> Outcome:
    """How a job that is over ended."""
    code, reason = job.driver_exit_code, one_line(job.message or "", _REASON)
    if job.status == JobStatus.SUCCEEDED:
        return Outcome("SUCCEEDED", 0, False)
    if job.status == JobStatus.STOPPED:
        return Outcome("STOPPED", 143, False, "it was stopped")
    if code is None:
        # a broken environment stays broken; a supervisor that died was taken along by its node
        is_lost = job.error_type in _LOST or _NO_SUPERVISOR in reason
        return Outcome("FAILED", 1, is_lost, reason)
    status = code if code > 0 else 128 - code
    return Outcome("FAILED", status, code in _KILLED, f"its driver ended with status {status}")


def run_of(job: JobDetails) -> str | None:
    """The location of the run that a job of `Cluster.submit` writes."""
    return (job.metadata or {}).get(_METADATA)


def summary_of(job: JobDetails) -> dict[str, Any]:
    """A job as JSON: id, status, run, entrypoint, began and ended (seconds since 1970), reason."""
    ended = job.end_time and job.end_time / 1000
    failed = job.status == JobStatus.FAILED
    return {
        "id": job.submission_id,
        "status": str(job.status),
        "run": run_of(job),
        "entrypoint": job.entrypoint,
        "began": job.start_time and job.start_time / 1000,
        "ended": ended,
        "reason": outcome_of(job).reason if failed else "",
    }


def check_out(out: str) -> None:
    """Raise StorageError or ConfigError unless every node can mean the same by ``out``."""
    open_objects(out)
    if "://" not in out and not Path(out).is_absolute():
        raise ConfigError(
            f"--out {out} would be a folder on the cluster's head: write s3://bucket/prefix, or "
            "an absolute path on storage that all nodes share"
        )


def parse_env(items: list[str]) -> dict[str, str]:
    """Environment variables from NAME=VALUE, or NAME for the value it has here.

    Raises ConfigError; also for what looks like a secret (see `is_secret`), since a job's
    environment is shown to everyone who sees the dashboard.
    """
    variables = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or (not equals and name not in os.environ):
            raise ConfigError(f"--env {item}: write NAME=VALUE, or NAME of a variable set here")
        variables[name] = value if equals else os.environ[name]
        if is_secret(name, variables[name]):
            raise ConfigError(
                f"--env {name}: this looks like a secret, and the dashboard would show it; give "
                "the nodes a role, or put it into the cluster's own environment (cluster/README.md)"
            )
    return variables


def _address_from_environment() -> str:
    address = os.environ.get("RAY_ADDRESS", "")
    if not address.startswith("http"):
        address = ""
    return os.environ.get("RAY_API_SERVER_ADDRESS") or address or DEFAULT_ADDRESS


def _wants_token(address: str) -> ConfigError:
    return ConfigError(
        f"the cluster at {address} wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
        "RAY_AUTH_TOKEN_PATH to the cluster's"
    )


@contextmanager
def _without_ray_address() -> Iterator[None]:
    """Ray would prefer these variables to the address that it is given."""
    names = "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """Refusals as ConfigError, and silence as ClusterLostError."""
    try:
        yield
    except (ConnectionError, requests.RequestException) as error:
        raise ClusterLostError(f"the cluster at {address} does not answer") from error
    except AuthenticationError as error:  # it has another token now
        raise _wants_token(address) from error
    except RuntimeError as error:
        reason = one_line(error, _REASON)
        if "status code 5" in reason:  # a head on its way up or down, or a gateway before it
            raise ClusterLostError(f"the cluster at {address}: {reason}") from error
        raise ConfigError(f"the cluster at {address} refused: {reason}") from error
