"""Fine-tuning on a real Ray, from the rows of a real run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ray_si.errors import EngineError, RunError, TrainingError
from ray_si.experiments.finetune import _storage, finetune, training_rows
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.training.config import Training
from ray_si.training.encode import Encoder
from ray_si.training.job import Job
from tests.command import ENVIRONMENT, ray_si
from tests.run.finished import finished_run
from tests.training.conftest import write_tiny_model

SHORT = {"max_steps": 3, "batch_size": 4, "rows_at_once": 2, "dtype": "float32", "log_steps": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models that differ in their weights; the second has no chat template."""
    folder = tmp_path_factory.mktemp("models")
    return (
        write_tiny_model(folder / "one"),
        write_tiny_model(folder / "two", chat=False, pad=False, seed=1),
    )


@pytest.fixture(scope="module")
def tuned(finished, models, tmp_path_factory):
    location, _ = finished
    to = tmp_path_factory.mktemp("tuned") / "training"
    return to, finetune(str(location), str(to), Training(model=models[0], **SHORT))


def test_rows_in_jsonl_are_read_as_they_are_however_long_and_whatever_they_look_like(tmp_path):
    outputs = ["2024-01-01", "2024-01-01T10:00:00", "a" * (3 << 20)]
    run = finished_run(
        tmp_path / "run",
        3,
        format_="jsonl",
        rows_per_shard=2,
        instances=lambda number: [{"input": "", "output": outputs[number]}],
    )
    found = [text for _, _, completions in training_rows(run, "text", 0) for text in completions]
    assert found == outputs


def test_a_run_is_no_place_for_a_fine_tuning(tmp_path):
    run = finished_run(tmp_path / "run", 3)
    with pytest.raises(RunError, match="tuned is or lies inside a run"):
        finetune(run.location, f"{run.location}/tuned", Training(model="/absent"))


def test_a_model_whose_tokenizer_has_several_chat_templates_is_copied_with_all_of_them(
    models, tmp_path
):
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    templates = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(tmp_path / "made")
    job = Job(str(tmp_path / "to"))
    job.write_model(tmp_path / "made", {})
    assert AutoTokenizer.from_pretrained(job.model).chat_template == templates


def test_checkpoints_are_kept_where_an_endpoint_in_the_configuration_file_says(
    s3, tmp_path, monkeypatch
):
    url = os.environ["AWS_ENDPOINT_URL"]
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {url}\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    place, system = _storage("s3://data/training")
    assert (place, system.region) == ("data/training", "eu-west-3")
    with system.open_output_stream(f"{place}/file") as stream:
        stream.write(b"kept")
    assert s3.get_object(Bucket="data", Key="training/file")["Body"].read() == b"kept"


@pytest.mark.parametrize(("text", "cut"), [("", True), ('{"checkpoint_re', True), ("{}", False)])
def test_a_list_of_checkpoints_that_was_cut_short_is_set_aside(tmp_path, text, cut):
    job = Job(str(tmp_path))
    assert not job.set_cut_list_aside(), "there is none"
    path = tmp_path / "checkpoints" / "checkpoint_manager_snapshot.json"
    path.parent.mkdir()
    path.write_text(text)
    assert job.set_cut_list_aside() == cut
    aside = path.with_name(f"{path.name}.damaged")
    assert (path.exists(), aside.exists()) == (not cut, cut)


@pytest.mark.usefixtures("ray_session")
class TestOnTheSessionsRay:
    def test_rows_steps_and_losses_are_accounted_for(self, finished, tuned):
        _, built = finished
        to, done = tuned
        rows = done.result["rows"]
        assert rows["rows"] == built.stats["rows"] == rows["kept"] + rows["dropped"]
        assert 0 < rows["completion_tokens"] < rows["tokens"]
        assert done.result["steps"] == 3
        lines = [json.loads(line) for line in (to / "metrics.jsonl").open()]
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert all(line["loss"] > 0 and line["steps"] == 3 for line in lines)
        ids = Job(str(to)).tokens()["id"].to_pylist()
        assert len(ids) == len(set(ids)) == rows["kept"]

    def test_the_model_loads_and_knows_what_it_was_trained_on(self, finished, tuned, models):
        location, _ = finished
        to, done = tuned
        assert done.model == str(to / "model")
        assert AutoModelForCausalLM.from_pretrained(done.model)
        assert AutoTokenizer.from_pretrained(done.model).chat_template
        record = json.loads((Path(done.model) / "ray_si.json").read_text())
        assert record["run_fingerprint"] == Run.open(str(location)).header["fingerprint"]
        seeds = {seed.instruction for seed in load_seeds("bundled")[0]}
        assert seeds < set(record["seed_texts"])
        assert record["base_model"] == models[0]

    def test_varied_rows_are_encoded_as_in_the_paper_and_by_the_seed(self, finished, models):
        run = Run.open(str(finished[0]))
        tokenizer = AutoTokenizer.from_pretrained(models[1])
        encoder = Encoder(tokenizer, "varied", max_length=10_000, too_long="drop")
        (part,) = list(training_rows(run, "varied", 0))[:1]
        found = encoder.encode(*part)["input_ids"].to_pylist()
        ends = tokenizer.eos_token_id
        for prompt, completion, ids in zip(*part[1:], found, strict=True):
            assert tokenizer.decode(ids[:-1]) == prompt + completion
            assert ids[-1] == ends
            assert prompt.endswith(("\n", "Output:"))
        ways = {(p.startswith("Task: "), "\n\n" in p, p.endswith("Output:")) for p in part[1]}
        assert 4 < len(ways) <= 6
        assert (
            next(training_rows(run, "varied", 0)) == part != next(training_rows(run, "varied", 1))
        )

    def test_the_seed_tasks_may_be_trained_on_too(self, finished):
        run = Run.open(str(finished[0]))
        alone, with_seeds = (
            list(training_rows(run, "text", 0, seed_tasks=wanted)) for wanted in (False, True)
        )
        *rows, seeds = with_seeds
        assert rows == alone
        first = load_seeds("bundled")[0][0]
        assert seeds[0][0] == f"{first.id}#0"
        assert seeds[1][0].startswith(first.instruction)
        assert seeds[2][0] == first.instances[0].output

    def test_called_again_it_has_nothing_to_do(self, finished, tuned, models):
        location, _ = finished
        to, done = tuned

        def written():
            return {path: path.stat().st_mtime_ns for path in to.rglob("*") if path.is_file()}

        before = written()
        assert finetune(str(location), str(to), Training(model=models[0], **SHORT)) == done
        assert written() == before

    def test_another_model_or_setting_is_refused_there(self, finished, tuned, models):
        location, _ = finished
        to, _ = tuned
        with pytest.raises(RunError, match=r"different: settings\.lora\.rank\)"):
            finetune(str(location), str(to), Training(model=models[0], lora={"rank": 2}, **SHORT))
        with pytest.raises(RunError, match=r"\(different: model, settings\.encoding\)"):
            finetune(str(location), str(to), Training(model=models[1], **SHORT))

    def test_what_is_wrong_is_said_before_anything_is_written(self, finished, models, tmp_path):
        location, _ = finished
        to = tmp_path / "to"
        for settings, error, message in (
            ({"model": "/absent"}, EngineError, "there is no model folder"),
            ({"model": models[1], "encoding": "chat"}, EngineError, "has no chat template"),
            ({"model": models[0], "max_length": 8}, RunError, "rows of .* fits max_length"),
        ):
            with pytest.raises(error, match=message):
                finetune(str(location), str(to), Training(**settings))
        with pytest.raises(RunError, match="is not a run"):
            finetune(str(tmp_path / "absent"), str(to), Training(model=models[0]))
        assert not to.exists()
        (tmp_path / "occupied").mkdir()
        (tmp_path / "occupied" / "file").write_text("x")
        with pytest.raises(RunError, match="not empty and not a fine-tuning"):
            finetune(str(location), str(tmp_path / "occupied"), Training(model=models[0]))

    @pytest.mark.slow
    def test_what_ray_train_cannot_begin_with_is_one_line(self, finished, tuned, models, tmp_path):
        location, _ = finished
        to = tmp_path / "to"
        shutil.copytree(tuned[0], to)
        (to / "result.json").unlink()
        (to / "checkpoints" / "checkpoint_manager_snapshot.json").write_text('{"other": 1}')
        with pytest.raises(TrainingError, match="the training workers failed: ") as caught:
            finetune(str(location), str(to), Training(model=models[0], **SHORT))
        assert "\n" not in str(caught.value)

    def test_runs_that_are_empty_or_not_finished_are_refused(self, models, tmp_path):
        header = {"config": {"target_instructions": 5}, "identity": {}}
        run = Run.prepare(str(tmp_path / "run"), header, "fingerprint")
        with run.held():
            run.create(load_seeds("bundled")[0])
        settings = Training(model=models[0])
        with pytest.raises(RunError, match="is not finished: run `ray-si build`"):
            finetune(run.location, str(tmp_path / "to"), settings)
        with run.held():
            run.commit_stats({"rows": 0, "with_instance": 0, "shards": []})
        with pytest.raises(RunError, match="has no rows to train on"):
            finetune(run.location, str(tmp_path / "to"), settings)
        assert not (tmp_path / "to").exists()

    @pytest.mark.slow
    def test_two_workers_take_the_steps_of_one(self, finished, models, tuned, tmp_path):
        """Sharing a step's rows changes sums in their last bits, not what is learnt."""
        location, _ = finished
        settings = Training(model=models[0], workers=2, retries=0, **SHORT)
        done = finetune(str(location), str(tmp_path / "to"), settings)
        one = Job(str(tuned[0])).metrics()
        two = Job(str(tmp_path / "to")).metrics()
        assert done.result["steps"] == 3
        assert [line["loss"] for line in two] == pytest.approx(
            [line["loss"] for line in one], rel=1e-3
        )

    @pytest.mark.slow
    def test_on_s3_it_trains_and_keeps_checkpoints_there(
        self, finished, models, s3_environment, tmp_path
    ):
        location, _ = finished
        to = "s3://runs/training"
        settings = Training(model=models[0], checkpoint_steps=2, retries=0, **SHORT)
        done = finetune(str(location), to, settings)
        assert done.result["steps"] == 3
        client = boto3.client("s3")
        found = client.list_objects_v2(Bucket="runs", Prefix="training/")["Contents"]
        keys = {item["Key"].removeprefix("training/") for item in found}
        assert {"training.json", "metrics.jsonl", "model/config.json", "result.json"} <= keys
        assert any(key.startswith("checkpoints/checkpoint_") for key in keys)
        for key in keys:
            if key.startswith("model/"):
                client.download_file("runs", f"training/{key}", str(tmp_path / Path(key).name))
        assert AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.slow
def test_killed_with_sigkill_it_goes_on_to_the_losses_and_weights_of_an_unbroken_run(
    finished, models, tmp_path
):
    location, _ = finished
    options = SHORT | {"max_steps": 40, "batch_size": 16, "rows_at_once": 1, "checkpoint_steps": 5}
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(options))
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def command(to):
        return ["finetune", location, "--model", models[0], "--to", to, "--config", settings]

    assert ray_si(*command(whole), timeout=600).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_si", *map(str, command(killed))],
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while len(Job(str(killed)).metrics()) < 12 or not list(killed.glob("checkpoints/checkpoint_*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists()

    process = subprocess.Popen(
        [sys.executable, "-m", "ray_si", *map(str, command(killed))],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith(("train 1", "train 2", "train 3")):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("stopped; checkpoints are kept in")

    done = ray_si(*command(killed), timeout=600)
    assert done.returncode == 0, done.stderr
    first_seen = done.stderr.split("train starting the workers")[1]
    assert "train 1/40" not in first_seen, "it began anew"
    lines = [Job(str(to)).metrics() for to in (whole, killed)]
    assert [line["step"] for line in lines[1]] == list(range(1, 41))
    assert lines[0] == lines[1]
    weights = [load_file(to / "model" / "model.safetensors") for to in (whole, killed)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
