"""The gate's decisions taken anew, with other thresholds, from what a finished run has stored.

What another pool would have prompted cannot be replayed: the candidates are those of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray_si._version import READING, __version__
from ray_si.audit.finished_run import FinishedRun
from ray_si.audit.regated_instances import write_instances
from ray_si.config import RunConfig
from ray_si.config.file import stored_config
from ray_si.dedup import Deduplicator, DedupResult
from ray_si.dedup.pool import EXACT_KINDS
from ray_si.errors import RunError
from ray_si.export.rows import export_data
from ray_si.pipeline.decisions import (
    RoundDecisions,
    Usable,
    all_candidates,
    decide_round,
    passed,
    texts_of,
)
from ray_si.pipeline.embeddings import inputs_table
from ray_si.pipeline.gate import gate_options, guarded
from ray_si.pipeline.instances import AcceptedInstruction, pool_of
from ray_si.report.files import documents
from ray_si.run.folder import check_beside
from ray_si.run.manifests import Stats
from ray_si.run.run import Run


@dataclass(frozen=True)
class Regated:
    """What `regate` came to, in instructions.

    ``accepted`` now, of which ``kept`` were accepted before; of the new ones ``not_asked`` have no
    instances; ``dropped`` were accepted before, those of rounds that are not needed included.
    ``rounds`` of the run were needed; ``stats`` is what stats.json says, None where the run was
    left open.
    """

    accepted: int
    kept: int
    not_asked: int
    dropped: int
    rounds: int
    stats: Stats | None


def regate(
    location: str, to: str, dedup: dict[str, Any], *, target: int | None = None, open_: bool = False
) -> Regated:
    """Write the run at ``location`` to ``to`` as other thresholds would have it.

    ``dedup`` are values of that section of the configuration (rouge, cosine, tokenizer), ``target``
    another target_instructions; the rest is the run's own. Parsing and filters are repeated, too.
    Instances are kept with their instructions; instructions newly accepted have none, unless the
    run is left ``open_``: a build then writes their blocks. With the same thresholds every shard is
    the same.

    No model is used: what came to the run's gate has its embedding stored. Raises RunError before
    anything is written: where the run is unfinished or damaged, ``to`` is in use or inside it, or a
    decision would need an embedding that is not stored, since the run had no cosine gate, was begun
    by an earlier version, or its filters kept the candidate from the gate; ConfigError for
    impossible values.
    """
    check_beside(to, location)
    run = Run.open(location)
    if run.stats() is None:
        raise RunError(f"{location} is not finished: run `ray-si build` on it again first")
    if run.is_selection:
        origin = run.header["selected_from"]["run"]
        raise RunError(f"{location} holds rows selected from {origin}: regate that, and select")
    if run.reading != READING:
        raise RunError(
            f"{location} was begun under earlier rules of reading answers ({run.reading}, now "
            f"{READING}): regate it with the version of ray_si that run.json names"
        )
    source = FinishedRun(run)
    values = run.header["config"]
    values = values | {"dedup": values["dedup"] | dedup}
    if target is not None:
        values |= {"target_instructions": target}
    old, config = stored_config(run.header["config"]), stored_config(values)
    _check_cosine(source, old, config)
    digest = run.header["seeds_sha256"]
    header = {
        "ray_si": __version__,
        "config": config.model_dump(mode="json"),
        "identity": config.identity(),
        "seeds_sha256": digest,
        **({"decontaminate": run.header["decontaminate"]} if source.sets else {}),
        "regated_from": {
            "fingerprint": run.header["fingerprint"],
            "target_instructions": old.target_instructions,
            "dedup": old.dedup.model_dump(mode="json"),
        },
    }
    sets_sha256 = [item.sha256 for item in source.sets]
    new = Run.prepare(to, header, config.fingerprint(digest, sets_sha256))
    if list(new.objects.list("run.json")):
        raise RunError(f"{to} is a run already; choose another --to")
    rounds: Iterable[RoundDecisions] = _rounds(source, config)
    if config.dedup.cosine is not None:
        rounds = list(rounds)  # before anything is written: a decision may be impossible
    return _write(source, new, config, rounds, open_)


def _check_cosine(source: FinishedRun, old: RunConfig, new: RunConfig) -> None:
    if new.dedup.cosine is None:
        return
    location = source.run.location
    if source.inputs is None:
        raise RunError(
            f"{location} has no embeddings of all that came to its gate, as it had no cosine gate "
            "or was begun by an earlier version: use --cosine off"
        )
    if old.dedup.embedding_index not in EXACT_KINDS:
        raise RunError(
            f"{location} had the approximate index {old.dedup.embedding_index}, whose decisions "
            "cannot be repeated from stored rows: use --cosine off"
        )


def _rounds(source: FinishedRun, config: RunConfig) -> Iterator[RoundDecisions]:
    """Decide a run's rounds in order, with a gate that knows those before, up to the target.

    Raises RunError where a decision would need an embedding that is not stored.
    """
    gate = Deduplicator(**gate_options(config.dedup))
    inputs = None if config.dedup.cosine is None else source.inputs
    gate.add([seed.instruction for seed in source.seeds], inputs and inputs.seeds)
    guard = guarded(gate, config, source.sets, inputs and inputs.sets)
    room = config.target_instructions
    for round_ in range(source.rounds):
        if room <= 0:
            return
        raw = source.raw(round_)
        embeddings = source.embeddings(round_, passed(all_candidates(config, raw)))
        if embeddings is None and config.dedup.cosine is not None:
            raise RunError(
                f"{source.run.location} lacks embeddings of candidates of round {round_} that did "
                "not come to its gate: use --cosine off"
            )

        def decide(usable: Sequence[Usable], embeddings: Any = embeddings) -> DedupResult:
            return guard.filter(texts_of(usable), embeddings)

        decided = decide_round(config, round_, raw, room, decide, embeddings=embeddings)
        room -= decided.accepted.num_rows
        yield decided


def _write(
    source: FinishedRun, new: Run, config: RunConfig, rounds: Iterable[RoundDecisions], open_: bool
) -> Regated:
    """Write the new run: its rounds, its instance blocks and, unless it is left open, its rows."""
    with new.held():
        new.create(source.seeds, source.sets)
        pool: list[AcceptedInstruction] = []
        for round_, decided in enumerate(rounds):
            _write_round(source, new, round_, decided, pool)
        written = write_instances(source, new, config, pool, open_)
        stats = None
        if not open_:
            written.parts.commit(len(pool), {"rounds": len(new.rounds())})
            chosen = config.card.model_dump()
            stats = export_data(
                new,
                config.output.format,
                config.output.rows_per_shard,
                lambda stats: documents(new, stats, chosen),
            )
    return Regated(
        accepted=len(pool),
        kept=written.kept,
        not_asked=written.not_asked,
        dropped=source.accepted - written.kept,
        rounds=len(new.rounds()),
        stats=stats,
    )


def _write_round(
    source: FinishedRun,
    new: Run,
    round_: int,
    decided: RoundDecisions,
    pool: list[AcceptedInstruction],
) -> None:
    """Copy a round's raw blocks, commit its decisions, and extend the pool."""
    infos = []
    for key in source.blocks(round_):
        new.objects.put(key, source.run.objects.get(key))
        infos.append(new.read_stored(key)[1])
    pool += pool_of(decided.accepted)
    decided.manifest["pool"] = len(source.seeds) + len(pool)
    inputs = None
    if round_ == 0 and source.inputs is not None:
        inputs = inputs_table(source.seeds, source.sets, source.inputs)
    new.commit_round(round_, infos, *decided, inputs=inputs)
