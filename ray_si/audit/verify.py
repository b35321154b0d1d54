"""Every promise about a run that can be checked on its stored bytes, without Ray or a model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

import pyarrow as pa

from ray_si._version import READING
from ray_si.audit.checkpoint_checks import check_checkpoint
from ray_si.audit.instance_checks import BlockChecks, BlockToCheck, check_passed
from ray_si.audit.score_checks import check_scores
from ray_si.audit.selection_checks import check_selection
from ray_si.audit.verify_rounds import RoundAudit
from ray_si.config import RunConfig, fingerprint_of
from ray_si.config.file import stored_config
from ray_si.errors import ConfigError, DamageError, RunError
from ray_si.export.kept import Kept, kept_rows
from ray_si.export.rows import recount, shard_tables, suffixes
from ray_si.pipeline.embeddings import InputEmbeddings, inputs_of
from ray_si.pipeline.instances import AcceptedInstruction
from ray_si.records import SeedTask
from ray_si.run.audit import Audit, Check, read
from ray_si.run.evaluation import EvaluationSet, from_table
from ray_si.run.layout import block_keys, shard_key
from ray_si.run.run import Run, optional_part_key
from ray_si.run.schemas import EVALUATION_TEXTS, INPUT_EMBEDDINGS, SEEDS
from ray_si.run.seeds import seeds_of
from ray_si.storage.tables import from_parquet, to_bytes

Listen = Callable[[str, int, int], None]
"""Told what is being checked, and how many of how many are."""


def verify(
    location: str, *, processes: int = 1, listen: Listen = lambda *step: None
) -> list[Check]:
    """Check a run, finished or not, as far as it goes; see each check's findings and notes.

    Reads a block at a time; what grows with the run is the pool: texts and, with a cosine gate,
    embeddings. What takes most of the time is done in so many ``processes``, which import the
    caller's main module as `multiprocessing` does. Writes nothing. Raises RunError where there is
    no run, or one of another layout.
    """
    try:
        run = Run.open(location)
    except DamageError as error:
        check = Check("header", 1)
        check.find("run.json", str(error).removeprefix(f"{location}/run.json "))
        return [check]
    return Verification(run, processes, listen).run()


class Verification:
    """The checks of one run, in an order that lets the later ones build on the earlier."""

    def __init__(self, run: Run, processes: int, listen: Listen) -> None:
        self._run, self._processes, self._listen = run, processes, listen
        self._regated = "regated_from" in run.header
        self._audit = Audit(run)

    def run(self) -> list[Check]:
        """All checks; only the first where the header itself is wrong."""
        header = Check("header")
        config = self._header(header)
        if config is None:
            return [header]
        audit = self._audit
        checks = [header, audit.check_manifests(), audit.check_objects(self._listen)]
        if self._run.is_selection:
            selection = check_selection(self._run, audit)
            return [*checks, selection, check_scores(self._run), audit.check_strays(0, 0)]
        seeds = audit.table("seeds.parquet", SEEDS, header)
        tasks = [] if seeds is None else seeds_of(seeds)
        sets = self._sets(header, config)
        inputs = self._inputs(header, config, tasks, sets or [])
        rounds = RoundAudit(config, audit, tasks, sets or [], inputs, self._regated, self._listen)
        if seeds is None or sets is None:
            rounds.stopped = 0
        if seeds is not None:
            self._unique(header, seeds["id"].to_pylist())
        checks += rounds.run()
        if rounds.stopped is None and audit.intact:
            checks.append(check_checkpoint(audit, rounds.pool))
        instances, shards, stats = Check("instances"), Check("shards"), Check("stats")
        size = config.instances.block_size
        rows = None
        if rounds.stopped is None and audit.intact:
            rows = self._instances(instances, config, rounds.pool)
        if rows is None:
            for check in (instances, shards, stats):
                check.notes.append("not checked: what it depends on is damaged")
        elif audit.stats is None:
            for check in (shards, stats):
                check.notes.append("unfinished: there is no stats.json yet")
        else:
            try:
                if kept := kept_rows(self._run):
                    rows = kept.rows
            except RunError as error:
                shards.find("data", str(error))
                stats.notes.append("not checked: what it depends on is damaged")
            else:
                self._shards(shards, config, rows, kept)
                stats.count = 1
                for name, count in recount(self._run, rows, kept).items():
                    if name == "spent" and name not in audit.stats:
                        continue  # of an earlier version
                    stats.expect("stats.json", name, count, audit.stats.get(name))
        round_blocks = -(-config.bootstrap.prompts_per_round // config.bootstrap.block_size)
        instance_blocks = audit.instances["blocks"] if audit.instances else 0
        if instance_blocks and rows is not None:
            instance_blocks = -(-len(rounds.pool) // size)
        strays = audit.check_strays(round_blocks, instance_blocks)
        return [*checks, instances, shards, stats, check_scores(self._run), strays]

    # Header ------------------------------------------------------------------------------------

    def _header(self, check: Check) -> RunConfig | None:
        """The configuration, where the header agrees with itself."""
        check.count += 1
        header = self._run.header
        try:
            config = stored_config(header["config"])
        except ConfigError as error:
            check.find("run.json", f"holds a configuration that cannot be used: {error}")
            return None
        if config.identity() != header["identity"]:
            check.find("run.json", "its identity is not that of its configuration")
        sets = [item.get("sha256", "") for item in header.get("decontaminate", ())]
        expected = fingerprint_of(header["identity"], header.get("seeds_sha256"), sets)
        if expected != header["fingerprint"]:
            check.find("run.json", "its fingerprint is not that of its identity and inputs")
        if len(sets) != len(config.decontaminate):
            check.find("run.json", "it names other evaluation sets than its configuration")
        return config

    def _sets(self, check: Check, config: RunConfig) -> list[EvaluationSet] | None:
        """The evaluation sets as they are stored, if they are what the header says; else None."""
        named = self._run.header.get("decontaminate", [])
        if not named and not config.decontaminate:
            return []
        key = "decontaminate.parquet"
        table = self._audit.table(key, EVALUATION_TEXTS, check)
        if table is None:
            return None
        sets = from_table(table)
        check.count += len(sets)
        stored = [{"name": s.name, "sha256": s.sha256, "texts": len(s.texts)} for s in sets]
        if stored != named:
            check.find(key, "holds other evaluation sets than run.json says")
            return None
        return sets

    def _inputs(
        self, check: Check, config: RunConfig, seeds: list[SeedTask], sets: list[EvaluationSet]
    ) -> InputEmbeddings | None:
        """The embeddings of what the run began with, where they are stored and of use."""
        first = self._audit.rounds[0] if self._audit.rounds else None
        key = first and optional_part_key(first, "inputs")
        if key is None or config.dedup.cosine is None:
            return None
        table = self._audit.table(key, INPUT_EMBEDDINGS, check)
        if table is None:
            return None
        inputs = inputs_of(table, seeds, sets)
        if inputs is None:
            check.find(key, "holds no sound embeddings of the seed tasks and evaluation sets")
        return inputs

    def _unique(self, check: Check, ids: list[str]) -> None:
        check.count += len(ids)
        if len(set(ids)) != len(ids):
            check.find("seeds.parquet", "an id is there twice")

    # Instances ---------------------------------------------------------------------------------

    def _instances(
        self, check: Check, config: RunConfig, pool: list[AcceptedInstruction]
    ) -> int | None:
        """Check the blocks against the accepted instructions; the number of instances kept.

        None where a block is damaged or missing, or wrong in a way that others build on.
        """
        size = config.instances.block_size
        manifest = self._audit.instances
        stored = block_keys(self._audit.instance_keys())
        if self._run.reading != READING:
            check.notes.append(
                f"the run was begun under earlier rules of reading ({self._run.reading}, now "
                f"{READING}): its answers are not read again"
            )
        expected = range(-(-len(pool) // size))
        sound = manifest is None or stored.keys() <= set(expected)  # else they are strays
        for number in expected if manifest else ():
            if number not in stored:
                check.find(f"instances/block-{number:05d}.parquet", "is missing")
                sound = False
        blocks = [
            BlockToCheck(number, stored[number], pool[number * size : (number + 1) * size])
            for number in expected
            if number in stored and stored[number] not in self._audit.damaged
        ]
        sound = sound and not self._audit.damaged & {stored[b] for b in expected if b in stored}
        checks = BlockChecks(
            self._run.location,
            self._run.header["fingerprint"],
            config,
            is_complete=manifest is not None,
            is_regated=self._regated,
            is_read_again=self._run.reading == READING,
        )
        kept = done = 0
        passing: dict[int, int] = {}
        for result in checks.all_of(blocks, self._processes):
            check.merge(result.check)
            kept += result.kept
            sound = sound and result.is_sound
            self._audit.damaged |= set(result.damaged)
            passing |= result.passing
            done += result.check.count
            self._listen("instances", done, len(pool))
        check_passed(check, config, self._audit.rounds, passing)
        if manifest is None:
            done = sum(number in stored for number in expected)
            check.notes.append(f"unfinished: {done} of {len(expected)} blocks are written so far")
            return kept if sound else None
        counts = {"blocks": len(expected), "instructions": len(pool)}
        for name, count in (counts | ({"instances": kept} if sound else {})).items():
            check.expect("instances/manifest.json", name, count, manifest[name])
        return kept if sound else None

    # Shards ------------------------------------------------------------------------------------

    def _shards(self, check: Check, config: RunConfig, rows: int, kept: Kept | None) -> None:
        """Write the training rows again, in memory, and compare."""
        assert self._audit.stats is not None
        per_shard = config.output.rows_per_shard
        count = -(-rows // per_shard)
        named = [entry["key"] for entry in self._audit.stats["shards"]]
        expected = []
        try:
            for index, table in enumerate(shard_tables(self._run, per_shard, kept)):
                for suffix in suffixes(config.output.format):
                    key = shard_key(index, count, suffix)
                    expected.append(key)
                    check.count += 1
                    if key not in self._audit.damaged:
                        self._shard(check, key, table)
        except RunError as error:
            check.find("data", str(error))
            return
        if named != expected:
            for key in sorted(set(expected) ^ set(named)) or ["out of order"]:
                check.find("stats.json", f"names other shards than there should be: {key}")

    def _shard(self, check: Check, key: str, table: pa.Table) -> None:
        expected = to_bytes(key, table)
        try:
            stored = read(self._run.objects, key)
        except KeyError:
            check.find(key, "is missing")
            return
        except OSError as error:
            check.find(key, f"cannot be read: {error}")
            return
        if stored == expected:
            return
        try:
            if key.endswith(".jsonl"):
                rows, wanted = stored.splitlines(), expected.splitlines()
            else:  # another version of pyarrow writes other bytes for the same rows
                rows, wanted = from_parquet(stored).to_pylist(), table.to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            check.find(key, f"cannot be read: {error}")
            return
        for k, (row, other) in enumerate(zip_longest(rows, wanted)):
            if row != other:
                check.find(key, f"row {k} is not what the instance blocks say")
