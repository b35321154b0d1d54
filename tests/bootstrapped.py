"""Runs through their bootstrap without Ray: the scripted replay answers in this process."""

from __future__ import annotations

import asyncio
import json

import pyarrow as pa

from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator
from ray_si.engines import registry
from ray_si.pipeline.decisions import all_candidates, completion_row, decide_round, passed, texts_of
from ray_si.pipeline.embeddings import embed_inputs, inputs_table
from ray_si.pipeline.gate import OpenGate, gate_options
from ray_si.pipeline.prompting import Prompting, instruction_request
from ray_si.run.layout import block_key, round_folder
from ray_si.run.run import Run
from ray_si.run.schemas import RAW_BLOCK
from ray_si.run.seeds import load_seeds
from ray_si.self_instruct.prompts import RenderedPrompt
from ray_si.storage.tables import write_table


def raw_rows(config, prompting, round_):
    """A round's raw rows, as its prompts are answered by the configuration's engine."""
    generator = config.generator
    engine = registry.create(generator.engine, generator.model, generator.engine_options())
    rows = prompting.rows(round_)

    async def answers():
        prompts = [RenderedPrompt(json.loads(r["prompt"]), tuple(r["stop"])) for r in rows]
        requests = [
            instruction_request(config, prompt, row["seed"])
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        return await asyncio.gather(*map(engine.generate, requests))

    completions = asyncio.run(answers())
    raw = [{**row, **completion_row(c)} for row, c in zip(rows, completions, strict=True)]
    return pa.Table.from_pylist(raw, RAW_BLOCK).to_pylist()


def bootstrapped(location, values, encode=None):
    """The run, its rounds committed until the target is reached."""
    config = parse_config(values)
    seeds, digest = load_seeds(config.seeds)
    header = {
        "config": config.model_dump(mode="json"),
        "identity": config.identity(),
        "seeds_sha256": digest,
    }
    run = Run.prepare(str(location), header, config.fingerprint(digest))
    gate = Deduplicator(**gate_options(config.dedup))
    texts = [seed.instruction for seed in seeds]
    inputs = embed_inputs(seeds, [], encode) if encode else None
    gate.add(texts, inputs and inputs.seeds)
    embed = OpenGate(gate, encode, None).embed
    prompting = Prompting(config, seeds)
    size, round_ = config.bootstrap.block_size, 0
    with run.held():
        run.create(seeds)
        while prompting.accepted < config.target_instructions:
            raw = raw_rows(config, prompting, round_)
            blocks = [
                write_table(
                    run.objects,
                    block_key(round_folder(round_), start // size),
                    pa.Table.from_pylist(raw[start : start + size], RAW_BLOCK),
                )
                for start in range(0, len(raw), size)
            ]
            room = config.target_instructions - prompting.accepted
            embeddings = embed(texts_of(passed(all_candidates(config, raw)))) if encode else None
            decided = decide_round(
                config,
                round_,
                raw,
                room,
                lambda usable, vectors=embeddings: gate.filter(texts_of(usable), vectors),
                embeddings=embeddings,
            )
            of_inputs = inputs_table(seeds, [], inputs) if inputs and not round_ else None
            run.commit_round(round_, blocks, *decided, inputs=of_inputs)
            prompting.extend(decided.accepted)
            round_ += 1
    return run
