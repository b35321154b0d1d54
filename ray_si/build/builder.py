"""A whole build: checks first, then the phases in order, from wherever the run stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray_si._version import __version__
from ray_si.config import RunConfig
from ray_si.engines import registry
from ray_si.errors import ConfigError
from ray_si.export.rows import export_data
from ray_si.pipeline.contamination import checked_sets, seeds_alike
from ray_si.pipeline.decisions import is_plateau, unread_note
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.records import SeedTask
from ray_si.report.files import documents
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.manifests import Stats
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.serving.connect import connect

_WORKERS = 4
"""Worker processes to start while the models are loaded; more come when they are needed."""


@dataclass(frozen=True)
class BuildResult:
    """``stats`` is what stats.json says; ``seconds`` the wall time of each phase run here."""

    stats: Stats
    seconds: dict[str, float]


@dataclass(frozen=True)
class Inputs:
    """What a run reads besides its configuration."""

    seeds: list[SeedTask]
    seeds_sha256: str
    sets: list[EvaluationSet]

    def fingerprint(self, config: RunConfig) -> str:
        """See `RunConfig.fingerprint`."""
        return config.fingerprint(self.seeds_sha256, [one.sha256 for one in self.sets])


def check(config: RunConfig) -> Inputs:
    """Everything that can be known before the first token; returns what was read for it.

    Raises SeedError, CorpusError, EngineError or ConfigError. Loads no model and starts no Ray;
    an endpoint is asked for one token to each kind of request.
    """
    inputs = check_inputs(config)
    requests = longest_requests(config, inputs.seeds)
    for generator in config.generators.values():
        expected = [item for item in requests if config.generator_for(item.purpose) is generator]
        registry.check(generator.engine, generator.model, generator.engine_options(), expected)
    if config.dedup.cosine is not None:
        registry.check_model(config.embedder.model)
    return inputs


def check_inputs(config: RunConfig) -> Inputs:
    """The part of `check` that needs neither engines nor models, which may be elsewhere."""
    seeds, digest = load_seeds(config.seeds)
    needed = config.bootstrap.demonstrations - config.bootstrap.machine_demonstrations
    if len(seeds) < needed:
        raise ConfigError(f"a prompt takes {needed} seed tasks and there are only {len(seeds)}")
    if config.bootstrap.classification_share and not any(s.is_classification for s in seeds):
        raise ConfigError(
            "bootstrap.classification_share needs seed tasks with is_classification true"
        )
    return Inputs(seeds, digest, checked_sets(config))


def build(
    config: RunConfig,
    location: str,
    *,
    address: str | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
    finish: bool = False,
) -> BuildResult:
    """Start or resume the run at ``location`` and take it to its end.

    ``address`` is a Ray cluster's (default: $RAY_ADDRESS, else Ray is started on this machine, or
    the Ray this process has initialised is used). ``listen`` takes `Progress` objects, from
    several threads. ``finish`` ends phase 1 with what it has. Interrupting the build loses nothing:
    called again, it goes on. Raises UserError before anything is written, NoProgressError,
    BudgetError, GenerationError.
    """
    inputs = check(config)
    config = config.as_begun(Run.configuration_at(location))
    header: dict[str, Any] = {
        "ray_si": __version__,
        "config": config.model_dump(mode="json"),
        "identity": config.identity(),
        "seeds_sha256": inputs.seeds_sha256,
    }
    if inputs.sets:
        header["decontaminate"] = [
            {"name": one.name, "sha256": one.sha256, "texts": len(one.texts)} for one in inputs.sets
        ]
    run = Run.prepare(location, header, inputs.fingerprint(config))
    seconds: dict[str, float] = {}
    stats = run.stats()
    if stats is None:
        with ExitStack() as stack:
            hold = partial(_hold, stack, run, listen)
            if run.exists:  # else the models come first: what they refuse leaves nothing behind
                hold()
            if run.instances() is None:
                with _clock(seconds, "total"):
                    _write(config, run, inputs, address, listen, finish, seconds, hold)
            with _clock(seconds, "export"):
                run.discard_unnamed()
                stats = _export(config, run, listen, seconds)
    return BuildResult(stats, seconds)


def _export(
    config: RunConfig, run: Run, listen: Callable[[Progress], None], seconds: dict[str, float]
) -> Stats:
    """Phase 4; the time of the card and the report is counted apart too."""

    def document(stats: Stats) -> dict[str, bytes]:
        with _clock(seconds, "report"):
            return documents(run, stats, config.card.model_dump(), tell)

    def tell(what: str, done: int, total: int) -> None:
        listen(Progress("export", done, total))

    return export_data(run, config.output.format, config.output.rows_per_shard, document)


def _hold(stack: ExitStack, run: Run, listen: Callable[[Progress], None]) -> None:
    """Take the run's lease for as long as the stack is open, unless it is held already."""
    if not run.is_held:
        stack.enter_context(run.held(lambda message: listen(Progress("start", note=message))))


def _write(
    config: RunConfig,
    run: Run,
    inputs: Inputs,
    address: str | None,
    listen: Callable[[Progress], None],
    finish: bool,
    seconds: dict[str, float],
    hold: Callable[[], None],
) -> None:
    """Phases 1 to 3, everything that needs the models."""
    from ray_si.build import checks as preflight, stages
    from ray_si.build.bootstrap import BootstrapPhase
    from ray_si.build.gate import open_gate
    from ray_si.build.instances import InstancePhase
    from ray_si.build.watch import Watcher
    from ray_si.dedup import warm_up
    from ray_si.pipeline.token_budget import TokenBudget
    from ray_si.serving.applications import Serving
    from ray_si.serving.background import in_thread

    token_budget = TokenBudget.of(config, run, inputs.seeds)

    reporter = Reporter(listen)
    rounds = run.rounds()
    accepted = sum(manifest["accepted"] for manifest in rounds)
    plateau = config.bootstrap.on_stall == "finish" and is_plateau(rounds, config.bootstrap)
    bootstrap_left = accepted < config.target_instructions and not (finish or plateau)
    if bootstrap_left:  # compiling the gate once takes as long as starting Ray
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
    with ExitStack() as stack:
        reporter.report(Progress("start", note="starting Ray"))
        with _clock(seconds, "ray"):
            is_ours = stack.enter_context(connect(address))
        embedder = bootstrap_left and config.dedup.cosine is not None
        preflight.wait_for_room(
            preflight.demands(config, embedder=embedder),
            is_ours=is_ours,
            notify=lambda message: reporter.report(Progress("start", note=message)),
        )
        if not is_ours:
            preflight.check_location(run.location)
        reporter.report(Progress("start", note="loading the models"))
        name = f"ray_si-{run.header['fingerprint'][:8]}"
        serving = Serving(config, name, embedder=embedder)
        at_once = max(serving.generators.tasks, config.bootstrap.lookahead) + 1
        in_thread(stages.warm_up, min(_WORKERS, at_once))
        with _clock(seconds, "models"):
            stack.enter_context(serving)
        run.create(inputs.seeds, inputs.sets)
        hold()
        stack.enter_context(Watcher(config, serving, reporter, run))
        instances = InstancePhase(config, run, serving.generators, reporter, token_budget)
        stack.callback(instances.abandon)
        if bootstrap_left:
            _announce(config, inputs, reporter)
            gate = stack.enter_context(open_gate(config, run, inputs.seeds, serving.encode))
            phase = BootstrapPhase(
                config,
                run,
                inputs.seeds,
                gate,
                serving.generators,
                reporter,
                token_budget,
                instances,
            )
            with _clock(seconds, "bootstrap"):
                phase.run()
        with _clock(seconds, "instances"):
            instances.run()


def _announce(config: RunConfig, inputs: Inputs, reporter: Reporter) -> None:
    """Say which seed tasks the gate cannot read, and what the run is held against."""
    notes = [unread_note(config, [seed.instruction for seed in inputs.seeds], "seed tasks")]
    if inputs.sets:
        notes.append(seeds_alike(config, inputs.seeds, inputs.sets))
        notes.append(f"reading {sum(len(one.texts) for one in inputs.sets)} evaluation texts")
    for note in filter(None, notes):
        reporter.report(Progress("start", note=note))


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - started
