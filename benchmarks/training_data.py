"""How fast rows get from a run's Parquet shards to a trainer.

    python benchmarks/training_data.py [--write] [--rows 100000] [--passes 3]

``shards``: rows as text out of the Parquet shards. ``tokens_text``, ``tokens_chat``: the same,
encoded with the bundled model's tokenizer, which happens once for a fine-tuning, before it starts;
its result is Parquet again. ``tokens_by_offsets_...``: the same by the offsets of tokens, as it is
for tokenizers whose tokens do not tell their bytes, and was for all. ``tokens_apart_...``: as it
was until prompt and answer were tokenized as one text, through the tokenizer's own call and Python
lists. ``tokenizer_alone_...``: nothing but the tokenizer, on the same joint texts: no encoder that
gives it whole texts is faster.
``_cpu_us`` beside a rate is the time of all cores that a row takes. ``batches``: padded tensors
out of that, shuffled, as the trainer's own data loader hands them out, reading the Parquet
included; ``trl_collator``: the same through TRL's collator.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import corpus
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable
from torch.utils.data import DataLoader
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ray_si.engines import bundled
from ray_si.export.training_lines import Source
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.training.base import inspect
from ray_si.training.batches import Batches, row_numbers
from ray_si.training.encode import _BATCH as BATCH, IGNORED, TOKENS, Encoder
from ray_si.training.job import Job, encode_rows

ROWS_PER_SHARD = 10_000
BATCHES = (8, 32)


def write_run(folder: Path, count: int) -> Run:
    """A run with shards of made-up rows: instructions of the corpus, outputs of three of them."""
    texts = list(corpus.texts(4 * count))
    run = Run.prepare(str(folder), {"config": {}, "identity": {}}, "benchmark")
    with run.held():
        run.create(load_seeds("bundled")[0])
        shards = []
        for start in range(0, count, ROWS_PER_SHARD):
            rows = range(start, min(start + ROWS_PER_SHARD, count))
            table = pa.table(
                {
                    "id": [f"row-{i}" for i in rows],
                    "instruction": [texts[4 * i] for i in rows],
                    "input": ["" for _ in rows],
                    "output": [" ".join(texts[4 * i + 1 : 4 * i + 4]) for i in rows],
                }
            )
            number, of = start // ROWS_PER_SHARD, -(-count // ROWS_PER_SHARD)
            shards.append(vars(run.write_shard(number, of, "parquet", table)))
        run.commit_stats({"rows": count, "shards": shards})
    return run


def rows(run: Run) -> Iterator[tuple[list[str], list[str], list[str]]]:
    for table in Source(run).tables(["id", "instruction", "output"]):
        columns = [table[name].to_pylist() for name in table.column_names]
        yield columns[0], columns[1], columns[2]


def tokens_apart(
    tokenizer: Any, encoding: str, ids: list[str], prompts: list[str], completions: list[str]
) -> pa.Table:
    """Rows of `TOKENS`, the answer tokenized by itself and found in its turn by its own text."""
    if encoding == "text":
        before = tokenizer([f"{prompt}\n\n" for prompt in prompts])["input_ids"]
        end = tokenizer.eos_token_id
        answers = tokenizer(completions, add_special_tokens=False)["input_ids"]
        after = [[*answer, end] for answer in answers]
    else:
        opened, endings = [], []
        for prompt, completion in zip(prompts, completions, strict=True):
            turns = [{"role": "user", "content": prompt}]
            answered = [*turns, {"role": "assistant", "content": completion}]
            opened.append(
                tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            )
            whole = tokenizer.apply_chat_template(answered, tokenize=False)
            endings.append(whole[len(opened[-1]) :])
        before, after = (
            tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (opened, endings)
        )
    columns = {"id": ids, "input_ids": [], "labels": []}
    for prompt, answer in zip(before, after, strict=True):
        columns["input_ids"].append(list(prompt) + list(answer))
        columns["labels"].append([IGNORED] * len(prompt) + list(answer))
    return pa.table(columns, TOKENS)


def joint_texts(encoder: Encoder, run: Run) -> list[list[str]]:
    """The texts that an encoder tokenizes, in batches of its size."""
    texts = []
    for _, prompts, completions in rows(run):
        turns = map(encoder._turn.around, completions)
        for opened, (lead, answer) in zip(encoder._opened(prompts), turns, strict=True):
            texts.append(f"{opened}{lead}{answer}{encoder._turn.end}")
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]


@contextmanager
def timed(found: dict[str, Any], name: str, count: int) -> Iterator[None]:
    """Rows a second of the block, and microseconds of all cores' time that a row takes.

    Of several passes the fastest: other work on the machine only slows one down.
    """
    started, busy = time.perf_counter(), time.process_time()
    yield
    rate = round(count / (time.perf_counter() - started))
    if rate > found.get(name, 0):
        found[name] = rate
        found[f"{name}_cpu_us"] = round(1e6 * (time.process_time() - busy) / count)


def measure(count: int, passes: int) -> dict[str, Any]:
    tokenizer = inspect(bundled.resolve("smollm2-135m-instruct")).tokenizer
    found: dict[str, Any] = {"rows": count, "passes": passes}
    with tempfile.TemporaryDirectory() as scratch:
        run = write_run(Path(scratch) / "run", count)
        started = time.perf_counter()
        assert sum(len(part[0]) for part in rows(run)) == count
        found["shards"] = round(count / (time.perf_counter() - started))
        for encoding in ("chat", "text"):

            def apart(job: Job, encoding: str = encoding) -> None:
                job.write_tokens((tokens_apart(tokenizer, encoding, *p) for p in rows(run)), {})

            def joint(job: Job, by_bytes: bool, encoding: str = encoding) -> None:
                encoder = Encoder(tokenizer, encoding, max_length=1024, too_long="drop")
                if not by_bytes:
                    encoder._joint._lengths = None
                parts = encode_rows(rows(run), encoder, run.location)
                job.write_tokens(parts, dict(encoder.counts))

            ways: dict[str, Callable[[Job], None]] = {
                f"tokens_apart_{encoding}": apart,
                f"tokens_by_offsets_{encoding}": partial(joint, by_bytes=False),
                f"tokens_{encoding}": partial(joint, by_bytes=True),
            }
            encoder = Encoder(tokenizer, encoding, max_length=1024, too_long="drop")
            bare, texts = encoder._joint._bare, joint_texts(encoder, run)
            for number in range(passes):
                with timed(found, f"tokenizer_alone_{encoding}", count):
                    for batch in texts:
                        bare.encode_batch_fast(batch, add_special_tokens=False)
                for name, way in ways.items():
                    job = Job(str(Path(scratch) / f"{name}-{number}"))
                    with timed(found, name, count):
                        way(job)
            by_offsets = Job(str(Path(scratch) / f"tokens_by_offsets_{encoding}-0"))
            assert by_offsets.tokens().equals(job.tokens())
            found[f"tokens_per_row_{encoding}"] = round(job.token_counts()["tokens"] / count, 1)
        for size in BATCHES:
            found[f"batches_of_{size}"] = _loaded(job, size, tokenizer.pad_token_id, ours=True)
            found[f"trl_collator_{size}"] = _loaded(job, size, tokenizer.pad_token_id, ours=False)
    return found


def _loaded(job: Job, size: int, pad: int, *, ours: bool) -> int:
    """Rows a second through a shuffling data loader, reading the Parquet included."""
    started = time.perf_counter()
    tokens = job.tokens()
    if ours:
        data, collate = row_numbers(tokens), Batches(tokens, pad)
    else:
        data = Dataset(InMemoryTable(tokens.select(["input_ids", "labels"])))
        collate = DataCollatorForLanguageModeling(pad_token_id=pad)
    loader = DataLoader(data, batch_size=size, shuffle=True, collate_fn=collate)
    count = sum(len(batch["input_ids"]) for batch in loader)
    assert count == tokens.num_rows
    return round(count / (time.perf_counter() - started))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=3, help="of each way of encoding")
    parser.add_argument("--write", action="store_true", help="keep the result beside this script")
    options = parser.parse_args()
    random.seed(0)
    result = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "rows_per_second": measure(options.rows, options.passes),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
