"""Tokens a second of engines on real models: parts cpu and gpu of benchmarks/serving.py."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any


def prompts(count: int) -> list[str]:
    """Instruction prompts as a build of the quick start renders them."""
    from ray_si.run.seeds import load_seeds
    from ray_si.self_instruct.prompts import instruction_prompt

    texts = [seed.instruction for seed in load_seeds("bundled")[0]]
    draw = random.Random(0)
    rendered = [
        instruction_prompt(
            draw.sample(texts, 8), style="completion", classification_only=False, new=4
        ).prompt
        for _ in range(count)
    ]
    assert all(isinstance(prompt, str) for prompt in rendered)
    return rendered  # type: ignore[return-value]


TOKENS = 64


def plain(model: str, batch: int, texts: list[str], threads: int) -> dict[str, Any]:
    """A plain float32 ``generate`` in batches."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 0}
    end = tokenizer.eos_token_id
    tokens = 0
    began = time.perf_counter()
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True)
        written = loaded.generate(**inputs, **sampling, max_new_tokens=TOKENS, pad_token_id=end)
        for row in written[:, inputs["input_ids"].shape[1] :].tolist():
            tokens += row.index(end) + 1 if end in row else len(row)
    return _result(tokens, began)


def engine(model: str, batch: int, texts: list[str], threads: int) -> dict[str, Any]:
    """The transformers engine on the same prompts."""
    from ray_si.engines import registry
    from ray_si.engines.base import Request, SamplingParams

    options = {"max_batch": batch, "batch_tokens": 1 << 20, "threads": threads}
    made = registry.create("transformers", model, options)
    sampling = SamplingParams(TOKENS, temperature=0.7, top_p=0.8)
    requests = [Request(text, sampling, seed) for seed, text in enumerate(texts)]

    async def ask() -> list[Any]:
        return await asyncio.gather(*map(made.generate, requests))

    began = time.perf_counter()
    answers = asyncio.run(ask())
    return _result(sum(answer.completion_tokens for answer in answers), began)


def _result(tokens: int, began: float) -> dict[str, Any]:
    seconds = time.perf_counter() - began
    return {
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def cpu() -> dict[str, Any]:
    """Each in a process of its own, for the sake of their memory."""
    cores = os.cpu_count() or 1
    found = {}
    for name, count, arguments in (
        ("plain float32, batch 8", 1, ("plain", 8, 64, cores)),
        ("engine, batch 32", 1, ("engine", 32, 128, cores)),
        ("engine, batch 64", 1, ("engine", 64, 128, cores)),
        (f"{cores} engines of one thread, batch 32 each", cores, ("engine", 32, 64, 1)),
    ):
        command = [sys.executable, __file__, "--child", json.dumps(arguments)]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        each = [json.loads(child.communicate()[0].splitlines()[-1]) for child in running]
        found[name] = {key: round(sum(row[key] for row in each), 1) for key in each[0]}
    base = found["plain float32, batch 8"]["tokens_per_second"]
    best = max(row["tokens_per_second"] for row in found.values())
    return {**found, "ratio": round(best / base, 2)}


def child(which: str, batch: int, count: int, threads: int) -> None:
    """One measurement of `cpu`."""
    from ray_si.engines import bundled

    model = bundled.resolve("smollm2-135m-instruct")
    measure = {"plain": plain, "engine": engine}[which]
    print(json.dumps(measure(model, batch, prompts(count), threads)))


SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "hidden": 64, "inner": 128, "heads": 4, "batch": 4, "requests": 8},
    "1b": {
        "layers": 16,
        "hidden": 2048,
        "inner": 8192,
        "heads": 32,
        "batch": 128,
        "requests": 4096,
    },
    "8b": {
        "layers": 32,
        "hidden": 4096,
        "inner": 14336,
        "heads": 32,
        "batch": 128,
        "requests": 2048,
    },
}
"""Llama 3.2 1B and Llama 3.1 8B, and one to try the script with; slots and requests."""

VOCABULARY, MEAN_LENGTH, LONGEST = 128_256, 150, 512
"""Llama 3's. One in `MEAN_LENGTH` tokens ends a text, and random weights make all about equally
likely, so lengths are geometric."""

SAMPLING = {"max_tokens": LONGEST, "temperature": 1.0, "top_p": 0.95, "stop": ("Task 999",)}


def make(shape: str, device: str, folder: str) -> None:
    """Save a model with random bfloat16 weights and the bundled model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

    from ray_si.engines import bundled

    size = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=size["layers"],
        hidden_size=size["hidden"],
        intermediate_size=size["inner"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["heads"] // 4 if size["heads"] > 4 else 2,
        max_position_embeddings=8192,
        tie_word_embeddings=shape != "8b",
        bos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    ends = list(range(0, VOCABULARY, MEAN_LENGTH))
    model.config.eos_token_id = ends
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)
    path = bundled.resolve("smollm2-135m-instruct")
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)


def generate(folder: str, device: str, batch: int, texts: list[str]) -> list[tuple[float, int]]:
    """Plain ``generate`` in batches."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    ends = set(model.generation_config.eos_token_id)
    began, tokens, found = time.perf_counter(), 0, []
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True)
        written = model.generate(
            **inputs.to(device),
            do_sample=True,
            temperature=SAMPLING["temperature"],
            top_p=SAMPLING["top_p"],
            top_k=0,
            max_new_tokens=LONGEST,
            pad_token_id=tokenizer.pad_token_id,
        )
        for row in written[:, inputs["input_ids"].shape[1] :].tolist():
            tokens += next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        found.append((time.perf_counter() - began, tokens))
    return found


def bare(folder: str, device: str, name: str, batch: int, texts: list[str]) -> list[Any]:
    """An engine by itself, transformers or vllm; all requests are there at once."""
    from ray_si.engines import registry
    from ray_si.engines.base import Request, SamplingParams

    options: dict[str, Any] = {"max_batch": batch, "dtype": "bfloat16"}
    if name == "vllm":
        options |= {"max_model_len": 4096}
    else:
        options |= {"batch_tokens": _batch_tokens(batch), "device": device}
    made = registry.create(name, folder, options)
    sampling = SamplingParams(**SAMPLING)  # type: ignore[arg-type]
    found: list[tuple[float, int]] = []
    tokens = 0

    async def one(text: str, seed: int, began: float) -> None:
        nonlocal tokens
        answer = await made.generate(Request(text, sampling, seed))
        tokens += answer.completion_tokens  # not in one line: += reads what it adds to first
        found.append((time.perf_counter() - began, tokens))

    async def ask() -> None:
        nonlocal tokens
        warm = [one(text, seed, 0.0) for seed, text in enumerate(texts[: min(batch, 16)])]
        await asyncio.gather(*warm)
        found.clear()
        tokens, began = 0, time.perf_counter()
        await asyncio.gather(*(one(text, seed, began) for seed, text in enumerate(texts)))

    asyncio.run(ask())
    made.check_health()
    made.close()
    return found


def pipeline(folder: str, device: str, batch: int, count: int) -> list[Any]:
    """A build of instructions around the transformers engine, gate included, for four rounds."""
    from ray_si.build.builder import build
    from ray_si.config.file import parse_config

    rounds = 4
    config = parse_config(
        {
            "target_instructions": 10**9,
            "generator": {
                "model": folder,
                "max_batch": batch,
                "batch_tokens": _batch_tokens(batch),
                "dtype": "bfloat16",
                "gpus": int(device == "cuda"),
                "sampling": {"instructions": SAMPLING},
            },
            "dedup": {"cosine": None},
            "bootstrap": {
                "prompts_per_round": count // rounds,
                "new_instructions": 4,
                "lookahead": 2,
            },
        }
    )
    found: list[tuple[float, int]] = []
    began = 0.0

    def listen(progress: Any) -> None:
        nonlocal began
        if progress.usage.running or began:
            began = began or time.perf_counter()
            if not found or progress.tokens > found[-1][1]:
                found.append((time.perf_counter() - began, progress.tokens))
        if progress.note.startswith(f"round {rounds - 1}:"):
            raise KeyboardInterrupt

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as runs,
        suppress(KeyboardInterrupt),
    ):
        build(config, f"{runs}/run", listen=listen)
    return found


def _batch_tokens(batch: int) -> int:
    return batch * (1024 + LONGEST)


def _rates(found: list[tuple[float, int]]) -> dict[str, Any]:
    """Tokens a second of all, and of the middle half of the time, without ramp-up and tail."""
    seconds, tokens = found[-1]
    middle = [(at, so_far) for at, so_far in found if seconds / 4 <= at <= 3 * seconds / 4]
    rates: dict[str, Any] = {"tokens": tokens, "tokens_per_second": round(tokens / seconds, 1)}
    if len(middle) > 2:
        (first, before), (last, after) = middle[0], middle[-1]
        rates["steady_tokens_per_second"] = round((after - before) / (last - first), 1)
    return rates


def gpu(shapes: list[str], device: str) -> dict[str, Any]:
    """Each measurement in a process of its own, which has all of the GPU; {} without one."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return {}
    report: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            _measure("make", shape, device, folder)
            batch, count = SHAPES[shape]["batch"], SHAPES[shape]["requests"]
            found = {"generate": _measure("generate", folder, device, batch, count)}
            for name in ("transformers", "vllm"):
                if name == "vllm" and importlib.util.find_spec("vllm") is None:
                    continue
                found[name] = _measure("bare", folder, device, name, batch, count)
            whole = _measure("pipeline", folder, device, batch, count)
            for rate in ("tokens_per_second", "steady_tokens_per_second"):
                if rate in whole and rate in found["transformers"]:
                    whole[f"{rate}_of_bare"] = round(whole[rate] / found["transformers"][rate], 3)
            found["pipeline"] = whole
        report[shape] = {"slots": batch, "requests": count, **found}
    return report


def _measure(*arguments: Any) -> dict[str, Any]:
    """One measurement; what it prints last."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """One measurement, for `cpu` and `gpu`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", required=True, help=argparse.SUPPRESS)
    which, *rest = json.loads(parser.parse_args().child)
    if which in ("plain", "engine"):
        child(which, *rest)
    elif which == "make":
        make(*rest)
        print("{}")
    elif which == "pipeline":
        print(json.dumps(_rates(pipeline(*rest))))
    else:
        *rest, count = rest
        measure = {"generate": generate, "bare": bare}[which]
        print(json.dumps(_rates(measure(*rest, prompts(count)))))


if __name__ == "__main__":
    main()
