"""Phases 1 to 3 of a build, under the run's lease: everything that needs Ray and the models."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from ray.util.placement_group import PlacementGroup

from ray_si.build import checks, stages
from ray_si.build.bootstrap import BootstrapPhase
from ray_si.build.gate import open_gate
from ray_si.build.instances import WRITERS, InstancePhase, is_any_to_ask
from ray_si.build.probe import check_engines
from ray_si.build.sharding import reserved_gpus
from ray_si.build.watch import Watcher
from ray_si.config import RunConfig
from ray_si.dedup import warm_up
from ray_si.errors import NoProgressError, RaySIError
from ray_si.pipeline.contamination import seeds_alike
from ray_si.pipeline.decisions import is_plateau, unread_note
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.pipeline.occupancy import idle_notes
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.pipeline.token_budget import TokenBudget
from ray_si.records import SeedTask
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.run import LIVE, Run
from ray_si.scores.during import EnoughRows
from ray_si.serving.applications import (
    Generators,
    Serving,
    remove_predecessors,
    shared_name,
)
from ray_si.serving.background import Alarm, in_thread
from ray_si.serving.connect import connect
from ray_si.serving.custody import Custody, identity_of

_WORKERS = 4
"""Worker processes to start while the models are loaded; more come when they are needed."""


@dataclass(frozen=True)
class Phases:
    """One driver's work on a run whose lease it holds.

    ``clock`` measures the time of a named part. ``alarm`` rings when the lease is lost, or work in
    the background fails, and ends whatever waits.
    """

    config: RunConfig
    run: Run
    seeds: list[SeedTask]
    sets: Sequence[EvaluationSet]
    reporter: Reporter
    clock: Callable[[str], AbstractContextManager[None]]
    alarm: Alarm = field(default_factory=Alarm)

    def write(self, address: str | None, *, finish: bool) -> None:
        """Take the run from where it stands to the manifest of its instances.

        On the Ray at ``address``, see `connect`; ``finish`` ends phase 1 with what it has. Raises
        what `ray_si.build.builder.build` says.
        """
        self.run.lease.lost.add_done_callback(lambda lost: self.alarm.ring(lost.exception()))
        token_budget = TokenBudget.of(self.config, self.run, self.seeds)
        rounds = CommittedRounds.read(self.run)
        enough = EnoughRows(self.config, rounds)
        is_bootstrapping = not (finish or self._is_bootstrapped(rounds, enough))
        if not (is_bootstrapping or rounds.accepted):  # an empty run would be finished for good
            advice = "; build without --finish" if finish else ""
            raise NoProgressError(f"no instruction is accepted to go on with{advice}")
        # before any model is loaded; a run of which only the manifest is missing needs no budget
        size = self.config.instances.block_size
        if token_budget.is_spent and (is_bootstrapping or is_any_to_ask(self.run, rounds, size)):
            raise token_budget.error("what is finished is kept")
        if is_bootstrapping:  # compiling the gate once takes as long as starting Ray
            threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
        with ExitStack() as stack:
            embedder = is_bootstrapping and self.config.dedup.cosine is not None
            check = partial(self._check, token_budget)
            custody, config = self._connect(stack, address, check, embedder=embedder)
            gpus = self.config.dedup.gpus if embedder else 0.0
            room = stack.enter_context(ExitStack())  # goes with phase 1
            cards = room.enter_context(
                reserved_gpus(self.config.dedup.shards, gpus, notify=self._say, check=check)
            )
            cores = checks.room_for_cores(adopted=custody.adopted is not None)
            serving = self._deploy(stack, config, custody, check, embedder=embedder)
            generators = self._with_cores(serving.generators, cores)
            # what the models refuse leaves no run behind
            self.run.create(self.seeds, self.sets)
            rounds.write()
            instances = InstancePhase(
                self.config,
                self.run,
                rounds,
                generators,
                self.reporter,
                token_budget,
                self.alarm,
            )
            watcher = Watcher(
                self.config,
                serving,
                self.reporter,
                self.run,
                lambda: instances.written,
                self.alarm,
                token_budget,
            )
            stack.enter_context(watcher)
            stack.callback(instances.abandon)
            if is_bootstrapping:
                with self.clock("bootstrap"), room:
                    self._bootstrap(
                        rounds, serving, generators, token_budget, instances, enough, cards
                    )
                serving.release_embedder()
            with self.clock("instances"):
                instances.run()

    def _is_bootstrapped(self, rounds: CommittedRounds, enough: EnoughRows) -> bool:
        """Whether phase 1 is over: the target reached, enough rows, or a plateau that ends it."""
        options = self.config.bootstrap
        if rounds.accepted >= self.config.target_instructions:
            return True
        if enough.stand_in(self.run, self.alarm.check):
            return True
        return options.on_stall == "finish" and is_plateau(rounds.manifests, options)

    def _check(self, token_budget: TokenBudget) -> None:
        """What ends a wait for nodes or models: the alarm, and the end of the budget's hours."""
        self.alarm.check()
        if token_budget.is_over:
            with suppress(RaySIError):  # the end is told, whatever becomes of this
                self.run.lease.check()
                if live := self.run.live():  # the next build has all of them again
                    live.pop("building_s", None)
                    self.run.objects.put(LIVE, json.dumps(live, indent=2).encode())
            raise token_budget.error("what is finished is kept")

    def _connect(
        self,
        stack: ExitStack,
        address: str | None,
        check: Callable[[], None],
        *,
        embedder: bool,
    ) -> tuple[Custody, RunConfig]:
        """Get hold of a Ray that has room for the models and sees the run.

        The configuration has the replicas that may be started there.
        """
        self._say("starting Ray")
        with self.clock("ray"):
            is_ours = stack.enter_context(connect(address))
        name, fencing = shared_name(self.run.location), self.run.lease.number
        identity = identity_of(self.config, embedder=embedder)
        silence_s = 60 * self.config.budget.unattended_minutes
        check_lease = self.run.lease.check
        check_lease()  # Ray may have been waited for: what is there may be another's
        custody = stack.enter_context(Custody(name, fencing, identity, silence_s, check_lease))
        remove_predecessors(name, fencing, keep=custody.adopted, check=check)
        with custody.asking_for_nodes():
            config = checks.wait_for_room(
                self.config,
                embedder=embedder,
                is_ours=is_ours,
                notify=self._say,
                check=check,
            )
        if not is_ours:
            # what was adopted runs, and has the GPUs that this would wait for
            if custody.adopted is None or not self.run.exists:
                requests = longest_requests(self.config, self.seeds)
                check_engines(self.config, requests, embedder=embedder, notify=self._say)
            checks.check_location(self.run.location)
        return custody, config

    def _deploy(
        self,
        stack: ExitStack,
        config: RunConfig,
        custody: Custody,
        check: Callable[[], None],
        *,
        embedder: bool,
    ) -> Serving:
        """Load the models; they go when the stack ends."""
        self._say("loading the models")
        name, fencing = shared_name(self.run.location), self.run.lease.number
        serving = Serving(
            config,
            name,
            fencing,
            embedder=embedder,
            notify=self._say,
            check=check,
            custody=custody,
        )
        at_once = max(serving.generators.tasks, self.config.bootstrap.lookahead) + 1
        in_thread(stages.warm_up, min(_WORKERS, at_once))
        with self.clock("models"):
            return stack.enter_context(serving)

    def _with_cores(self, generators: Generators, before: float) -> Generators:
        """The generators, with whether they leave cores for what is around them.

        ``before`` is the room that there was for both.
        """
        executions = self.config.bootstrap.lookahead + 1 + WRITERS
        cores = stages.cores_for(generators, executions)
        return replace(generators, leave_cores=checks.leaves_cores(self.config, cores, before))

    def _bootstrap(
        self,
        rounds: CommittedRounds,
        serving: Serving,
        generators: Generators,
        token_budget: TokenBudget,
        instances: InstancePhase,
        enough: EnoughRows,
        cards: PlacementGroup | None,
    ) -> None:
        """Phase 1; its gate, with the whole pool in memory, goes with it."""
        self._announce()
        if self.config.dedup.cosine is not None:
            self.reporter.stages.watch("embed", lambda: (serving.embedding_s,))
        with open_gate(self.config, self.run, rounds, self.seeds, serving.encode, cards) as gate:
            BootstrapPhase(
                self.config,
                self.run,
                rounds,
                self.seeds,
                gate,
                generators,
                self.reporter,
                token_budget,
                instances,
                enough,
                self.alarm,
            ).run()

    def _announce(self) -> None:
        """Say which seed tasks the gate cannot read, and what the run is held against."""
        notes = [unread_note(self.config, [seed.instruction for seed in self.seeds], "seed tasks")]
        if self.sets:
            notes.append(seeds_alike(self.config, self.seeds, self.sets))
            count = sum(len(evaluation.texts) for evaluation in self.sets)
            notes.append(f"reading {count} evaluation texts")
        notes += idle_notes(self.config)
        for note in filter(None, notes):
            self._say(note)

    def _say(self, note: str) -> None:
        self.reporter.report(Progress("start", note=note))
