"""The gate's decisions taken anew, with other thresholds, from what a finished run has stored.

What another pool would have prompted cannot be replayed: the candidates are those of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_si._version import READING, __version__
from ray_si.audit.stored_cosines import StoredCosines, StoredDecisions
from ray_si.config import RunConfig
from ray_si.config.file import stored_config
from ray_si.dedup import (
    CONTAMINATED,
    Deduplicator,
    DedupResult,
    Duplicate,
    ExcludedTexts,
    decide_rest,
)
from ray_si.dedup.pool import EXACT, EXACT_KINDS
from ray_si.dedup.rouge import rouge_l
from ray_si.errors import RunError
from ray_si.export.rows import export_data
from ray_si.pipeline.contamination import excluded_texts
from ray_si.pipeline.decisions import RoundDecisions, Usable, decide_round, texts_of
from ray_si.pipeline.gate import gate_options
from ray_si.pipeline.instance_rows import block_schema, decided_columns, instance_row
from ray_si.pipeline.instances import (
    NOT_ASKED,
    AcceptedInstruction,
    Classified,
    is_class_known,
    pool_of,
)
from ray_si.report.files import documents
from ray_si.run.audit import Audit, Check
from ray_si.run.ids import instance_seed
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import INSTANCES, block_key
from ray_si.run.manifests import Stats, named_blocks
from ray_si.run.run import Run, part_key
from ray_si.run.schemas import ACCEPTED, RAW_BLOCK, InstanceRow, RawRow
from ray_si.run.seeds import seeds_of
from ray_si.storage.tables import write_table


@dataclass(frozen=True)
class Regated:
    """What `regate` came to, in instructions.

    ``accepted`` now, of which ``kept`` were accepted before; of the new ones ``not_asked`` have no
    instances; ``dropped`` were accepted before. ``rounds`` of the run were needed; ``stats`` is
    what stats.json says, None where the run was left open.
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

    No model is used, so cosines are known only as far as embeddings are stored. Raises RunError
    before anything is written: where the run is unfinished or damaged, ``to`` is in use, or a
    decision would need an embedding that is not stored; ConfigError for impossible values.
    """
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
    source = _Source(run)
    values = run.header["config"]
    values = values | {"dedup": values["dedup"] | dedup}
    if target is not None:
        values |= {"target_instructions": target}
    old, config = stored_config(run.header["config"]), stored_config(values)
    _check_cosine(location, old, config)
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
    rounds: Iterable[_RegatedRound] = _Regating(source, config, old).rounds()
    if config.dedup.cosine is not None:
        rounds = list(rounds)  # before anything is written: a decision may be impossible
    return _write(source, new, config, rounds, open_)


def _check_cosine(location: str, old: RunConfig, new: RunConfig) -> None:
    if new.dedup.cosine is None:
        return
    if old.dedup.cosine is None:
        raise RunError(f"{location} has no embeddings, as it had no cosine gate: use --cosine off")
    if old.decontaminate and new.dedup.cosine < old.dedup.cosine:
        raise RunError(
            f"{location} keeps no cosines with its evaluation sets, so a lower --cosine cannot be "
            "decided: use --cosine off"
        )
    if old.dedup.embedding_index not in EXACT_KINDS:
        raise RunError(
            f"{location} had the approximate index {old.dedup.embedding_index}, whose decisions "
            "cannot be repeated from stored rows: use --cosine off"
        )


class _Source:
    """A finished run, read with checks: RunError, with the first finding, where it is damaged."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._audit = Audit(run)
        for check in (self._audit.check_manifests(), self._audit.check_objects()):
            self._refuse(check)
        self.rounds = len(self._audit.rounds)
        self.seeds = seeds_of(run.read("seeds.parquet"))
        self.sets = run.evaluation_sets()

    def _refuse(self, check: Check) -> None:
        if not check.ok:
            raise RunError(
                f"{self.run.location} is damaged ({check.findings[0]}); `ray-si verify` says more"
            )

    def _table(self, key: str, schema: pa.Schema) -> pa.Table:
        check = Check(key)
        table = self._audit.table(key, schema, check)
        self._refuse(check)
        assert table is not None
        return table

    def blocks(self, round_: int) -> list[str]:
        """Keys of a round's raw blocks, in order."""
        return [
            key for _, key in sorted(named_blocks(self._audit.rounds[round_]["objects"]).items())
        ]

    def raw(self, round_: int) -> list[RawRow]:
        """A round's raw rows by request id."""
        tables = [self._table(key, RAW_BLOCK) for key in self.blocks(round_)]
        rows: list[RawRow] = [row for table in tables for row in table.to_pylist()]
        return sorted(rows, key=lambda row: row["request_id"])

    def decisions(self, round_: int) -> StoredDecisions:
        """What was decided in a round."""
        manifest = self._audit.rounds[round_]
        accepted, rejected = (part_key(manifest, name) for name in ("accepted", "rejected"))
        return StoredDecisions(self.run.read(accepted), self.run.read(rejected))

    def instance_rows(self, schema: pa.Schema) -> Iterator[InstanceRow]:
        """The instance rows, in pool order."""
        for key in self._audit.instance_keys():
            yield from self._table(key, schema).to_pylist()


@dataclass(frozen=True)
class _RegatedRound:
    """A round decided anew; it accepted ``before`` instructions at the run's own thresholds."""

    decided: RoundDecisions
    before: int


class _Regating:
    """The rounds of a run in order, each decided with a gate that knows those before it."""

    def __init__(self, source: _Source, config: RunConfig, old: RunConfig) -> None:
        self._source, self._config, self._old = source, config, old
        self._excluded = excluded_texts(config, source.sets)
        self._gate = Deduplicator(**gate_options(config.dedup))
        self._cosines: StoredCosines | None = None
        texts = [seed.instruction for seed in source.seeds]
        limit = config.dedup.cosine
        if limit is None:
            self._gate.add(texts)
        else:
            stored = (source.decisions(round_) for round_ in range(source.rounds))
            self._cosines = StoredCosines(
                stored,
                limit,
                same_limit=limit == old.dedup.cosine,
                highest=old.dedup.cosine if old.dedup.embedding_index == EXACT else None,
            )
            self._gate.add(texts, self._cosines.of_texts(texts))

    def rounds(self) -> Iterator[_RegatedRound]:
        """Decide rounds until the target is reached.

        Raises RunError where a decision would need an embedding that is not stored.
        """
        room = self._config.target_instructions
        for round_ in range(self._source.rounds):
            if room <= 0:
                return
            stored = self._source.decisions(round_)
            decided = self._decide(round_, stored, room)
            if self._cosines is not None and self._cosines.undecided:
                raise RunError(
                    f"{self._source.run.location} lacks embeddings for decisions like that on "
                    f"{self._cosines.undecided[0]}: use --cosine off"
                )
            room -= decided.accepted.num_rows
            cosines = self._cosines.known(decided.accepted, stored) if self._cosines else None
            accepted = _carried_over(decided.accepted, stored, cosines)
            yield _RegatedRound(decided._replace(accepted=accepted), len(stored.accepted))

    def _decide(self, round_: int, stored: StoredDecisions, room: int) -> RoundDecisions:
        def decide(usable: Sequence[Usable]) -> DedupResult:
            refused = self._excluded.find(texts_of(usable))
            if self._cosines is not None:
                refused = _with_cosines(refused, usable, stored, self._config, self._old)
            return decide_rest(
                len(usable), refused, lambda rest: filter_([usable[i] for i in rest])
            )

        def filter_(usable: Sequence[Usable]) -> DedupResult:
            if self._cosines is None:
                return self._gate.filter(texts_of(usable))
            return self._cosines.filter(self._gate, usable, stored, room)

        return decide_round(self._config, round_, self._source.raw(round_), room, decide)


def _with_cosines(
    by_rouge: list[Duplicate],
    usable: Sequence[Usable],
    stored: StoredDecisions,
    config: RunConfig,
    old: RunConfig,
) -> list[Duplicate]:
    """What resembles an evaluation set, by ROUGE-L now or by its cosine as it is stored."""
    refused = {duplicate.index: duplicate for duplicate in by_rouge}
    limit = config.dedup.cosine
    assert limit is not None
    for i, candidate in enumerate(usable):
        row = stored.rejected.get(candidate.id)
        if i in refused or row is None or row["reason"] != CONTAMINATED:
            continue
        match, score = row["match"], row["score"]
        assert match is not None, "a contaminated candidate has no match"
        assert score is not None, "a contaminated candidate has no score"
        by_cosine = rouge_l(row["text"], match, old.dedup.tokenizer) <= old.dedup.rouge
        if by_cosine and score > limit:
            refused[i] = Duplicate(i, CONTAMINATED, -1, match, score, row["source"])
    return [refused[i] for i in sorted(refused)]


def _carried_over(
    accepted: pa.Table, stored: StoredDecisions, cosines: list[float | None] | None
) -> pa.Table:
    """Accepted rows with the embeddings that are stored, and the ``cosines`` that are known."""
    embeddings = [stored.embeddings.get(id_) for id_ in accepted["id"].to_pylist()]
    values = {"cosine": cosines or [None] * len(embeddings), "embedding": embeddings}
    for name, column in values.items():
        field = ACCEPTED.field(name)
        place = ACCEPTED.get_field_index(name)
        accepted = accepted.set_column(place, field, pa.array(column, field.type))
    return accepted


def _write(
    source: _Source, new: Run, config: RunConfig, rounds: Iterable[_RegatedRound], open_: bool
) -> Regated:
    """Write the new run: its rounds, its instance blocks and, unless it is left open, its rows."""
    with new.held():
        new.create(source.seeds, source.sets)
        pool: list[AcceptedInstruction] = []
        before = 0
        for round_, regated in enumerate(rounds):
            _write_round(source, new, round_, regated.decided, pool)
            before += regated.before
        written = _write_instances(source, new, config, pool, open_)
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
        dropped=before - written.kept,
        rounds=len(new.rounds()),
        stats=stats,
    )


def _write_round(
    source: _Source,
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
    new.commit_round(round_, infos, *decided)


@dataclass
class _WrittenInstances:
    """Blocks that were written, and counts of what is in all blocks, written or left to a build."""

    parts: InstanceParts
    kept: int = 0
    not_asked: int = 0


def _write_instances(
    source: _Source, new: Run, config: RunConfig, pool: list[AcceptedInstruction], open_: bool
) -> _WrittenInstances:
    """Write instance blocks; if ``open_``, none that lacks an instruction's instances."""
    written = _WrittenInstances(InstanceParts(new, config.instances.block_size))
    for number, (rows, kept) in enumerate(_instance_blocks(source, config, pool)):
        lacking = sum(row["finish_reason"] == NOT_ASKED for row in rows)
        written.kept += kept
        written.not_asked += lacking
        if not lacking or not open_:
            table = pa.Table.from_pylist(rows, block_schema(config))
            info = write_table(new.objects, block_key(INSTANCES, number), table)
            written.parts.add(BlockRecord.of(table, info))
    return written


def _instance_blocks(
    source: _Source, config: RunConfig, pool: list[AcceptedInstruction]
) -> Iterator[tuple[list[InstanceRow], int]]:
    """Instance rows for the pool, block by block, and how many of each are stored ones.

    The others are of instructions that no model was asked about. Both pools are in the order of
    the candidates, so one pass over the stored rows is enough.
    """
    ids = {instruction.id for instruction in pool}
    stored = (row for row in source.instance_rows(block_schema(config)) if row["id"] in ids)
    upcoming = next(stored, None)
    excluded = excluded_texts(config, source.sets) if source.sets else None
    size = config.instances.block_size
    for start in range(0, len(pool), size):
        rows: list[InstanceRow] = []
        kept = 0
        for index, instruction in enumerate(pool[start : start + size], start):
            if upcoming is not None and upcoming["id"] == instruction.id:
                rows.append(_decided_anew(config, upcoming, instruction, start // size, excluded))
                kept += 1
                upcoming = next(stored, None)
            else:
                rows.append(_not_asked(config, instruction, start // size, index, excluded))
        yield rows, kept
    assert upcoming is None, "instances of a kept instruction were lost"


def _decided_anew(
    config: RunConfig,
    row: InstanceRow,
    instruction: AcceptedInstruction,
    block: int,
    excluded: ExcludedTexts | None,
) -> InstanceRow:
    """A stored row in its new block: evaluation sets go by the new threshold."""
    decided: Any = decided_columns(config, instruction, row, excluded)
    return {**row, "block": block, **decided}


def _not_asked(
    config: RunConfig,
    instruction: AcceptedInstruction,
    block: int,
    place: int,
    excluded: ExcludedTexts | None,
) -> InstanceRow:
    """A row for an instruction newly accepted: with the instance that came with it, or none."""
    is_known = is_class_known(config, instruction)
    return instance_row(
        config,
        instruction,
        block,
        instance_seed(config.seed, place),
        Classified(is_known and instruction.classification_prompt),
        None,
        excluded,
    )
