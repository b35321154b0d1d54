"""The actor that looks after what a run holds of a cluster while no driver does.

It begins with every build and stays small: Serve, with all that it imports, comes in only where
applications have to be deleted.
"""

from __future__ import annotations

import logging
import re
import threading
import time

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from ray_si._version import __version__
from ray_si.serving.usage import Meter

BEATS = 10
"""In the time after which a silent driver counts as gone."""

LONGEST_S = 10.0
"""Most seconds between two beats."""

logger = logging.getLogger(__name__)


def is_of(name: str, app: str) -> int | None:
    """The fencing number in the name of an application of a run, None where it is another's."""
    match = re.fullmatch(rf"{re.escape(name)}-(\d{{5,}})-\w+", app)
    return int(match[1]) if match else None


class Custodian(Meter):
    """A run's `Meter`, and who says when what it holds has been left alone.

    ``identity`` stands for what was deployed, see `identity_of`. Of several drivers the one with
    the highest fencing number counts.
    """

    def __init__(self, name: str, identity: str, silence_s: float) -> None:
        super().__init__({"ray_si": __version__})
        self._name, self._identity, self._silence_s = name, identity, silence_s
        self._fencing = 0
        self._deployed: int | None = None
        self._has_request = False
        self._last_beat = time.monotonic()
        self._lock = threading.Lock()
        self._is_ending = False

    def beat(self, fencing: int, silence_s: float | None = None) -> bool:
        """The driver of that number lives; whether it is the one that counts."""
        if fencing < self._fencing:
            return False
        self._fencing, self._last_beat = fencing, time.monotonic()
        self._silence_s = silence_s or self._silence_s
        return True

    def take_over(self, fencing: int, identity: str, silence_s: float) -> tuple[bool, int | None]:
        """A driver begins. Whether it wants what this custodian is for, and if so the number in the
        names of the applications that it may go on with; it wants none that is ending them."""
        with self._lock:
            counts = self.beat(fencing, silence_s)
            is_same = counts and identity == self._identity and not self._is_ending
        return is_same, self._deployed if is_same else None

    def ends(self) -> bool:
        """Whether the driver is still silent; then nobody takes over what this one has any more."""
        with self._lock:
            self._is_ending = self.is_silent()
        return self._is_ending

    def deploys(self, fencing: int) -> None:
        """The driver that counts begins to deploy applications of its number."""
        if fencing == self._fencing:
            self._deployed = fencing

    def asks_for_nodes(self, fencing: int, asks: bool) -> None:
        """Whether the driver that counts has a request for nodes with the autoscaler."""
        if fencing == self._fencing:
            self._has_request = asks

    def is_silent(self) -> bool:
        """Whether the driver has been silent for the set time."""
        return time.monotonic() - self._last_beat > self._silence_s


class CustodianActor(Custodian):
    """As a Ray actor that outlives drivers: it acts on what a custodian says."""

    def __init__(self, name: str, identity: str, silence_s: float) -> None:
        super().__init__(name, identity, silence_s)
        threading.Thread(target=self._watch, name="custodian", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(min(LONGEST_S, self._silence_s / BEATS))
            if not self.is_silent():
                continue
            from ray.serve.exceptions import RayServeException

            try:
                if self._ended_orphans():
                    return  # a killed actor goes on for a moment: others may ask for nodes in it
            except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
                logger.warning("orphans of %s could not be ended yet: %s", self._name, error)

    def _ended_orphans(self) -> bool:
        """Delete the run's applications, and its request for nodes; then end this actor.

        False where a driver has come meanwhile: Serve takes seconds to import and to ask.
        """
        from ray import serve

        orphans = [app for app in serve.status().applications if is_of(self._name, app) is not None]
        if not self.ends():
            return False
        for app in orphans:
            logger.warning("%s has had no driver for %g s: ended", app, self._silence_s)
            serve.delete(app, _blocking=False)
        if self._has_request:
            request_resources(bundles=[])
        ray.kill(ray.get_runtime_context().current_actor)
        return True
