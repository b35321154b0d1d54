"""Published benchmarks by name: which examples they are, and how they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_si.errors import EngineError, TaskError, one_line
from ray_si.training.benchmarks import super_ni
from ray_si.training.config import Evaluation
from ray_si.training.scores import subword_tokens
from ray_si.training.tasks import Example, digest, load_examples

_USER_ORIENTED = "44abf06b70342f9f2d728de3d46ffdd45c9432775a894de664f0c01986881548"
"""`digest` of the 252 user-oriented instructions as published."""


@dataclass(frozen=True)
class Benchmark:
    """``load`` reads its examples from a path; ``settings`` are its own of `Evaluation`'s.

    With ``other_scripts`` ROUGE-L needs ``rouge_tokenizer``.
    """

    about: str
    load: Callable[[str, Evaluation], list[Example]]
    settings: Mapping[str, Any]
    other_scripts: bool = False


def _super_ni(track: super_ni.Track) -> Callable[[str, Evaluation], list[Example]]:
    return lambda path, options: super_ni.load_super_ni(
        path, track, positive_examples=options.positive_examples
    )


def _user_oriented(path: str, options: Evaluation) -> list[Example]:
    examples = load_examples([path], options.instances_per_task)
    if digest(examples) != _USER_ORIENTED:
        raise TaskError(f"{path} is not the 252 user-oriented instructions as published")
    return examples


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
        other_scripts=True,
    ),
    "user-oriented": Benchmark(
        "the 252 user-oriented instructions of the Self-Instruct paper",
        _user_oriented,
        {"rated": 252},
    ),
}


def rouge_tokenizer(benchmark: str | None, options: Evaluation) -> Any:
    """What `rouge_l` takes for a benchmark's texts: None for English ones.

    Raises EngineError where the tokenizer cannot be loaded.
    """
    if benchmark is None or not BENCHMARKS[benchmark].other_scripts:
        return None
    from transformers import AutoTokenizer

    try:
        return subword_tokens(AutoTokenizer.from_pretrained(options.rouge_tokenizer))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{benchmark} is scored with the tokenizer of GPT-2, and {options.rouge_tokenizer!r} "
            f"could not be loaded: set rouge_tokenizer to a folder of it ({one_line(error)})"
        ) from error
