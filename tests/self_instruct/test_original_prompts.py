"""What configs/paper.yaml asks has the form of what the original code asks.

The oracles say that form again, from the outside: the wording of the prompts is ours.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ray_si.config.file import load_config
from ray_si.pipeline.prompting import Prompting, instance_request
from ray_si.run.seeds import load_seeds
from ray_si.self_instruct.filters import filter_instances
from ray_si.self_instruct.parsing import parse_classification, parse_instances
from ray_si.self_instruct.prompts import (
    classification_prompt,
    instance_prompt,
    instruction_prompt,
)

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "paper.yaml")
TEMPLATES = CONFIG.prompts

TEXTS = st.lists(st.sampled_from(["Name a river", "a", ":", " ", "\n", "\t", "1. ", "?"])).map(
    "".join
)


def _as_original(texts):
    """The numbered lines of the original's prompt, built word by word."""
    lines = []
    for number, text in enumerate(texts, 1):
        squeezed = " ".join(text.split())
        while squeezed.endswith(":"):
            squeezed = squeezed[:-1]
        lines.append(f"{number}. {squeezed}")
    return "\n".join([*lines, f"{len(texts) + 1}."])


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_demonstrations_are_numbered_squeezed_and_without_their_colon(texts):
    prompt = instruction_prompt(texts, style="completion", templates=TEMPLATES).prompt
    header, _, rest = str(prompt).partition("\n")
    assert header.endswith(":")
    assert rest == _as_original(texts)


@given(TEXTS.filter(str.strip))
def test_the_other_prompts_end_with_the_instruction_as_in_the_original(text):
    squeezed = " ".join(text.split())
    asked = classification_prompt(text, style="completion", templates=TEMPLATES).prompt
    assert str(asked).endswith(f"\n\nTask: {squeezed}\nIs it classification?")
    for output_first in (False, True):
        asked = instance_prompt(
            text, style="completion", output_first=output_first, templates=TEMPLATES
        ).prompt
        assert str(asked).endswith(f"\n\nTask: {squeezed}\n")


def _shown(name):
    """The demonstrations of a template: each task, and what follows it."""
    for part in TEMPLATES[f"completion_{name}"].split("\n\nTask: ")[1:-1]:
        task, _, answer = part.partition("\n")
        yield task, answer


def test_31_tasks_are_shown_12_of_them_as_classification():
    answers = [
        parse_classification(answer.removeprefix("Is it classification?"))
        for _, answer in _shown("classification")
    ]
    assert (answers.count(True), answers.count(False)) == (12, 19)


def test_what_is_shown_is_what_is_read_several_instances_among_it():
    counts = []
    for task, answer in _shown("input_first"):
        read = parse_instances(answer, "stop", output_first=False, rules="original")
        assert filter_instances(task, read, rules="original").rejected == [], task
        has_example = "Example 1\n" in answer
        assert len(read) == max(1, answer.count("Example ")), task
        assert all(bool(one.input) == has_example for one in read), task
        counts.append((len(read), has_example))
    assert len(counts) == 11
    assert sum(count > 1 for count, _ in counts) == 4
    assert sum(not has_input for _, has_input in counts) == 4


def test_labels_are_shown_each_with_an_input_of_its_own():
    counts = []
    for task, answer in _shown("output_first"):
        read = parse_instances(answer, "stop", output_first=True, rules="original")
        assert filter_instances(task, read, rules="original").rejected == [], task
        assert len(read) == answer.count("Class label:")
        assert len({one.output for one in read}) == len(read)
        counts.append((len(read), all(one.input for one in read)))
    assert len(counts) == 16
    assert sum(not has_input for _, has_input in counts) == 2


def test_the_prompts_are_no_ones_but_ours(reference):
    published = (reference / "paper_seed_tasks.jsonl").read_text(encoding="utf-8")
    for name in ("classification", "input_first", "output_first"):
        assert not [task for task, _ in _shown(name) if task in published]


def test_an_instance_prompt_leaves_room_for_its_answer_in_2048_tokens():
    longest = "word " * CONFIG.bootstrap.max_words
    for is_classification in (False, True):
        request = instance_request(CONFIG, longest, is_classification, 0)
        # a token has more than three characters of English
        assert len(str(request.prompt)) / 3.5 + request.sampling.max_tokens < 2048


@pytest.mark.parametrize(
    ("prompts", "lookahead", "seeds_only"), [(512, 1, 1024), (5, 0, 5), (8, 2, 24)]
)
def test_so_many_prompts_show_seed_tasks_alone(prompts, lookahead, seeds_only):
    options = {"prompts_per_round": prompts, "lookahead": lookahead}
    bootstrap = CONFIG.bootstrap.model_copy(update=options)
    seeds = load_seeds("bundled")[0]
    prompting = Prompting(CONFIG.model_copy(update={"bootstrap": bootstrap}), seeds)
    ids = {seed.id for seed in seeds}
    shown = []
    for round_ in range(lookahead + 2):
        for request in prompting.requests(round_):
            shown.append([source.id in ids for source in request.demonstrations])
        prompting.extend(_accepted(round_, 10))
    assert all(map(all, shown[:seeds_only]))
    assert all(is_seed.count(False) == 2 for is_seed in shown[seeds_only:])
    assert len(shown) > seeds_only


def _accepted(round_, count):
    import pyarrow as pa

    from ray_si.run.schemas import ACCEPTED

    rows = [
        {
            "id": f"{round_}-{i}",
            "instruction": f"Name {i} rivers of country {round_}.",
            "classification_prompt": False,
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, ACCEPTED)
