"""Evaluations: answers stored as they come, scores, the page, the ratings."""

from __future__ import annotations

import json
import re

import pyarrow.parquet as pq
import pytest

from ray_si.config import Generator
from ray_si.errors import (
    ConfigError,
    EngineError,
    GenerationError,
    LeaseLostError,
    RunError,
    TaskError,
)
from ray_si.experiments import evaluate as evaluate_module
from ray_si.experiments.evaluate import EvaluateConfig, evaluate, rate
from ray_si.run.folder import Folder
from ray_si.run.seeds import load_seeds
from ray_si.training.benchmarks import super_ni
from ray_si.training.hold_out import split_seeds
from tests import loopback

COUNT = 12


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "tasks.jsonl"
    rows = [
        {
            "id": f"t{i}",
            "instruction": f"Say number {i}.",
            "instances": [{"input": "", "output": f"number {i}"}],
        }
        for i in range(COUNT)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def config(tmp_path):
    """A function: the configuration of an evaluation whose answers are these, by task number."""

    def make(answers, **options):
        recording = tmp_path / "recording.jsonl"
        lines = [
            json.dumps({"prompt": f"Say number {i}.\n\n", "completion": text})
            for i, text in answers.items()
        ]
        recording.write_text("\n".join(lines))
        replay = {"recording": str(recording)}
        generator = {"engine": "replay", "model": None, "cpus": 0.5, "replay": replay}
        values = {"generator": generator, "block_size": 4, "resamples": 200, "exclude_cosine": None}
        values |= options
        return EvaluateConfig.model_validate(values)

    return make


@pytest.fixture
def leave_ray(monkeypatch):
    """A function: from then on answers are asked for and stored in this process."""

    def leave():
        loopback.install(monkeypatch.setattr)
        loopback.connect_nothing(monkeypatch.setattr, evaluate_module)

    return leave


@pytest.fixture
def without_ray(leave_ray):
    """Where it is tested what comes of answers, not how they come."""
    leave_ray()


@pytest.mark.usefixtures("ray_session")
def test_answers_are_scored_kept_and_asked_once_only(tmp_path, tasks, config, leave_ray):
    right = {i: f"Number {i}!" if i < 6 else "no idea" for i in range(COUNT)}
    to = tmp_path / "evaluation"
    report = evaluate({"one": "any"}, [tasks], str(to), config(right))
    overall = report["models"]["one"]["overall"]
    assert overall["exact_match"]["mean"] == overall["rouge_l"]["mean"] == 50
    assert 0 < overall["rouge_l"]["low"] < 50 < overall["rouge_l"]["high"] < 100
    assert report["models"]["one"]["failed"] == 0
    assert json.loads((to / "report.json").read_text()) == report
    assert "| one | 50.0 [" in (to / "README.md").read_text()

    leave_ray()  # what stands was stored by its workers
    kept = (to / "answers/one/block-00000.parquet").read_bytes()
    (to / "answers/one/block-00002.parquet").unlink()  # as a kill before it leaves it
    (to / "report.json").unlink()
    better = {i: f"number {i}" for i in range(COUNT)}
    again = evaluate({"one": "any"}, [tasks], str(to), config(better))
    assert (to / "answers/one/block-00000.parquet").read_bytes() == kept
    assert again["models"]["one"]["overall"]["exact_match"]["mean"] == pytest.approx(83.33)

    (to / "report.json").unlink()
    both = {"one": "any", "two": "other"}
    compared = evaluate(both, [tasks], str(to), config(better))
    assert compared["models"]["one"] == again["models"]["one"]
    assert compared["differences"]["two"]["exact_match"]["mean"] == pytest.approx(16.67)
    assert compared["differences"]["two"]["from"] == "one"

    _rate(to)
    with pytest.raises(RunError, match=r"different: max_tokens"):
        evaluate(both, [tasks], str(to), config(better, max_tokens=3))


def _rate(to):
    """Two people rate; one of them leaves the last answer open."""
    html = (to / "rate.html").read_text()
    data = json.loads(re.search(r'application/json">(.*?)</script>', html, re.S)[1])
    tokens = [answer["token"] for item in data["items"] for answer in item["answers"]]
    assert len(tokens) == 2 * COUNT
    paths = []
    for name, own in (("Ann", tokens), ("Bo", tokens[:-1])):
        grades = {token: "AB"[i % 2] for i, token in enumerate(own)}
        paths.append(str(to.parent / f"{name}.json"))
        export = {"evaluation": data["evaluation"], "rater": name, "ratings": grades}
        (to.parent / f"{name}.json").write_text(json.dumps(export))
    found = rate(str(to), paths)
    assert found["pairs"][0]["both_rated"] == 2 * COUNT - 1
    assert found["pairs"][0]["cohen_kappa"] == 1
    assert sum(found["models"]["one"]["Ann"].values()) == COUNT
    assert json.loads((to / "ratings.json").read_text()) == found
    with pytest.raises(TaskError, match="same rater"):
        rate(str(to), [paths[0], paths[0]])


@pytest.mark.usefixtures("without_ray")
def test_failures_are_counted_as_wrong_and_asked_again_until_there_is_a_report(
    tmp_path, tasks, config
):
    to = tmp_path / "evaluation"
    few = {i: f"number {i}" for i in range(3)}
    report = evaluate({"one": "any"}, [tasks], str(to), config(few))
    assert report["models"]["one"]["failed"] == 9
    assert report["models"]["one"]["overall"]["exact_match"]["mean"] == 25
    every = {i: f"number {i}" for i in range(COUNT)}
    all_of_them = config(every)
    assert evaluate({"one": "any"}, [tasks], str(to), all_of_them) == report
    (to / "report.json").unlink()
    asked_again = evaluate({"one": "any"}, [tasks], str(to), all_of_them)
    assert asked_again["models"]["one"]["failed"] == 0
    table = pq.read_table(to / "answers/one/block-00002.parquet")
    assert table["id"].to_pylist() == ["t8#0", "t9#0", "t10#0", "t11#0"]

    # a model that comes later is in no report yet
    both = {"one": "any", "two": "any"}
    with pytest.raises(GenerationError, match="two answered nothing"):
        evaluate(both, [tasks], str(to), config({99: "x"}))
    compared = evaluate(both, [tasks], str(to), config(every))
    assert compared["models"]["two"]["failed"] == 0
    assert compared["models"]["one"] == asked_again["models"]["one"]


@pytest.mark.usefixtures("without_ray")
def test_who_was_succeeded_stops_at_the_next_answers_and_reports_nothing(tmp_path, tasks, config):
    told = []

    def listen(progress):
        if progress.done:
            told.append(progress.done)
            (tmp_path / "to/lease/00009.json").write_text("{}")

    answers = config({i: f"number {i}" for i in range(COUNT)})
    with pytest.raises(LeaseLostError, match="another driver has taken over"):
        evaluate({"one": "any"}, [tasks], str(tmp_path / "to"), answers, listen=listen)
    assert told == [4]
    assert not (tmp_path / "to/report.json").exists()


@pytest.mark.usefixtures("without_ray")
def test_a_model_that_answers_nothing_is_no_model_with_score_zero(tmp_path, tasks, config):
    with pytest.raises(GenerationError, match=r"one answered nothing: the recording has no answer"):
        evaluate({"one": "any"}, [tasks], str(tmp_path / "to"), config({99: "x"}))
    assert not (tmp_path / "to" / "report.json").exists()


@pytest.mark.usefixtures("without_ray")
def test_bundled_tasks_are_the_held_out_ones_and_seeds_of_the_training_are_left_out(
    tmp_path, config
):
    _, held_out = split_seeds(load_seeds("bundled")[0])
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    record = {"seed_texts": [seed.instruction.rstrip(".") for seed in held_out[2:]]}
    (model / "ray_si.json").write_text(json.dumps(record))
    recording = tmp_path / "held_out.jsonl"
    lines = []
    for seed in held_out[:2]:
        given = seed.instances[0].input
        prompt = seed.instruction + (f"\n\n{given}" if given else "") + "\n\n"
        lines.append(json.dumps({"prompt": prompt, "completion": "x"}))
    recording.write_text("\n".join(lines))
    made = config({})
    replay = made.generator.replay.model_copy(update={"recording": str(recording)})
    made = made.model_copy(
        update={"generator": made.generator.model_copy(update={"replay": replay})}
    )
    report = evaluate({"one": str(model)}, ["bundled"], str(tmp_path / "to"), made)
    assert list(report["models"]["one"]["by_task"]) == [seed.id for seed in held_out[:2]]
    assert report["left_out"] == {
        "seed tasks of the data that a model was trained on": len(held_out) - 2
    }
    record["seed_texts"] += [seed.instruction for seed in held_out[:2]]
    (model / "ray_si.json").write_text(json.dumps(record))
    with pytest.raises(TaskError, match="every task was a seed task"):
        evaluate({"one": str(model)}, ["bundled"], str(tmp_path / "other"), made)
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("without_ray")
def test_a_benchmark_is_asked_in_its_own_words_and_scored_by_category(
    tmp_path, config, monkeypatch
):
    name = "task199_mnli_classification"
    monkeypatch.setattr(super_ni, "test_tasks", lambda track: [name])
    task = {
        "Categories": ["Textual Entailment"],
        "Definition": ["Say the number"],
        "Positive Examples": [],
        "Instances": [{"id": f"i{i}", "input": f"{i}", "output": [f"{i}"]} for i in range(5)],
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(task))
    recording = tmp_path / "prompts.jsonl"
    prompts = [super_ni.wrapped("Say the number", [], f"{i}") for i in range(5)]
    answers = [{"prompt": prompt, "completion": f"{i % 2}"} for i, prompt in enumerate(prompts)]
    recording.write_text("\n".join(map(json.dumps, answers)))
    made = config({}).model_copy(deep=True)
    made.generator.replay.__dict__["recording"] = str(recording)
    to = tmp_path / "to"
    report = evaluate({"one": "any"}, [str(tmp_path)], str(to), made, benchmark="super-ni")
    assert report["benchmark"] == {
        "name": "super-ni",
        "about": "Super-NaturalInstructions, the 119 English test tasks",
        "complete": True,
        "positive_examples": 0,
    }
    by_category = report["models"]["one"]["by_category"]
    assert by_category["Textual Entailment"]["exact_match"]["mean"] == 40
    assert "with no positive examples." in (to / "README.md").read_text()
    assert json.loads((to / "evaluation.json").read_text())["identity"]["max_tokens"] == 128


ENDPOINT = {"base_url": "http://here/v1", "api_key_env": None}
CHAT = {"engine": "openai", "model": "a", "prompt_style": "chat", "openai": ENDPOINT}


@pytest.mark.parametrize(
    ("other", "different"),
    [
        ({"model": "b"}, "model"),
        ({"openai": ENDPOINT | {"base_url": "http://there/v1"}}, "base_url"),
        ({"openai": ENDPOINT | {"extra_body": {"reasoning_effort": "low"}}}, "extra_body"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"openai": ENDPOINT | {"concurrency": 4}, "replicas": 2}, None),
    ],
)
def test_a_name_stands_for_one_model_that_is_asked_in_one_way(tmp_path, other, different):
    first, second = (
        evaluate_module._Member(
            "one",
            generator["model"],
            EvaluateConfig.model_validate({"generator": generator}),
        )
        for generator in (CHAT, CHAT | other)
    )
    folder = Folder(str(tmp_path), "evaluation.json", "an evaluation")
    stored = f"{first.folder}/model.json"
    folder.write_json(stored, {"identity": first.identity})
    first.check(folder)
    if different is None:
        second.check(folder)
        return
    with pytest.raises(RunError, match=rf"under the name one \(different: {different}\)"):
        second.check(folder)
    # earlier versions say less
    early = {k: first.identity[k] for k in ("model", "engine", "revision", "encoding", "weights")}
    folder.write_json(stored, {"identity": early})
    first.check(folder)
    if different != "model":
        second.check(folder)


def test_adapters_are_told_by_what_they_hold_and_placement_tells_nothing(tmp_path):
    for name, text in (("one", "{}"), ("moved", "{}"), ("tuned-again", '{"r": 8}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(text)
    one, moved, again = (
        evaluate_module._options(Generator(engine="vllm", vllm={"lora": str(tmp_path / name)}))
        for name in ("one", "moved", "tuned-again")
    )
    assert one["adapter"] == moved["adapter"] != again["adapter"]
    without = evaluate_module._options(Generator(engine="vllm"))
    assert without["adapter"] is None
    for other, is_same in (
        ({"vllm": {"quantization": "fp8"}}, False),
        ({"dtype": "float16"}, False),
        ({"vllm": {"max_model_len": 512, "engine_kwargs": {"max_num_seqs": 4}}}, True),
        ({"batch_tokens": 4096, "replicas": 2}, True),
    ):
        assert (evaluate_module._options(Generator(engine="vllm", **other)) == without) is is_same


def test_an_engines_packages_are_no_matter_of_a_driver_whose_replicas_run_elsewhere():
    made = EvaluateConfig.model_validate({"generator": {"engine": "vllm"}})
    model = "smollm2-135m-instruct"
    assert evaluate_module._Member("one", model, made, here=False).identity["weights"]
    with pytest.raises(EngineError, match="the vllm engine needs"):
        evaluate_module._Member("one", model, made)
    with pytest.raises(EngineError, match="there is no model folder"):
        evaluate_module._Member("one", "/absent/model", made, here=False)


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, tasks):
    to = tmp_path / "to"
    with pytest.raises(EngineError, match="there is no model folder"):
        evaluate({"one": "/absent/model"}, [tasks], str(to), EvaluateConfig())
    with pytest.raises(TaskError, match="there are no tasks"):
        evaluate({"one": "smollm2-135m-instruct"}, ["absent.jsonl"], str(to), EvaluateConfig())
    assert not to.exists()
    for benchmark, given, fault in (
        ("sni", [tasks], "there is no benchmark sni; there are super-ni, "),
        ("super-ni", ["bundled"], "needs one --tasks"),
    ):
        with pytest.raises(ConfigError, match=fault):
            evaluate({"one": "any"}, given, str(to), EvaluateConfig(), benchmark=benchmark)
    with pytest.raises(RunError, match="holds no finished evaluation"):
        rate(str(to), [])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    with pytest.raises(RunError, match="lies inside a run"):
        evaluate({"one": "any"}, [tasks], str(tmp_path / "run/evaluation"), EvaluateConfig())
    assert len(list((tmp_path / "run").iterdir())) == 1
