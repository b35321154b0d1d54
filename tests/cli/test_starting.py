"""init and doctor from the command line, and the way from the one to a dataset."""

from __future__ import annotations

import sys

import pytest
import yaml

from tests.command import ENVIRONMENT, assert_one_line_error, invoke, ray_si
from tests.endpoint import KEY, MODEL


def test_from_init_to_a_dataset_on_a_local_endpoint(ray_session, endpoint, tmp_path):
    file, run = tmp_path / "mine.yaml", tmp_path / "run"
    done = invoke("init", file, "--for", "endpoint", "--model", MODEL, "--url", endpoint.url)
    assert done.returncode == 0, done.stderr
    assert f"ray-si build {file}" in done.stdout
    key = "generator.openai.api_key_env=RAY_SI_TEST_KEY"
    # by their lengths the scripted endpoint tells requests apart
    scripted = ("generator.prompt_style=completion", "generator.sampling={}")
    small = ("target_instructions=20", "dedup.cosine=null", "bootstrap.prompts_per_round=8")
    sets = (key, *scripted, *small)
    options = [option for value in sets for option in ("--set", value)]
    environment = ENVIRONMENT | {"RAY_SI_TEST_KEY": KEY}
    built = invoke("build", file, "--out", run, *options, env=environment)
    assert built.returncode == 0, built.stderr
    assert any((run / "data").iterdir())


def test_a_file_that_is_there_is_left_as_it_is(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("mine: true\n")
    done = invoke("init", file, "--for", "gpu", "--model", "m")
    assert_one_line_error(done, "is there already")
    assert yaml.safe_load(file.read_text()) == {"mine": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--for is missing"),
        (("--for", "gpu"), "--model is missing"),
        (("--for", "gpus", "--model", "m"), "--gpus is missing"),
        (("--for", "cpu"), "choose one of endpoint, gpu, gpus"),
        (("--for", "gpu", "--model", "m", "--engine", "trt"), "choose one of vllm, transformers"),
        (("--for", "endpoint", "--model", "m", "--url", "host"), "is no URL of an endpoint"),
    ],
)
def test_what_is_missing_without_a_terminal_or_wrong_is_one_line(tmp_path, options, message):
    done = invoke("init", tmp_path / "run.yaml", *options)
    assert_one_line_error(done, message)
    assert not (tmp_path / "run.yaml").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    done = invoke("init", tmp_path / "absent" / "run.yaml", "--for", "gpu", "--model", "m")
    assert_one_line_error(done, "No such file or directory")


def test_doctor_tells_what_is_here_and_what_will_not_do(tmp_path):
    named = (
        "--address",
        "127.0.0.1:1",
        "--to",
        tmp_path / "runs",
        "--url",
        "http://localhost:1/v1",
    )
    done = ray_si("doctor", *named, "--key-env", "none")
    assert done.returncode == 1, done.stderr
    assert f"Python {sys.version.split()[0]}" in done.stdout
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stdout
    assert "can be written" in done.stdout
    assert "http://localhost:1/v1: [Errno 111] Connection refused" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_doctor_with_nothing_to_complain_of_ends_well():
    done = invoke("doctor", env=ENVIRONMENT | {"RAY_ADDRESS": ""})
    assert done.returncode == 0, done.stderr
    assert "builds start Ray here" in done.stdout
