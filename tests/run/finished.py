"""Finished runs written without Ray or a model, for what reads them."""

from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa

from ray_si.export.rows import export_data
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import block_key
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, INSTANCE_BLOCK, REJECTED
from ray_si.run.seeds import load_seeds
from ray_si.storage.tables import write_table

HEADER = {"config": {"target_instructions": 60}, "identity": {}}


def instances_of(number):
    """One to three instances; some inputs empty, some texts hard to write down."""
    odd = [
        '"quoted" \\ back\\slash',
        "tab\tand\r\nline",
        "\x00\x1f\x7f",
        "日本語 ✓ 🙂",
        "</script>",
    ]
    return [
        {
            "input": "" if (number + k) % 2 else f"input {number} {k} {odd[number % len(odd)]}",
            "output": f"output {number} {k} {odd[(number + k) % len(odd)]}",
        }
        for k in range(number % 3 + 1)
    ]


def finished_run(
    location,
    instructions=60,
    *,
    format_="parquet",
    rows_per_shard=25,
    instances=instances_of,
    completion="",
    config=None,
):
    """A finished run of that many instructions; ``instances`` gives those of each by number.

    ``completion`` is what each came from, ``config`` further values of the configuration.
    """
    header = HEADER | {"config": {"target_instructions": instructions} | (config or {})}
    run = Run.prepare(str(location), header, "fingerprint")
    ids = [f"r00000-{i:05d}-00" for i in range(instructions)]
    texts = [f"Do task number {i}." for i in range(instructions)]
    accepted = pa.Table.from_pylist(
        [
            {
                "id": id_,
                "instruction": text,
                "round": 0,
                "demonstrations": ["seed_1", "seed_2"],
                "model": "replay",
                "request_seed": i,
                "most_similar": [{"instruction": "Do something.", "rouge": 0.25 + i * 1e-7}],
                "mean_rouge": 1e-7 * i,
            }
            for i, (id_, text) in enumerate(zip(ids, texts, strict=True))
        ],
        ACCEPTED,
    )
    written = [
        {
            "block": 0,
            "id": id_,
            "instruction": text,
            "seed": i,
            "is_classification": i % 5 == 0,
            "text": completion,
            "finish_reason": "stop",
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "instances": instances(i),
            "rejected": [],
        }
        for i, (id_, text) in enumerate(zip(ids, texts, strict=True))
    ]
    counts = {"requests": 1, "prompt_tokens": 1, "completion_tokens": 1, "candidates": instructions}
    manifest = {"round": 0, "accepted": instructions, "rejected": {}, **counts}
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        run.commit_round(0, [], accepted, pa.Table.from_pylist([], REJECTED), manifest)
        block = pa.Table.from_pylist(written, INSTANCE_BLOCK)
        info = write_table(run.objects, block_key("instances", 0), block)
        parts = InstanceParts(run, instructions)
        parts.add(BlockRecord.of(block, info))
        parts.commit(instructions, {"rounds": 1})
        export_data(run, format_, rows_per_shard)
    assert asdict(info)["rows"] == instructions
    return run
