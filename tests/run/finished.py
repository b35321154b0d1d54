"""Finished runs written without Ray or a model, for what reads them."""

from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa

from ray_si.export.rows import export_data
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import block_key
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, INSTANCE_BLOCK, INSTANCE_BLOCK_IN_STEPS, REJECTED
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
    answers=None,
):
    """A finished run of that many instructions; ``instances`` gives those of each by number.

    With ``answers``, lists of texts and log-probabilities by the instruction's number, it was asked
    in steps: each has one input, and the likeliest answer is the instance.

    ``completion`` is what each came from, ``config`` further values of the configuration.
    """
    if answers:
        config = (config or {}) | {"instances": {"method": "steps"}}

        def instances(number):
            return [{"input": "", "output": max(answers(number), key=lambda a: a[1])[0]}]

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
            "classification_completion_tokens": 0,
            "instances": instances(i),
            "rejected": [],
            **({"inputs": [], "answers": _answers(answers(i))} if answers else {}),
        }
        for i, (id_, text) in enumerate(zip(ids, texts, strict=True))
    ]
    counts = {"requests": 1, "prompt_tokens": 1, "completion_tokens": 1, "candidates": instructions}
    manifest = {"round": 0, "accepted": instructions, "rejected": {}, **counts}
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        run.commit_round(0, [], accepted, pa.Table.from_pylist([], REJECTED), manifest)
        schema = INSTANCE_BLOCK_IN_STEPS if answers else INSTANCE_BLOCK
        block = pa.Table.from_pylist(written, schema)
        info = write_table(run.objects, block_key("instances", 0), block)
        parts = InstanceParts(run, instructions)
        parts.add(BlockRecord.of(block, info))
        parts.commit(instructions, {"rounds": 1})
        export_data(run, format_, rows_per_shard)
    assert asdict(info)["rows"] == instructions
    return run


def _answers(texts):
    """Answers to one input, all of which pass the filters but for repetitions."""
    likeliest = max(texts, key=lambda answer: answer[1])
    said = [text for text, _ in texts]
    return [
        {
            "place": 0, "answer": number, "input": "", "output": text,
            "rejected_for": "duplicate" if text in said[:number] else None,
            "is_chosen": (text, logprob) == likeliest and text not in said[:number],
            "text": text, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1,
            "mean_logprob": logprob,
        }
        for number, (text, logprob) in enumerate(texts)
    ]  # fmt: skip
