"""The gate's decisions taken anew, with other thresholds, from what a finished run has stored.

What another pool would have prompted cannot be replayed: the candidates are those of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_si._version import __version__
from ray_si.audit.stored_cosines import StoredCosines, StoredDecisions
from ray_si.config import RunConfig
from ray_si.config.file import parse_config
from ray_si.dedup import (
    CONTAMINATED,
    Deduplicator,
    DedupResult,
    Duplicate,
    ExcludedTexts,
    decide_rest,
)
from ray_si.dedup.rouge import rouge_l
from ray_si.errors import RunError
from ray_si.export.rows import export_data
from ray_si.pipeline.contamination import excluded_texts
from ray_si.pipeline.decisions import (
    ACCEPTED,
    COMPLETION_NULLABLE,
    GIVEN,
    NOT_ASKED,
    RAW,
    WRITTEN,
    AcceptedInstruction,
    Usable,
    decide_round,
    instances_of,
    instruction_id,
    texts_of,
)
from ray_si.report.files import documents
from ray_si.run.audit import Audit, Check
from ray_si.run.run import Run, block_key, part_key, round_folder
from ray_si.run.seeds import seeds_of
from ray_si.run.tokens import TOKEN_COLUMNS
from ray_si.self_instruct.sampling import derive_seed
from ray_si.storage.tables import ShardInfo, write_table


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
    stats: dict[str, Any] | None


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
    source = _Source(run)
    values = run.header["config"]
    values = values | {"dedup": values["dedup"] | dedup}
    if target is not None:
        values |= {"target_instructions": target}
    old, config = parse_config(run.header["config"]), parse_config(values)
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
    sets_sha256 = [one.sha256 for one in source.sets]
    new = Run.prepare(to, header, config.fingerprint(digest, sets_sha256))
    if list(new.objects.list("run.json")):
        raise RunError(f"{to} is a run already; choose another --to")
    if config.dedup.cosine is not None:
        for _ in _rounds(source, config, old):  # raises where a decision cannot be taken
            pass
    return _write(source, new, config, old, open_)


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
    if old.dedup.embedding_index != "Flat":
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

    def _table(self, key: str, schema: pa.Schema, nullable: set[str]) -> pa.Table:
        check = Check(key)
        table = self._audit.table(key, schema, check, nullable)
        self._refuse(check)
        assert table is not None
        return table

    def blocks(self, round_: int) -> list[str]:
        """Keys of a round's raw blocks, in order."""
        return [key for _, key in sorted(self.run.finished_blocks(round_folder(round_)).items())]

    def raw(self, round_: int) -> list[dict[str, Any]]:
        """A round's raw rows by request id."""
        tables = [self._table(key, RAW, COMPLETION_NULLABLE) for key in self.blocks(round_)]
        rows = [row for table in tables for row in table.to_pylist()]
        return sorted(rows, key=lambda row: row["request_id"])

    def decisions(self, round_: int) -> StoredDecisions:
        """What was decided in a round."""
        manifest = self._audit.rounds[round_]
        accepted, rejected = (part_key(manifest, name) for name in ("accepted", "rejected"))
        return StoredDecisions(self.run.read(accepted), self.run.read(rejected))

    def written(self) -> Iterator[dict[str, Any]]:
        """The instance rows, in pool order."""
        for _, key in sorted(self.run.finished_blocks("instances").items()):
            nullable = COMPLETION_NULLABLE | {"classification_answer", "classification_margin"}
            yield from self._table(key, WRITTEN, nullable).to_pylist()


def _rounds(
    source: _Source, config: RunConfig, old: RunConfig
) -> Iterator[tuple[pa.Table, pa.Table, dict[str, Any], StoredDecisions]]:
    """Accepted and rejected rows, manifest and earlier decisions, until the target is reached."""
    dedup = config.dedup
    gate = Deduplicator(
        dedup.rouge, dedup.cosine, tokenizer=dedup.tokenizer, most_similar=dedup.most_similar
    )
    texts = [seed.instruction for seed in source.seeds]
    cosines = None
    if dedup.cosine is None:
        gate.add(texts)
    else:
        every = (source.decisions(round_) for round_ in range(source.rounds))
        cosines = StoredCosines(every, dedup.cosine, same_limit=dedup.cosine == old.dedup.cosine)
        gate.add(texts, cosines.of_texts(texts))
    sets = excluded_texts(config, source.sets)
    room = config.target_instructions
    for round_ in range(source.rounds):
        if room <= 0:
            return
        decisions = source.decisions(round_)

        def decide(
            usable: Usable, decisions: StoredDecisions = decisions, room: int = room
        ) -> DedupResult:
            def gated(indices: list[int]) -> DedupResult:
                rest = [usable[i] for i in indices]
                if cosines is None:
                    return gate.filter(texts_of(rest))
                return cosines.filter(gate, rest, decisions, room)

            refused = sets.find(texts_of(usable))
            if cosines is not None:
                refused = _with_cosines(refused, usable, decisions, config, old)
            return decide_rest(len(usable), refused, gated)

        decided = decide_round(config, round_, source.raw(round_), room, decide)
        if cosines is not None and cosines.undecided:
            raise RunError(
                f"{source.run.location} lacks embeddings for decisions like that on "
                f"{cosines.undecided[0]}: use --cosine off"
            )
        accepted, rejected, manifest = decided
        room -= accepted.num_rows
        known = [] if cosines is None else cosines.known(accepted, decisions)
        yield _carried_over(accepted, decisions, known), rejected, manifest, decisions


def _with_cosines(
    by_rouge: list[Duplicate],
    usable: Usable,
    decisions: StoredDecisions,
    config: RunConfig,
    old: RunConfig,
) -> list[Duplicate]:
    """What resembles an evaluation set, by ROUGE-L now or by its cosine as it is stored."""
    found = {duplicate.index: duplicate for duplicate in by_rouge}
    limit = config.dedup.cosine
    assert limit is not None
    for i, (raw, item) in enumerate(usable):
        row = decisions.rejected.get(instruction_id(raw["request_id"], item.position))
        if i in found or row is None or row["reason"] != CONTAMINATED:
            continue
        by_cosine = rouge_l(row["text"], row["match"], old.dedup.tokenizer) <= old.dedup.rouge
        if by_cosine and row["score"] > limit:
            found[i] = Duplicate(i, CONTAMINATED, -1, row["match"], row["score"], row["source"])
    return [found[i] for i in sorted(found)]


def _carried_over(
    accepted: pa.Table, decisions: StoredDecisions, cosines: list[float | None]
) -> pa.Table:
    """Accepted rows with the embeddings that are stored, and the cosines that are known."""
    embeddings = [decisions.embeddings.get(id_) for id_ in accepted["id"].to_pylist()]
    values = {"cosine": cosines or [None] * len(embeddings), "embedding": embeddings}
    for name, column in values.items():
        place = ACCEPTED.get_field_index(name)
        kind = ACCEPTED.field(name).type
        accepted = accepted.set_column(place, name, pa.array(column, kind))
    return accepted


def _write(source: _Source, new: Run, config: RunConfig, old: RunConfig, open_: bool) -> Regated:
    new.create(source.seeds, source.sets)
    with new.held():
        return _write_phases(source, new, config, old, open_)


def _write_phases(
    source: _Source, new: Run, config: RunConfig, old: RunConfig, open_: bool
) -> Regated:
    before = 0
    pool: list[AcceptedInstruction] = []
    for round_, (accepted, rejected, manifest, decisions) in enumerate(
        _rounds(source, config, old)
    ):
        infos = []
        for key in source.blocks(round_):
            new.objects.put(key, source.run.objects.get(key))
            infos.append(new.read_stored(key)[1])
        pool += map(AcceptedInstruction.of, accepted.drop_columns(["embedding"]).to_pylist())
        manifest["pool"] = len(source.seeds) + len(pool)
        new.commit_round(round_, infos, accepted, rejected, manifest)
        before += len(decisions.accepted)
    instances = kept = not_asked = 0
    blocks: list[ShardInfo] = []
    for number, (rows, known) in enumerate(_instance_blocks(source, config, pool)):
        lacking = sum(row["finish_reason"] == NOT_ASKED for row in rows)
        kept += known
        not_asked += lacking
        instances += sum(len(row["instances"]) for row in rows)
        if not lacking or not open_:
            table = pa.Table.from_pylist(rows, WRITTEN)
            blocks.append(write_table(new.objects, block_key("instances", number), table))
    stats = None
    if not open_:
        counts = {"blocks": len(blocks), "instructions": len(pool), "instances": instances}
        new.commit_instances(blocks, counts)
        chosen = config.card.model_dump()
        stats = export_data(
            new,
            config.output.format,
            config.output.rows_per_shard,
            lambda stats: documents(new, stats, chosen),
        )
    return Regated(
        accepted=len(pool),
        kept=kept,
        not_asked=not_asked,
        dropped=before - kept,
        rounds=len(new.rounds()),
        stats=stats,
    )


def _instance_blocks(
    source: _Source, config: RunConfig, pool: list[AcceptedInstruction]
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Rows of `WRITTEN` for the pool, block by block: the stored ones, or that none was asked for.

    With each block, how many of its rows are stored ones.

    Both pools are in the order of the candidates, so one pass over the stored rows is enough.
    """
    ids = {instruction.id for instruction in pool}
    stored = (row for row in source.written() if row["id"] in ids)
    upcoming = next(stored, None)
    sets = excluded_texts(config, source.sets) if source.sets else None
    size = config.instances.block_size
    for start in range(0, len(pool), size):
        block = start // size
        rows, known = [], 0
        for index, instruction in enumerate(pool[start : start + size], start):
            if upcoming is not None and upcoming["id"] == instruction.id:
                rows.append(_retaken(config, upcoming, instruction, sets) | {"block": block})
                known += 1
                upcoming = next(stored, None)
            else:
                seed = derive_seed(config.seed, "instances", 0, index)
                rows.append(_not_asked(config, block, instruction, seed, sets))
        yield rows, known
    assert upcoming is None, "instances of a kept instruction were lost"


def _retaken(
    config: RunConfig,
    row: dict[str, Any],
    instruction: AcceptedInstruction,
    sets: ExcludedTexts | None,
) -> dict[str, Any]:
    """A stored row with its instances decided anew: evaluation sets go by the new threshold."""
    kept, rejected = instances_of(
        config,
        row["instruction"],
        row["is_classification"],
        row["text"],
        row["finish_reason"],
        instruction.given,
        sets,
    )
    return row | {"instances": kept, "rejected": rejected}


def _not_asked(
    config: RunConfig,
    block: int,
    instruction: AcceptedInstruction,
    seed: int,
    sets: ExcludedTexts | None,
) -> dict[str, Any]:
    """A row for an instruction newly accepted: with the instance that came with it, or none."""
    reason = GIVEN if instruction.given else NOT_ASKED
    by_prompt = bool(instruction.given) or config.classification.method == "prompt"
    is_classification = by_prompt and instruction.classification_prompt
    kept, rejected = instances_of(
        config, instruction.instruction, is_classification, "", reason, instruction.given, sets
    )
    return {
        "block": block,
        "id": instruction.id,
        "instruction": instruction.instruction,
        "seed": seed,
        "is_classification": is_classification,
        "text": "",
        "finish_reason": reason,
        **dict.fromkeys(TOKEN_COLUMNS, 0),
        "instances": kept,
        "rejected": rejected,
    }
