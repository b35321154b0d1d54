"""Phases 2 and 3 as one stream: classification flows into instance generation, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.distributed.bootstrap import add_completions, add_info, take_info
from ray_si.distributed.classify import classify_block
from ray_si.distributed.decisions import KEPT, LEFT_OUT, instances_of
from ray_si.distributed.progress import Progress, Reporter
from ray_si.distributed.serving import generate
from ray_si.distributed.stages import Stage, concurrent_blocks, map_blocks
from ray_si.engines.base import Purpose, Request
from ray_si.self_instruct.prompts import instance_prompt
from ray_si.self_instruct.sampling import derive_seed
from ray_si.storage.objects import open_objects
from ray_si.storage.run import Run, block_key
from ray_si.storage.shards import ShardInfo, claim_table


def write_instances_block(
    table: pa.Table, *, app: str, location: str, config: RunConfig
) -> pa.Table:
    """Write, parse and filter the instances of one block, and store it. Runs in a Ray task.

    Returns slim rows: block, id, number of instances kept, completion tokens.
    """
    rows = table.to_pylist()
    requests = []
    for row in rows:
        output_first = row["is_classification"]
        prompt = instance_prompt(
            row["instruction"],
            style=config.generator.prompt_style,
            output_first=output_first,
        )
        purpose: Purpose = "output_first" if output_first else "input_first"
        params = getattr(config.generator.sampling, purpose).params(prompt.stop)
        requests.append(Request(prompt.prompt, params, row["seed"], purpose))
    completions = generate(app, requests)
    kept, rejected = [], []
    for row, completion in zip(rows, completions, strict=True):
        good, bad = instances_of(
            config,
            row["instruction"],
            row["is_classification"],
            completion.text,
            completion.finish_reason,
        )
        kept.append(good)
        rejected.append(bad)
    stored = add_completions(table, completions)
    stored = stored.append_column("instances", pa.array(kept, KEPT))
    stored = stored.append_column("rejected", pa.array(rejected, LEFT_OUT))
    key = block_key("instances", table["block"][0].as_py())
    stored, info = claim_table(open_objects(location), key, stored)
    slim = stored.select(["block", "id", "completion_tokens"])
    counts = [len(instances) for instances in stored["instances"].to_pylist()]
    return add_info(slim.append_column("kept", pa.array(counts, pa.int64())), info)


class Instances:
    """Runs phases 2 and 3 over the accepted instructions that have no block yet."""

    def __init__(self, config: RunConfig, run: Run, app: str, reporter: Reporter) -> None:
        self._config, self._run, self._app, self._reporter = config, run, app, reporter

    def run(self) -> None:
        """Write the missing blocks, then the manifest."""
        finished = self._run.finished_blocks("instances")
        blocks = list(self._blocks())
        done = instances = 0
        missing: list[pa.Table] = []
        infos: list[ShardInfo] = []
        for number, block in enumerate(blocks):
            stored = self._stored(finished.get(number), block)
            if stored is None:
                missing.append(block)
            else:
                done += block.num_rows
                instances += sum(map(len, stored[0]["instances"].to_pylist()))
                infos.append(stored[1])
        total = sum(block.num_rows for block in blocks)
        arguments: dict[str, Any] = {"app": self._app, "config": self._config}
        stages: list[tuple[Stage, dict[str, Any]]] = [
            (classify_block, arguments),
            (write_instances_block, arguments | {"location": self._run.location}),
        ]
        concurrency = concurrent_blocks(self._config, self._config.instances.block_size, 1)
        self._reporter.report(Progress("instances", done, total, instances=instances))
        for written in map_blocks(missing, stages, concurrency=concurrency):
            table, info = take_info(written)
            infos.append(info)
            done += table.num_rows
            instances += sum(table["kept"].to_pylist())
            self._reporter.add_tokens(sum(table["completion_tokens"].to_pylist()))
            self._reporter.report(Progress("instances", done, total, instances=instances))
        infos.sort(key=lambda info: info.key)
        self._run.commit_instances(
            infos, {"blocks": len(blocks), "instructions": total, "instances": instances}
        )

    def _stored(self, key: str | None, block: pa.Table) -> tuple[pa.Table, ShardInfo] | None:
        """A block as it is stored; None where it must be written.

        A last block that ``finish`` cut short has to be, once the bootstrap has gone on after all.
        """
        if key is None:
            return None
        stored = self._run.sound_block(key)
        if stored is None or stored[0]["id"].equals(block["id"]):
            return stored
        self._run.objects.delete(key)
        return None

    def _blocks(self) -> Iterator[pa.Table]:
        """Accepted instructions in pool order, cut into blocks of fixed size."""
        size = self._config.instances.block_size
        tables = list(self._run.accepted(["id", "instruction"]))
        ids = [id_ for table in tables for id_ in table["id"].to_pylist()]
        texts = [text for table in tables for text in table["instruction"].to_pylist()]
        for start in range(0, len(ids), size):
            rows = range(start, min(start + size, len(ids)))
            yield pa.table(
                {
                    "block": pa.array([start // size] * len(rows), pa.int64()),
                    "id": ids[start : rows.stop],
                    "instruction": texts[start : rows.stop],
                    "seed": [derive_seed(self._config.seed, "instances", 0, i) for i in rows],
                }
            )
