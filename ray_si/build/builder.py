"""A whole build: checks first, then the phases in order, from wherever the run stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ray_si._version import __version__
from ray_si.config import RunConfig
from ray_si.config.rounds import check_new
from ray_si.engines import registry
from ray_si.engines.memory import free_memory
from ray_si.errors import ConfigError, RunError
from ray_si.export.rows import export_data
from ray_si.pipeline.contamination import checked_sets
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.pipeline.progress import Progress, Reporter
from ray_si.pipeline.prompting import Prompting
from ray_si.records import SeedTask
from ray_si.report.files import documents
from ray_si.run.evaluation import EvaluationSet
from ray_si.run.manifests import Stats
from ray_si.run.run import Run
from ray_si.run.seeds import BUNDLED, load_seeds, seeds_of
from ray_si.run.strays import clean_up, is_clean
from ray_si.scores.during import Passing
from ray_si.self_instruct.filters import refers_to_text
from ray_si.serving.connect import is_this_machine


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


def check(config: RunConfig, *, here: bool = True) -> Inputs:
    """Everything that can be known of a new run before the first token; what was read for it.

    ``here`` is whether replicas run on this machine: if not, their packages and models are looked
    for where they do (`ray_si.build.probe`). Raises SeedError, CorpusError, EngineError, or
    ConfigError, for rounds and demonstrations with which none should begin, too. Loads no model and
    starts no Ray; an endpoint is asked for one token to each kind of request.
    """
    check_new(config.bootstrap)
    inputs = check_inputs(config)
    _check_engines(config, inputs.seeds, here=here)
    Prompting(config, inputs.seeds).check_new()
    return inputs


def _check_engines(config: RunConfig, seeds: list[SeedTask], *, here: bool) -> None:
    """The part of `check` that is about engines and models, also of a run that goes on."""
    requests = longest_requests(config, seeds)
    for generator in config.generators.values():
        if not here and generator.engine not in registry.FROM_THE_DRIVER:
            continue
        expected = [item for item in requests if config.generator_for(item.purpose) is generator]
        engine = generator.engine, generator.model, generator.engine_options()
        registry.check(*engine, expected)
        if here and not generator.gpus:  # looking at a GPU takes some of its memory
            registry.check_fit(*engine, free_memory(on_gpu=False), cards=1)
    if here and config.dedup.cosine is not None:
        registry.check_embedder(config.embedder.model)


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
    for text in {refers_to_text(opening) for opening in config.bootstrap.openings}:
        if not any(any(item.input for item in seed.instances) == text for seed in seeds):
            raise ConfigError(
                "bootstrap.openings: some need seed tasks with an input to follow, some without, "
                f"and there is none {'with' if text else 'without'}"
            )
    Passing.of(config)
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
    several threads, and ends the build with what it raises. ``finish`` ends phase 1 with what it
    has. Interrupting the build loses nothing: called again, it goes on. Raises UserError before
    anything is written, NoProgressError, BudgetError, GenerationError.
    """
    inputs = check_inputs(config)
    begun = Run.configuration_at(location)
    config = config.as_begun(begun)
    if not begun:
        check_new(config.bootstrap)
        Prompting(config, inputs.seeds).check_new()
    if config.seeds == begun.get("seeds") == BUNDLED:
        inputs = _as_begun(inputs, Run.open(location))
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
    if run.is_selection:
        raise RunError(f"{location} holds rows selected from another run; choose another --out")
    if run.instances() is None:  # the export takes no model
        _check_engines(config, inputs.seeds, here=is_this_machine(address))
    seconds: dict[str, float] = {}
    if run.stats() is None or not is_clean(run):
        with run.held(lambda message: listen(Progress("start", note=message))):
            if run.instances() is None:
                from ray_si.build.phases import Phases

                clock, reporter = partial(_clock, seconds), Reporter(listen)
                phases = Phases(config, run, inputs.seeds, inputs.sets, reporter, clock)
                with clock("total"):
                    phases.write(address, finish=finish)
            if run.stats() is None:
                with _clock(seconds, "export"):
                    _export(config, run, listen, seconds)
            clean_up(run)
    stats = run.stats()
    assert stats is not None, "a build ended before its run"
    return BuildResult(stats, seconds)


def _as_begun(inputs: Inputs, run: Run) -> Inputs:
    """With the bundled seed tasks as they were when the run began."""
    sha256 = run.header.get("seeds_sha256")
    if sha256 in (None, inputs.seeds_sha256):
        return inputs
    return replace(inputs, seeds=seeds_of(run.read("seeds.parquet")), seeds_sha256=sha256)


def _export(
    config: RunConfig, run: Run, listen: Callable[[Progress], None], seconds: dict[str, float]
) -> None:
    """Phase 4; the time of the card and the report is counted apart too."""

    def document(stats: Stats) -> dict[str, bytes]:
        with _clock(seconds, "report"):
            return documents(run, stats, config.card.model_dump(), tell)

    def tell(what: str, done: int, total: int) -> None:
        listen(Progress("export", done, total))

    export_data(run, config.output.format, config.output.rows_per_shard, document)


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - started
