"""What a configuration will leave idle, said before a run begins."""

from __future__ import annotations

from ray_si.config import RunConfig
from ray_si.config.rounds import BUSY, busy_share

_BETTER = 0.05
"""Share of the slots for which other rounds are worth a word."""

EMBEDDED_BY_CORE = 150.0
"""Texts a second that a core embeds with all-MiniLM-L6-v2; a little is left to spare."""

EMBEDDED_BY_GPU = 5000.0
"""... and a GPU, with batches that fill it: assumed, not measured here."""

WRITTEN_BY_GPU = 2500.0
"""Tokens a second of an 8B model on one GPU with its slots full: assumed, too."""

_TOKENS = 43.0
"""Of a candidate: 300 in a completion of seven."""

_JOINT_TOKENS = 160.0
"""... with an input and an output: assumed."""

_PLAN_TOKENS = 300.0
"""... after a plan for it: assumed, too."""

_CLUSTERED_S = 3.0
"""Seconds of two cores that clusters of a million embeddings of 384 numbers take."""

_CLUSTERED_GB = 3.1
"""Memory of them, which are put together for it."""

_LONG_S = 10.0
"""Before each round: worth a word."""


def idle_notes(config: RunConfig) -> list[str]:
    """What will keep GPUs waiting: rounds that leave slots idle, an embedder, clusters."""
    notes = _idle_slots(config), _slow_embedder(config), _long_clustering(config)
    return [note for note in notes if note]


def _idle_slots(config: RunConfig) -> str:
    share, options, slots = config.busy_share, config.bootstrap, config.generator.slots
    if share >= BUSY:
        return ""
    prompts, lookahead = config.fitted_rounds()
    better = busy_share(slots, config.latencies, prompts, lookahead)
    if better >= min(BUSY, share + _BETTER):
        advice = (
            "for a new run, bootstrap.fit_to_slots, where neither is set, would take rounds of "
            f"{prompts} with lookahead {lookahead}: {100 * better:.0f} %"
        )
    else:
        advice = (
            f"a target of {config.target_instructions:,} "
            f"{'and prompts_per_opening have' if options.prompts_per_opening else 'has'} not "
            "enough prompts for so many; fewer replicas, or slots of them, do as well"
        )
    return (
        f"rounds of {options.prompts_per_round} prompts with lookahead {options.lookahead} can "
        f"keep {100 * share:.0f} % of {slots} slots busy; {advice}"
    )


def _slow_embedder(config: RunConfig) -> str:
    generator, embedder = config.generator, config.embedder
    if config.dedup.cosine is None or not generator.gpus or config.reasoning.expected:
        return ""  # how long a model thinks is not known
    gpus = generator.gpus * generator.most_replicas
    written = gpus * WRITTEN_BY_GPU / _tokens(config)
    embedded = embeddings_a_second(config)
    if embedded >= written:
        return ""
    has = f"{embedder.gpus:g} GPU" if embedder.gpus else f"{embedder.cpus:g} cores"
    return (
        f"{embedder.replicas} embedder(s) of {has} embed about {embedded:,.0f} texts a second, and "
        f"{gpus:g} GPUs write about {written:,.0f} candidates (of an 8B model): they will wait; "
        "raise embedder.replicas or .cpus, or give embedder.gpus a share of one"
    )


def _tokens(config: RunConfig) -> float:
    """That a candidate takes, by what is asked for."""
    if config.bootstrap.mode == "joint":
        return _JOINT_TOKENS
    return _PLAN_TOKENS if config.bootstrap.method == "plan" else _TOKENS


def _long_clustering(config: RunConfig) -> str:
    millions = config.target_instructions / 1e6
    seconds = _CLUSTERED_S * millions
    if config.bootstrap.demonstration_sampling != "diverse" or seconds < _LONG_S:
        return ""
    return (
        "bootstrap.demonstration_sampling: diverse clusters the whole pool before each round: at "
        f"{config.target_instructions:,} instructions about {seconds:,.0f} s of two cores and "
        f"{_CLUSTERED_GB * millions:,.0f} GB of the driver's memory, by embeddings of 384 numbers; "
        "uniform takes neither"
    )


def embeddings_a_second(config: RunConfig) -> float:
    """Texts that all embedders embed."""
    embedder = config.embedder
    each = EMBEDDED_BY_GPU * embedder.gpus if embedder.gpus else EMBEDDED_BY_CORE * embedder.cpus
    return embedder.replicas * each
