"""The transformers engine on a GPU beside a plain ``generate``: Llama's shapes, random weights.

    python benchmarks/engine_gpu.py --write       print, and write engine_gpu.json

Needs torch and transformers, but neither Ray nor the bundled model: a tokenizer is trained on the
seed tasks. Measures with the functions of engine_speed.py, fewer requests of each shape than its
part gpu, and looks whether a text is the same alone as among others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import engine_speed  # noqa: E402

from ray_si.engines import bundled, registry  # noqa: E402
from ray_si.engines.base import Request, SamplingParams  # noqa: E402

REQUESTS = {"1b": 512, "8b": 256}
ALONE = 32
"""Prompts that are asked alone and among others."""


def train_tokenizer(folder: str) -> None:
    """A byte-level one of 8,000 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(HERE.parent / "ray_si" / "data" / "seed_tasks.jsonl")], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    made.save_pretrained(folder)


def same_alone(folder: str, device: str) -> dict[str, Any]:
    """Of `ALONE` float32 texts, how many are the same alone as in batches of 16."""
    options = {"dtype": "float32", "device": device, "max_batch": 16}
    engine = registry.create("transformers", folder, options)
    same = {}
    for temperature in (0.0, 1.0):
        sampling = SamplingParams(48, temperature=temperature, top_p=0.9)
        requests = [
            Request(prompt, sampling, seed)
            for seed, prompt in enumerate(engine_speed.prompts(ALONE))
        ]

        async def texts(asked: list[Request]) -> list[str]:
            return [answer.text for answer in await asyncio.gather(*map(engine.generate, asked))]

        together = asyncio.run(texts(requests))
        alone = [asyncio.run(texts([request]))[0] for request in requests]
        same[f"temperature {temperature:g}"] = sum(map(str.__eq__, together, alone))
    return {"texts": ALONE, **same}


def child(step: str, shape: str, device: str, folder: str) -> dict[str, Any]:
    """One step, in a process that has all of the GPU."""
    resolve = bundled.resolve
    bundled.resolve = lambda name: f"{folder}/tokenizer" if "smollm" in name else resolve(name)
    model = f"{folder}/{shape}"
    if step == "tokenizer":
        train_tokenizer(f"{folder}/tokenizer")
    elif step == "make":
        engine_speed.make(shape, device, model)
    elif step == "same_alone":
        return same_alone(model, device)
    else:
        batch = engine_speed.SHAPES[shape]["batch"]
        texts = engine_speed.prompts(REQUESTS[shape])
        measured = (
            engine_speed.generate(model, device, batch, texts)
            if step == "generate"
            else engine_speed.bare(model, device, "transformers", batch, texts)
        )
        return engine_speed._rates(measured)
    return {}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="*", default=list(REQUESTS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    import torch
    import transformers

    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    report: dict[str, Any] = {"device": name, "versions": versions}
    with tempfile.TemporaryDirectory() as folder:

        def run(step: str, shape: str = "tiny") -> dict[str, Any]:
            command = [sys.executable, __file__, "--child", step, shape, options.device, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return printed

        run("tokenizer")
        run("make")
        report["same_alone_as_among_others"] = run("same_alone")
        for shape in options.shapes:
            run("make", shape)
            report[shape] = {
                "slots": engine_speed.SHAPES[shape]["batch"],
                "requests": REQUESTS[shape],
                "generate": run("generate", shape),
                "transformers": run("bare", shape),
            }
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if options.write:
        (HERE / "engine_gpu.json").write_text(text)


if __name__ == "__main__":
    main()
