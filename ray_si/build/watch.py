"""Looks at the replicas while a build runs: for the display, for `status`, for Prometheus."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any

from ray.exceptions import RayError
from ray.util.metrics import Gauge

from ray_si.build.cost import ClusterCost
from ray_si.config import RunConfig
from ray_si.errors import BudgetError, LeaseLostError, NoProgressError, RaySIError
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.pipeline.stage_clock import bound_by
from ray_si.pipeline.token_budget import TokenBudget
from ray_si.run.instance_parts import Counts
from ray_si.run.manifests import by_set
from ray_si.run.run import LIVE, Run
from ray_si.serving.applications import Serving
from ray_si.serving.background import Alarm, in_thread
from ray_si.serving.usage import Usage

_LOOK_S = 1.0
"""Seconds between looks at the replicas."""

_FAREWELL_S = 3.0
"""Most seconds for removing them after an error: their store may hang."""

_WRITE_S = 5.0
"""Seconds between writes of the run's live numbers."""

logger = logging.getLogger(__name__)


class Watcher:
    """Reports how busy the replicas are for as long as ``with`` lasts.

    Each second to the reporter and as Ray metrics; every few seconds, and at the end, into the
    run's ``live.json``, which also says what instances are ``written``, where all of them are
    known. ``token_budget`` is the run's, where it has one. What raises meanwhile, as who is told
    of progress may, rings the ``alarm``.
    """

    def __init__(
        self,
        config: RunConfig,
        serving: Serving,
        reporter: Reporter,
        run: Run,
        written: Callable[[], Counts | None],
        alarm: Alarm,
        token_budget: TokenBudget | None = None,
    ) -> None:
        self._alarm = alarm
        self._config, self._written, self._token_budget = config, written, token_budget
        self._cost = ClusterCost(config.budget.dollars_per_hour)
        self._versions: dict[str, dict[str, str]] = {}
        self._serving, self._reporter, self._run = serving, reporter, run
        self._lease = run.lease
        self._ended = threading.Event()
        self._gives_hours_back = False  # whether it ended by itself

    def __enter__(self) -> Watcher:
        self._watching = in_thread(self._watch)
        self._watching.add_done_callback(self._tell)
        return self

    def _tell(self, watching: Future[None]) -> None:
        if error := watching.exception():
            self._alarm.ring(error)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._gives_hours_back = kind is None or issubclass(kind, BudgetError | NoProgressError)
        self._ended.set()
        wait([self._watching], None if kind is None else _FAREWELL_S)

    def _watch(self) -> None:
        try:
            self._look()
        finally:
            if not self._lease.lost.done():
                self._write_live(ended=True)

    def _look(self) -> None:
        names = (
            *("accepted", "candidates", "target", "instances", "dollars"),
            *("replica_failures", "budget_used"),
        )
        gauges = {name: Gauge(f"si_{name}", f"Of the run: {name}", ("run",)) for name in names}
        written = 0.0
        while not (self._ended.wait(_LOOK_S) or self._lease.lost.done()):
            try:
                usage = self._serving.usage()
                if is_due := time.monotonic() - written >= _WRITE_S:
                    self._cost.look()
                    self._versions = self._serving.versions
            except RayError as error:  # the meter is being restarted
                logger.debug("the replicas' usage is not known: %s", error)
                continue
            dollars = self._config.dollars(usage.prompt_tokens, usage.completion_tokens)
            self._reporter.see(usage, dollars)
            last = self._reporter.last
            self._set(gauges, last)
            if is_due:
                written = time.monotonic()
                self._write_live(ended=False)

    def _set(self, gauges: dict[str, Gauge], last: Progress) -> None:
        failures = last.usage.deaths + last.usage.failed_starts
        values: dict[str, float] = {"replica_failures": failures}
        if last.phase == "bootstrap":
            values |= {"accepted": last.done, "target": last.total, "candidates": last.candidates}
        else:
            values["instances"] = last.instances
        if last.dollars is not None:
            values["dollars"] = last.dollars
        if self._token_budget and (used := self._token_budget.used()) is not None:
            values["budget_used"] = used
        for name, value in values.items():
            gauges[name].set(value, {"run": self._run.location})

    def _write_live(self, *, ended: bool) -> None:
        try:
            self._lease.check()
            self._run.objects.put(LIVE, json.dumps(self.live(ended=ended), indent=2).encode())
        except LeaseLostError:  # they are the other driver's
            return
        except (OSError, RaySIError) as problem:  # nothing depends on it
            logger.warning("%s could not be written: %s", LIVE, problem)

    def live(self, *, ended: bool) -> dict[str, Any]:
        """Numbers of this build so far, as ``ray-si status`` shows them.

        Seconds count from its start, also those for each instruction that it accepted; dollars are
        of what its replicas answered; ``written`` is of the whole run. ``stages`` are busy for that
        share of the last half minute (generate, embed, gate and decide), generate being of the
        generator that the phase asks; ``bound_by`` is the one that is full, null where none is:
        then the last answers of a round are awaited.
        """
        last, usage = self._reporter.last, self._reporter.last.usage
        is_bootstrap = last.phase == "bootstrap"
        stages = self._reporter.stages.shares() if is_bootstrap else {}
        purpose = self._config.bootstrap_purpose if is_bootstrap else "classification"
        generating = self._reporter.utilisation(self._config.section_for(purpose))
        if generating is not None:
            stages = {"generate": generating, **stages}
        budget = None if self._gives_hours_back else self._token_budget
        seconds, accepted = time.monotonic() - self._reporter.began, self._reporter.accepted
        return {
            "at": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "ended": ended,
            "phase": last.phase,
            "done": last.done,
            "total": last.total,
            "seconds": round(seconds, 1),
            **({"building_s": budget.building_s} if budget else {}),
            **({"versions": self._versions} if self._versions else {}),
            **({"cluster": cost} if (cost := self._cost.as_dict()) else {}),
            "replicas": usage.replicas,
            "slots": usage.slots,
            "running": min(usage.running, usage.slots),
            "waiting": usage.queued,
            "failed_starts": usage.failed_starts,
            "deaths": usage.deaths,
            **({"trouble": usage.trouble} if usage.trouble else {}),
            "utilisation": _rounded(last.utilisation),
            "utilisation_overall": _rounded(usage.utilisation_since(Usage())),
            "stages": {stage: round(share, 3) for stage, share in stages.items()},
            "bound_by": bound_by(stages),
            "tokens_per_second": round(self._reporter.tokens_per_second(), 1),
            "seconds_per_accepted": _rounded(seconds / accepted if accepted else None),
            **({} if last.dollars is None else {"dollars": round(last.dollars, 4)}),
            **{
                name: dict(sorted(getattr(usage, name).items()))
                for name in ("requests", "failed", "prompt_tokens", "completion_tokens")
            },
            **({"written": _as_dict(written)} if (written := self._written()) else {}),
        }


def _as_dict(written: Counts) -> dict[str, Any]:
    return {
        "instructions": written.instructions,
        "instances": written.instances,
        "prompt_tokens": written.tokens.prompt,
        "completion_tokens": written.tokens.completion,
        "contaminated": by_set(written.contaminated),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
