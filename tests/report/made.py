"""Runs made through the project's own storage, with whatever texts a test wants in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ray_si.config.file import parse_config
from ray_si.export.rows import export_data
from ray_si.report.files import documents
from ray_si.run.instance_parts import BlockRecord, InstanceParts
from ray_si.run.layout import block_key, round_folder
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, INSTANCE_BLOCK, RAW_BLOCK, REJECTED
from ray_si.run.seeds import load_seeds
from ray_si.storage.tables import write_table

REASONS = ("rouge", "too_short", "keyword")
HOSTILE = (
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "'\"`--><!--{{7*7}}${7*7}</title></style></textarea>",
    "line\u2028separator\u2029paragraph\x00null\x1b[31mred\x07\u202eright to left",
    "&amp;&lt;script&gt;&#60;b&#62;",
)


def texts(count, kind="instruction"):
    """Different plain texts."""
    nouns = ("river", "poem", "recipe", "letter", "planet", "bridge", "song")
    verbs = ("Write a", "Describe the", "Compare this", "Name one", "Explain a")
    return [
        f"{verbs[k % 5]} {nouns[k % 7]} number {k} for {kind} {k * 7919 % 1000} in few words."
        for k in range(count)
    ]


INSTRUCTIONS, REFUSED = texts(60), texts(12, "refusal")


def made_run(
    location,
    *,
    instructions=INSTRUCTIONS,
    outputs=("One. Two.", "A longer answer of seven words here."),
    rejected=REFUSED,
    per_round=20,
    asked=None,
    finish=True,
    embedded=True,
    seeds=None,
    tokenizer="reference",
    format_="parquet",
    card=None,
    keep=None,
    **bootstrap,
):
    """A run with these accepted instructions; ``asked`` of them have instances, else all.

    Instruction k has k % 3 instances; every fourth a rejected one too. ``rejected`` candidates
    stand in each round. ``keep`` is the configuration's ``output.keep``.
    """
    values = {"target_instructions": len(instructions) or 5}
    values["generator"] = {"engine": "replay", "model": None}
    values["bootstrap"] = {"prompts_per_round": 4, "block_size": 2} | bootstrap
    values["instances"] = {"block_size": 8} | ({"method": "steps"} if keep else {})
    values["dedup"] = {"tokenizer": tokenizer}
    values["output"] = {"rows_per_shard": 25, "format": format_, "keep": keep}
    config = parse_config(values)
    seed_tasks, digest = load_seeds("bundled")
    header = {"config": config.model_dump(mode="json"), "identity": config.identity()}
    header["seeds_sha256"] = digest
    run = Run.prepare(str(location), header, config.fingerprint(digest))
    random = np.random.default_rng(1)
    with run.held():
        run.create(seeds or seed_tasks[:30])
        ids = []
        for round_, start in enumerate(range(0, len(instructions), per_round)):
            part = instructions[start : start + per_round]
            ids += _round(run, round_, part, rejected, random if embedded else None)
        asked = len(ids) if asked is None else asked
        parts = InstanceParts(run, 8)
        for block, start in enumerate(range(0, asked, 8)):
            end = min(start + 8, asked)
            rows = [_written(block, k, ids[k], instructions[k], outputs) for k in range(start, end)]
            table = pa.Table.from_pylist(rows, INSTANCE_BLOCK)
            info = write_table(run.objects, block_key("instances", block), table)
            parts.add(BlockRecord.of(table, info))
        if finish:
            parts.commit(len(ids), {})
            export_data(run, format_, 25, lambda stats: documents(run, stats, card or {}))
    return run


def _round(run, round_, instructions, rejected, random):
    requests = [f"r{round_:05d}-{k:05d}" for k in range(4)]
    demonstrations = ["seed_001", "seed_002", "seed_003"]
    if round_ > 1:
        demonstrations.append(f"r{round_ - 2:05d}-00001-00")
    raw = [
        {
            "block": k // 2, "request_id": id_, "seed": 2**62 + k, "classification_prompt": False,
            "demonstrations": demonstrations, "text": "x", "finish_reason": "stop",
            "prompt_tokens": 10, "completion_tokens": 25,
        }
        for k, id_ in enumerate(requests)
    ]  # fmt: skip
    blocks = [
        write_table(
            run.objects,
            block_key(round_folder(round_), k),
            pa.Table.from_pylist(raw[2 * k : 2 * k + 2], RAW_BLOCK),
        )
        for k in range(2)
    ]
    accepted = [
        {
            "id": f"{requests[k % 4]}-{k // 4:02d}", "instruction": text, "round": round_,
            "request_id": requests[k % 4], "position": k // 4, "request_seed": 2**62 + k % 4,
            "classification_prompt": False, "demonstrations": demonstrations, "model": "replay",
            "cosine": 0.25,
            "embedding": None if random is None else random.standard_normal(16).tolist(),
        }
        for k, text in enumerate(instructions)
    ]  # fmt: skip
    refused = [
        {
            "request_id": requests[k % 4], "position": 50 + k // 4, "text": text,
            "reason": REASONS[k % 3], "match": instructions[0] if k % 3 == 0 else None,
            "score": 0.75 if k % 3 == 0 else None,
        }
        for k, text in enumerate(rejected)
    ]  # fmt: skip
    reasons = [row["reason"] for row in refused]
    manifest = {
        "round": round_, "requests": 4, "prompt_tokens": 40, "completion_tokens": 100,
        "candidates": len(accepted) + len(refused), "accepted": len(accepted),
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "contaminated": {},
    }  # fmt: skip
    tables = pa.Table.from_pylist(accepted, ACCEPTED), pa.Table.from_pylist(refused, REJECTED)
    run.commit_round(round_, blocks, *tables, manifest)
    return [row["id"] for row in accepted]


def _written(block, k, id_, text, outputs):
    pairs = [
        {"input": "" if i else f"input {k}", "output": outputs[(k + i) % len(outputs)]}
        for i in range(k % 3)
    ]
    extra = {"input": "", "output": outputs[k % len(outputs)], "reason": "duplicate"}
    return {
        "block": block, "id": id_, "instruction": text, "seed": k, "is_classification": k % 4 == 0,
        "text": "x", "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 7,
        "classification_completion_tokens": 3,
        "instances": pairs, "rejected": [extra] if k % 4 == 0 else [],
    }  # fmt: skip
