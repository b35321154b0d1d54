"""Published benchmarks by name: which examples they are, and how they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_si.errors import EngineError, TaskError, one_line
from ray_si.training.benchmarks import ifeval, super_ni
from ray_si.training.config import Evaluation
from ray_si.training.scores import Measure, against_references, subword_tokens
from ray_si.training.tasks import Example, digest, load_examples

_USER_ORIENTED = "44abf06b70342f9f2d728de3d46ffdd45c9432775a894de664f0c01986881548"
"""`digest` of the 252 user-oriented instructions as published."""


@dataclass(frozen=True)
class Benchmark:
    """``load`` reads its examples from a path; ``settings`` are its own of `Evaluation`'s.

    ``measure`` says how its answers are scored, given the evaluation's options.
    """

    about: str
    load: Callable[[str, Evaluation], list[Example]]
    settings: Mapping[str, Any]
    measure: Callable[[Evaluation], Measure] = lambda options: against_references()


def _super_ni(track: super_ni.Track) -> Callable[[str, Evaluation], list[Example]]:
    return lambda path, options: super_ni.load_super_ni(
        path, track, positive_examples=options.positive_examples
    )


def _user_oriented(path: str, options: Evaluation) -> list[Example]:
    examples = load_examples([path], options.instances_per_task)
    if digest(examples) != _USER_ORIENTED:
        raise TaskError(f"{path} is not the 252 user-oriented instructions as published")
    return examples


def _by_subwords(options: Evaluation) -> Measure:
    """ROUGE-L by the tokens of ``rouge_tokenizer``; EngineError where it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(options.rouge_tokenizer)
    except (OSError, ValueError) as error:
        raise EngineError(
            "answers in other languages are scored with the tokenizer of GPT-2, and "
            f"{options.rouge_tokenizer!r} could not be loaded: set rouge_tokenizer to a folder of "
            f"it ({one_line(error)})"
        ) from error
    return against_references(subword_tokens(made))


BENCHMARKS = {
    "super-ni": Benchmark(
        "Super-NaturalInstructions, the 119 English test tasks",
        _super_ni("english"),
        {"max_tokens": super_ni.MAX_TOKENS},
    ),
    "super-ni-crosslingual": Benchmark(
        "Super-NaturalInstructions, the 35 test tasks in other languages",
        _super_ni("crosslingual"),
        {"max_tokens": super_ni.MAX_TOKENS},
        _by_subwords,
    ),
    "user-oriented": Benchmark(
        "the 252 user-oriented instructions of the Self-Instruct paper",
        _user_oriented,
        {"rated": 252},
    ),
    "ifeval": Benchmark(
        "IFEval, prompts with instructions that a program can check",
        lambda path, options: ifeval.load_ifeval(path),
        {"max_tokens": ifeval.MAX_TOKENS},
        lambda options: ifeval.followed(),
    ),
}
