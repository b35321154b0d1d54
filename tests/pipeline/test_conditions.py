"""Openings and topics: which of them a request has, and what comes of it."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ray_si.build.builder import check_inputs
from ray_si.config.file import load_config, parse_config
from ray_si.errors import ConfigError
from ray_si.pipeline.conditions import conditions_at, conditions_of, rounds_of_openings
from ray_si.pipeline.decisions import candidates_of, is_plateau
from ray_si.pipeline.prompting import Prompting, instruction_request
from ray_si.run.ids import request_id
from ray_si.run.schemas import ACCEPTED
from ray_si.run.seeds import load_seeds
from tests.builds import replay_values

OPENINGS = ("Why do people", "Give three tips for", "Rewrite the message so that it")
SEEDS = load_seeds("bundled")[0]


def config(**bootstrap):
    values = replay_values()
    values["bootstrap"] = {
        "openings": OPENINGS, "new_instructions": 1, "prompts_per_round": 4, **bootstrap,
    }  # fmt: skip
    return parse_config(values)


def test_each_opening_is_used_once_in_every_cycle():
    used = [conditions_at(config(), *divmod(k, 4)).opening for k in range(12)]
    for start in range(0, 12, 3):
        assert sorted(used[start : start + 3]) == sorted(OPENINGS)
    assert conditions_of(config(), request_id(2, 3)).opening == used[11]
    assert conditions_at(parse_config(replay_values()), 0, 0) == ("", "", "")


def test_a_prompt_ends_with_its_opening_after_demonstrations_of_its_kind():
    prompting = Prompting(config(), SEEDS)
    given = {seed.id for seed in SEEDS if any(item.input for item in seed.instances)}
    for request in prompting.requests(0):
        made = prompting.render(request)
        assert made.prompt.endswith(f"\n9. {request.conditions.opening}")
        assert made.stop == ("\n",)
        needs_text = request.conditions.opening.startswith("Rewrite")
        assert all((source.id in given) == needs_text for source in request.demonstrations)
        assert ("comes with one text" in made.prompt) == needs_text


def test_machine_written_demonstrations_are_of_the_same_kind():
    prompting = Prompting(config(machine_demonstrations=2, lookahead=0), SEEDS)
    rows = [
        {"id": f"{name}{k}", "instruction": text, "classification_prompt": False}
        for k in range(3)
        for name, text in (("alone", f"Name river {k}."), ("given", f"Rewrite the note, {k}."))
    ]
    prompting.extend(ACCEPTED.empty_table().from_pylist(rows, ACCEPTED))
    for request in prompting.requests(1):
        kind = "given" if request.conditions.opening.startswith("Rewrite") else "alone"
        machine = [s.id for s in request.demonstrations if s.id.startswith(("alone", "given"))]
        assert [name[:5] for name in machine] == [kind] * 2


def test_a_candidate_is_the_opening_with_what_the_model_wrote():
    row = {"request_id": request_id(0, 0), "text": " keep many dogs?", "finish_reason": "stop",
           "classification_prompt": False}  # fmt: skip
    (candidate,) = candidates_of(row, config())
    assert candidate.text == f"{conditions_at(config(), 0, 0).opening} keep many dogs?"
    assert candidate.reason is None


def test_phase_1_is_over_when_every_opening_was_used_as_often_as_it_may():
    options = config(prompts_per_opening=3).bootstrap
    assert rounds_of_openings(options) == 2  # of nine prompts, in rounds of four
    busy = {"accepted": 4, "candidates": 4}
    assert not is_plateau([busy], options)
    assert is_plateau([busy] * 2, options)
    options = config(prompts_per_opening=3)
    used = Counter(conditions_at(options, *divmod(k, 4)).opening for k in range(8))
    assert max(used.values()) == 3
    assert rounds_of_openings(config().bootstrap) is None


@pytest.mark.parametrize(
    ("bootstrap", "message"),
    [
        ({"new_instructions": 8}, "set new_instructions to 1"),
        ({"classification_share": 0.5}, "classification_share to 0"),
        ({"openings": ["Why", "Why"]}, "there twice"),
        ({"openings": ["Why", " "]}, "one is empty"),
        ({"openings": [], "prompts_per_opening": 2}, "prompts_per_opening needs openings"),
        ({"prompts_per_opening": 1}, "less than a round"),
        ({"openings": "nowhere.txt"}, "bootstrap.openings: cannot read nowhere.txt"),
        ({"topics": "nowhere.txt"}, "bootstrap.topics: cannot read nowhere.txt"),
        ({"topics": ["tea", "tea"]}, "topics: one is empty or there twice"),
    ],
)
def test_lists_that_no_run_can_use_are_refused(bootstrap, message):
    with pytest.raises(ConfigError) as caught:
        config(**bootstrap)
    assert message in str(caught.value)


def test_a_chat_has_no_openings():
    values = {"generator": {"prompt_style": "chat"}, "bootstrap": {"openings": ["Why"],
              "new_instructions": 1}}  # fmt: skip
    with pytest.raises(ConfigError, match=r"set generator\.prompt_style to completion"):
        parse_config(values)


def test_a_file_of_openings_lies_beside_its_configuration(tmp_path):
    (tmp_path / "openings.txt").write_text("# why\n\nWhy do people\n  Give three tips for \n")
    text = "bootstrap: {openings: openings.txt, new_instructions: 1}"
    (tmp_path / "run.yaml").write_text(text)
    made = load_config(tmp_path / "run.yaml")
    assert made.bootstrap.openings == ("Why do people", "Give three tips for")
    (tmp_path / "openings.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"bootstrap\.openings: .* holds no line"):
        load_config(tmp_path / "run.yaml")


def test_openings_without_seed_tasks_of_their_kind_are_refused(tmp_path):
    lines = ('{"id": "a", "name": "n", "instruction": "Name a river.", "instances": '
             '[{"input": "", "output": "The Nile."}], "is_classification": false}\n')  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text(lines)
    made = config(demonstrations=1, machine_demonstrations=0)
    with pytest.raises(ConfigError, match="there is none with"):
        check_inputs(made.model_copy(update={"seeds": str(tmp_path / "seeds.jsonl")}))


def test_a_round_may_show_the_same_demonstrations_in_all_its_prompts_of_a_kind():
    prompting = Prompting(config(same_demonstrations=True), SEEDS)
    shown = [
        {
            tuple(source.id for source in request.demonstrations)
            for request in prompting.requests(round_)
            if not request.conditions.opening.startswith("Rewrite")
        }
        for round_ in (0, 1)
    ]
    assert [len(each) for each in shown] == [1, 1]
    assert shown[0] != shown[1]


TOPICS = ("tea", "night trains", "tax returns")


@pytest.mark.parametrize("style", ["completion", "chat"])
@pytest.mark.parametrize("mode", ["instructions", "joint"])
def test_a_prompt_names_its_topic_below_the_demonstrations(style, mode):
    values = replay_values()
    values["generator"]["prompt_style"] = style
    values["bootstrap"] |= {"topics": TOPICS, "mode": mode}
    made = parse_config(values)
    prompting = Prompting(made, SEEDS)
    for request in prompting.requests(0):
        rendered = prompting.render(request)
        prompt = rendered.prompt if style == "completion" else rendered.prompt[0]["content"]
        topic = request.conditions.topic
        assert [name for name in TOPICS if f"topic: {name}." in prompt] == [topic]
        assert prompt.index("\n8. ") < prompt.index(f"topic: {topic}.")
        if style == "completion":
            assert prompt.split(f"topic: {topic}.\n")[1].startswith(("9.", "\n9. Instruction:"))
    assert prompting.rows(0)[5]["prompt"] == json.dumps(
        prompting.render(prompting.requests(0)[5]).prompt
    )


def test_topics_and_openings_are_dealt_apart():
    made = config(topics=TOPICS, prompts_per_round=9)
    pairs = {conditions_at(made, *divmod(k, 9)) for k in range(90)}
    assert len(pairs) == len(TOPICS) * len(OPENINGS)
    in_turn = [conditions_at(made, 0, k).topic for k in range(9)]
    assert [sorted(in_turn[k : k + 3]) for k in (0, 3, 6)] == [sorted(TOPICS)] * 3


def test_a_run_depends_on_its_topics_and_on_what_is_said_of_them():
    plain, given = parse_config(replay_values()), config(topics=TOPICS)
    assert "topics" not in plain.identity()["bootstrap"]
    assert "completion_topic" not in plain.prompts
    assert given.prompts["completion_topic"]
    others = config(topics=TOPICS[:2])
    assert given.fingerprint("seeds") != others.fingerprint("seeds")
    assert parse_config(given.model_dump(mode="json")) == given


def test_a_file_of_topics_lies_beside_its_configuration(tmp_path):
    (tmp_path / "people.txt").write_text("a nurse on night duty\n# nobody\na baker\n")
    (tmp_path / "run.yaml").write_text("bootstrap: {topics: people.txt}")
    topics = load_config(tmp_path / "run.yaml").bootstrap.topics
    assert topics == ("a nurse on night duty", "a baker")


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_a_request_rewrites_one_task_in_the_way_dealt_to_it(style):
    values = replay_values()
    values["generator"]["prompt_style"] = style
    values["bootstrap"] = {"method": "evolve", "prompts_per_round": 6, "lookahead": 0}
    made = parse_config(values)
    prompting = Prompting(made, SEEDS)
    row = {"id": "mine", "instruction": "Name a river.", "classification_prompt": False}
    prompting.extend(ACCEPTED.empty_table().from_pylist([row], ACCEPTED))
    requests = prompting.requests(1)
    assert {request.conditions.rewrite for request in requests} == set(made.bootstrap.rewrites)
    for request in requests:
        prompt = json.dumps(prompting.render(request).prompt)
        assert [source.id for source in request.demonstrations] == ["mine"]
        assert "Task: Name a river." in prompt
        assert request.conditions.rewrite in prompt


@pytest.mark.parametrize(
    ("style", "text"),
    [("completion", " Name a river in Peru."), ("chat", "Instruction: Name a river in Peru.")],
)
def test_a_rewritten_task_is_what_stands_behind_its_heading(style, text):
    values = replay_values()
    values["generator"]["prompt_style"] = style
    values["bootstrap"] = {"method": "evolve"}
    row = {"request_id": request_id(0, 0), "text": text, "finish_reason": "stop",
           "classification_prompt": False}  # fmt: skip
    (candidate,) = candidates_of(row, parse_config(values))
    assert (candidate.text, candidate.reason) == ("Name a river in Peru.", None)


def test_a_request_by_template_leaves_the_users_turn_open():
    values = replay_values()
    values["generator"]["prompt_style"] = "chat"
    values["bootstrap"] = {"method": "template", "prompts_per_round": 3, "topics": TOPICS}
    made = parse_config(values)
    prompting = Prompting(made, SEEDS)
    prompts = [prompting.render(request) for request in prompting.requests(0)]
    asked = [instruction_request(made, prompt, 0) for prompt in prompts]
    assert all(request.continue_final_message for request in asked)
    assert [request.prompt[-1] for request in asked] == [{"role": "user", "content": ""}] * 3
    assert sorted(r.prompt[0]["content"].split("topic: ")[1] for r in asked) == [
        f"{topic}." for topic in sorted(TOPICS)
    ]
    plain = parse_config(replay_values())
    (first, *_) = Prompting(plain, SEEDS).requests(0)
    prompt = Prompting(plain, SEEDS).render(first)
    assert not instruction_request(plain, prompt, 0).continue_final_message


def test_a_rewritten_task_that_repeats_what_was_to_be_changed_is_refused():
    made = parse_config(replay_values() | {"bootstrap": {"method": "evolve"}})
    row = {"request_id": request_id(0, 0), "finish_reason": "stop", "classification_prompt": False}
    change = conditions_at(made, 0, 0).rewrite

    def reason(text):
        return candidates_of(row | {"text": f" {text}"}, made)[0].reason

    assert reason(change) == reason(change.upper()) == "scaffolding"
    assert reason(" ".join([*change.split()[:4], "and name a river."])) == "scaffolding"
    assert reason(f"Name a river. {change}") is None
