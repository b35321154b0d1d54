"""Bad input is said before anything is rented."""

from __future__ import annotations

import re

import pytest

from ray_si.errors import ConfigError
from ray_si.provision.checks import machine_of, most_dollars_per_hour
from ray_si.provision.render import load_values, render
from tests.clusters import ROOT
from tests.provision.rendered import ARN, EXPECTED, LARGE, VALUES, files


def refused(platform, *overrides):
    with pytest.raises(ConfigError) as caught:
        files(platform, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("platform", ["aws", "gcp", "kubernetes"])
def test_more_than_the_ceiling_is_not_rendered(platform):
    assert "over dollars_per_hour 5" in refused(platform, "dollars_per_hour=5")
    files(platform, "dollars_per_hour=5", "groups.l4.most=2")


def test_the_ceiling_counts_what_the_launcher_can_have_at_once():
    """Both types of node of a group with spot machines, and one limit for all nodes together."""
    changed = ["groups.cpu.most=8", "groups.l4.most=2", "head.dollars_per_hour=0"]
    values = load_values(VALUES, changed)
    assert most_dollars_per_hour(values, "kubernetes") == pytest.approx(2 * 0.98 + 8 * 0.41)
    assert most_dollars_per_hour(values, "aws") == pytest.approx(4 * 0.98 + 6 * 0.41)


@pytest.mark.parametrize("platform", ["aws", "gcp", "kubernetes"])
def test_what_a_platform_needs_is_named(platform):
    values = load_values(VALUES, [])
    with pytest.raises(ConfigError, match=rf"{platform}\.|images"):
        render(values, platform)


def test_a_reference_to_a_secret_is_of_the_platform():
    assert "this is an ARN" in refused("aws", "secrets.HF_TOKEN=hugging-face/token")
    assert "this is SECRET/KEY" in refused("kubernetes", f"secrets.HF_TOKEN={ARN}")


def test_a_machine_that_the_tables_lack_is_asked_for():
    assert "groups.l4.machine: no machine of aws is known with 3 L4 and" in refused(
        "aws", "groups.l4.gpus=3"
    )
    files("aws", "groups.l4.gpus=3", "groups.l4.machine=g9.custom")
    assert "head.machine: no machine of aws" in refused("aws", "head.memory_gib=4000")
    assert machine_of(load_values(VALUES, []), "gcp", "head") == "n2-highmem-8"


def run(*overrides):
    return [f"job.config={ROOT / 'configs/gpu-1.yaml'}", *overrides]


@pytest.fixture
def config(tmp_path):
    """Writes a run's configuration; the override that names it."""

    def write(text):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"  # `files` goes by the name
        path.write_text(text)
        return f"job.config={path}"

    return write


def test_a_run_for_which_there_is_room_is_rendered():
    assert "rayjob.yaml" in files("kubernetes", *run())


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("gpu-8-70b", ["engine=vllm"], "a replica takes 4 CPU and 4 GPU on one node, and no"),
        ("gpu-64", ["engine=vllm"], "64 replicas take 64 times 4 CPU and 1 GPU"),
        ("gpu-64", [], "generator.engine is vllm, and the nodes are set up for transformers"),
        ("endpoint", ["engine=openai"], "api_key_env is OPENAI_API_KEY, and no secret has"),
    ],
)
def test_a_run_without_room_or_secret_is_told(name, overrides, message):
    path = ROOT / "configs" / f"{name}.yaml"
    assert message in refused("kubernetes", f"job.config={path}", *overrides)


def test_a_model_over_four_gpus_finds_a_group_with_as_many_in_one_machine():
    path = f"job.config={ROOT / 'configs/gpu-8-70b.yaml'}"
    files("kubernetes", path, "engine=vllm", *LARGE)
    files("kubernetes", path, "engine=vllm", *LARGE, "groups.l4x4.most=0")  # eight in one
    many = ["groups.l4.most=32", "dollars_per_hour=400"]  # enough GPUs, one a node
    assert "no group has that" in refused("kubernetes", path, "engine=vllm", *many)


L4S = "{gpus: 1, accelerator: L4, replicas: %d, min_replicas: %d}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"generator: {L4S % (8, 1)}\ninstance_generator: {L4S % (8, 1)}\n",
            "generator: 1 of 8 replicas must start beside 8 of instance_generator and 1 of "
            "embedder; all that takes 9.5 CPU and 9 GPU, node by node, and all groups together "
            "have 60 CPU and 8 GPU: raise most, or lower replicas",
        ),
        (
            f"generator: {L4S % (4, 1)}\ninstance_generator: {L4S % (5, 5)}\n",
            "instance_generator: 5 of 5 replicas must start beside 4 of generator",
        ),
        (
            f"generator: {L4S % (7, 1)}\nembedder: {{gpus: 1, replicas: 8}}\n",
            "generator: 1 of 7 replicas must start beside 8 of embedder",
        ),
        (
            f"generator: {L4S % (7, 7)}\ndedup: {{gpus: 0.5, shards: 3}}\n",
            "generator: 7 of 7 replicas must start beside 1 of embedder and 3 shards of dedup",
        ),
        ("embedder: {cpus: 7}\n", "embedder: a replica takes 7 CPU on one node, and no group"),
    ],
)
def test_what_starts_at_once_and_leaves_no_room_for_another_sections_first_is_told(
    config, text, message
):
    assert message in refused("kubernetes", config(text))


@pytest.mark.parametrize(
    "text",
    [
        f"generator: {L4S % (7, 7)}\ninstance_generator: {L4S % (1, 1)}\n",
        f"generator: {L4S % (5, 3)}\ninstance_generator: {L4S % (5, 3)}\n",  # two never join in
        "generator: {gpus: 1, max_replicas: 8}\ninstance_generator: {gpus: 1, max_replicas: 8}\n",
        f"generator: {L4S % (8, 8)}\nembedder: {{gpus: 1}}\ndedup: {{cosine: off}}\n",
        f"generator: {L4S % (7, 7)}\ndedup: {{gpus: 0.5, shards: 2}}\n",
    ],
)
def test_sections_that_can_all_begin_are_rendered(config, text):
    assert "rayjob.yaml" in files("kubernetes", config(text))


def test_shards_on_gpus_that_the_groups_do_not_have_are_told(config):
    text = "generator: {cpus: 1}\ndedup: {gpus: 1}\n"
    message = refused("kubernetes", config(text), "groups.l4.most=0")
    assert message == "dedup: a shard takes 1 GPU on one node, and no group has that"
    message = refused("kubernetes", config(text.replace("gpus: 1", "gpus: 1, shards: 9")))
    assert message.startswith("dedup: 9 shards take 9 times 1 GPU on one node, and all groups")
    assert message.endswith("have that 8 times: raise most, or lower shards")


def test_an_endpoints_run_needs_no_gpu_group():
    path = f"job.config={ROOT / 'configs/endpoint.yaml'}"
    overrides = ["engine=openai", "secrets.OPENAI_API_KEY=openai/key", "groups.l4.most=0"]
    assert "rayjob.yaml" in files("kubernetes", path, *overrides)


def test_a_head_without_the_memory_that_the_target_needs_is_told(config):
    text = "target_instructions: 300000000\ngenerator: {gpus: 1}\ndedup: {cosine: off}\n"
    message = refused("kubernetes", config(text))
    assert re.search(r"300,000,000 instructions take \d+ GiB on the head, which has 64", message)
    files("kubernetes", config(text), "head.memory_gib=128")
    sharded = text.replace("{cosine: off}", "{cosine: off, shards: 16}")
    files("kubernetes", config(sharded))
    files("kubernetes", config(text.replace("{cosine: off}", "{gpus: 1}")))


def test_files_that_pods_do_not_have_are_told(config):
    seeds = ROOT / "ray_si/data/seed_tasks.jsonl"
    text = f"seeds: {seeds}\ngenerator: {{gpus: 1}}\n"
    assert "is not where pods are; ray-si submit sends files" in refused("kubernetes", config(text))


def test_a_recording_that_pods_do_not_have_is_told_where_it_is_read(config):
    text = "generator: {engine: replay, model: null, replay: {recording: mine.jsonl}}\n"
    message = refused("kubernetes", config(text))
    assert message == "job.config: mine.jsonl is not where pods are; ray-si submit sends files"
    unread = text.replace("engine: replay, model: null", "gpus: 1")
    assert "rayjob.yaml" in files("kubernetes", config(unread))


@pytest.mark.parametrize("section", ["generator", "instance_generator", "embedder"])
def test_a_model_in_a_folder_that_pods_do_not_have_is_told(config, section, tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for model in ("models/mine", "./elsewhere"):
        assert (
            f"{section}.model: {model} is a folder on this machine; name a hub model, or an "
            "absolute path that every node" in refused("kubernetes", config(named(section, model)))
        )
    for model in ("/home/ray/cache/mine", "somebody/mine"):
        assert "rayjob.yaml" in files("kubernetes", config(named(section, model)))


def named(section, model):
    return f"{section}: {{model: {model}}}\n"


@pytest.mark.parametrize("platform", EXPECTED)
def test_nothing_is_written_where_something_is_wrong(platform, tmp_path):
    from tests.command import assert_one_line_error, invoke

    done = invoke("cluster", "render", VALUES, "--for", platform, "--to", tmp_path / "out")
    assert_one_line_error(done, "")
    assert not (tmp_path / "out").exists()
