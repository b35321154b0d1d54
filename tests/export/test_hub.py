"""Runs and exports on a dataset hub: the hub's own client against a server on this machine."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import hypothesis.strategies as st
import pytest
from hypothesis import given

from ray_si.errors import ConfigError, HubError, HubLostError, RunError
from ray_si.export import dataset_files as module
from ray_si.export.dataset_files import DatasetFiles, dataset_files
from ray_si.export.hub import Hub
from ray_si.export.rows import training_rows
from ray_si.export.training_files import Options, write_training_files
from ray_si.run.run import Run
from ray_si.self_instruct.formats import layout
from ray_si.storage.objects import open_objects
from ray_si.storage.tables import ShardInfo
from tests.command import ENVIRONMENT, assert_one_line_error, ray_si
from tests.hub_server import TOKEN, HubServer
from tests.report.made import made_run, texts

CARD = "---\nlicense: mit\n---\n# Mine\n"


@pytest.fixture(scope="module")
def process():
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture
def server(process, monkeypatch, tmp_path):
    """The hub, empty; the environment has a token for it, and the client does not wait long."""
    process.reset()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, value in {
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "HF_HUB_DISABLE_XET": True,  # large files by LFS, unless a test says otherwise
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    return process


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of three shards, with card and report."""
    return made_run(tmp_path_factory.mktemp("hub") / "run", format_="both")


def push(server, location, repo="me/tasks", card=None, **options):
    hub, files = Hub(repo, server.url), dataset_files(str(location), card)
    hub.check()
    files.check()
    return hub.push(files, **options)


def stored(location, names):
    objects = open_objects(str(location))
    return {name: objects.get(name) for name in names}


def load(folder, cache):
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def test_a_run_arrives_byte_for_byte_in_one_commit_and_loads(server, location, tmp_path):
    run = made_run(location)
    pushed = push(server, location, message="first")
    names = [f"data/train-{k:05d}-of-00003.parquet" for k in range(3)]
    arrived = server.files("me/tasks")
    assert arrived == stored(location, ["README.md", "report.html", *names])
    assert server.messages("me/tasks") == ["initial commit", "first"]
    assert (pushed.url, pushed.changed) == (f"{server.url}/datasets/me/tasks", True)
    server.write("me/tasks", tmp_path / "got")
    loaded = load(tmp_path / "got", tmp_path / "cache")
    assert [row["id"] for row in loaded["train"]] == [row["id"] for row in training_rows(run)]


def test_where_a_run_has_both_kinds_of_shards_parquet_goes(server, run):
    push(server, run.location)
    assert sorted(server.files("me/tasks"))[:2] == [
        "README.md",
        "data/train-00000-of-00003.parquet",
    ]
    assert not [name for name in server.files("me/tasks") if name.endswith(".jsonl")]


def test_an_export_arrives_with_the_card_given_and_loads_with_its_splits(server, run, tmp_path):
    options = Options("messages", kind="jsonl.gz", rows_per_shard=20, validation=0.2)
    done = write_training_files(run, str(tmp_path / "out"), layout("messages"), options, {})
    (tmp_path / "card.md").write_text(CARD)
    push(server, tmp_path / "out", card=str(tmp_path / "card.md"))
    files = [key for key in done.keys if not key.startswith("_")]
    assert server.files("me/tasks") == stored(tmp_path / "out", files) | {
        "README.md": CARD.encode()
    }
    server.write("me/tasks", tmp_path / "got")
    loaded = load(tmp_path / "got", tmp_path / "cache")
    assert {split: len(loaded[split]) for split in loaded} == done.rows


def test_shards_of_an_earlier_version_go_and_other_files_stay(server, run, tmp_path):
    push(server, run.location)
    there = server.repos["me/tasks"]
    of_others = ["data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"]
    for name in ["notes.md", *of_others]:
        there["commits"][there["branches"]["main"]][1][name] = b"by hand"
    made_run(tmp_path / "smaller", instructions=texts(10))
    pushed = push(server, tmp_path / "smaller")
    assert pushed.removed == [f"data/train-{k:05d}-of-00003.parquet" for k in range(3)]
    assert sorted(pushed.others) == [*of_others, "notes.md"]
    assert set(server.files("me/tasks")) == {
        "README.md", "data/train-00000-of-00001.parquet", "notes.md", "report.html", *of_others,
    }  # fmt: skip
    assert len(server.messages("me/tasks")) == 3


def test_what_is_there_already_makes_no_commit(server, run):
    first = push(server, run.location)
    again = push(server, run.location)
    assert (again.commit, again.changed) == (first.commit, False)
    assert len(server.messages("me/tasks")) == 2


def test_a_branch_is_made_and_main_stays_as_it_is(server, run):
    push(server, run.location, branch="second/try")
    assert "README.md" in server.files("me/tasks", "second/try")
    assert server.files("me/tasks") == {}


def test_private_makes_the_repository_private_and_refuses_a_public_one(server, run):
    push(server, run.location, private=True)
    assert server.repos["me/tasks"]["private"]
    server.add("me/public")
    with pytest.raises(HubError, match=r"me/public .* is public"):
        push(server, run.location, "me/public", private=True)
    assert server.files("me/public") == {}


def test_files_go_some_at_a_time_and_still_in_one_commit(server, run, monkeypatch):
    monkeypatch.setattr(module, "_GROUP", 1)
    heard = []
    push(server, run.location, listen=lambda *step: heard.append(step))
    paths = [path.split("/")[-2] for _, path in server.seen]
    assert paths.count("preupload") == 5
    assert paths.count("commit") == 1
    assert heard == [("uploading", done, 5) for done in range(6)]


@given(st.lists(st.integers(0, 200)), st.integers(1, 100))
def test_groups_are_all_files_in_order_and_small_unless_one_file_is_large(sizes, most):
    files = tuple(ShardInfo(str(k), 1, size, "") for k, size in enumerate(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_GROUP", most)
        found = DatasetFiles(open_objects("."), "", "", files, module._OF_RUNS)
        groups = list(found.groups())
    assert tuple(info for group in groups for info in group) == files
    assert all(len(g) == 1 or sum(info.size for info in g) <= most for g in groups)


def test_large_files_go_through_xet_where_the_hub_has_it(server, run, tmp_path, monkeypatch):
    hf_xet = pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    server.storage = tmp_path / "xet"
    push(server, run.location)
    assert not server.large
    files = server.repos["me/tasks"]["commits"][server.repos["me/tasks"]["branches"]["main"]][1]
    for info in dataset_files(run.location).files[2:]:
        assert files[info.key] == info.sha256
    shards = [Path(run.location, info.key) for info in dataset_files(run.location).files[2:]]
    session = hf_xet.XetSession()
    with session.new_file_download_group(endpoint=f"local://{server.storage}") as group:
        for found, shard in zip(hf_xet.hash_files(list(map(str, shards))), shards, strict=True):
            info = hf_xet.XetFileInfo(found.hash, shard.stat().st_size)
            group.start_download_file(info, str(tmp_path / shard.name))
    for shard in shards:
        assert (tmp_path / shard.name).read_bytes() == shard.read_bytes()


# What goes wrong --------------------------------------------------------------------------------


def damage(objects, key):
    objects.put(key, objects.get(key)[:-1] + b"?")


def test_damage_is_found_before_the_hub_hears_of_anything(server, location):
    run = made_run(location)
    for key in ("README.md", "data/train-00001-of-00003.parquet"):
        data = run.objects.get(key)
        damage(run.objects, key)
        with pytest.raises(RunError, match=f"{key} is damaged: it has other content than stats"):
            push(server, location)
        run.objects.delete(key)
        with pytest.raises(RunError, match=f"is damaged: {key} is missing"):
            push(server, location)
        run.objects.put(key, data)
    assert {path for _, path in server.seen} == {"/api/whoami-v2"}
    push(server, location)


def test_damage_that_comes_while_uploading_commits_nothing(server, run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GROUP", 1)
    files = dataset_files(str(shutil.copytree(run.location, tmp_path / "run")))
    files.check()
    damage(files.objects, files.files[-1].key)
    with pytest.raises(RunError, match="is damaged"):
        Hub("me/tasks", server.url).push(files)
    assert server.large
    assert server.files("me/tasks") == {}


def test_an_unfinished_run_a_run_without_rows_and_other_folders_are_refused(tmp_path):
    made_run(tmp_path / "open", finish=False)
    made_run(tmp_path / "empty", instructions=["Do nothing."])
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("open", "is not finished: run `ray-si build`"),
        ("empty", "has no rows to push"),
        ("folder", "is not a run: it has no run.json"),
    ]:
        with pytest.raises(RunError, match=message):
            dataset_files(str(tmp_path / name))


def test_an_export_without_rows_is_refused(tmp_path):
    made_run(tmp_path / "run", instructions=["Do nothing."])
    run = Run.open(str(tmp_path / "run"))
    write_training_files(run, str(tmp_path / "to"), layout("alpaca"), Options("alpaca"), {})
    with pytest.raises(RunError, match="has no rows to push"):
        dataset_files(str(tmp_path / "to"))


def test_an_export_with_a_damaged_manifest_and_a_folder_of_several_are_refused(run, tmp_path):
    for name in ("messages", "alpaca"):
        write_training_files(run, str(tmp_path), layout(name), Options(name), {})
    with pytest.raises(RunError, match=r"several exports \(alpaca, messages\)"):
        dataset_files(str(tmp_path))
    (tmp_path / "_alpaca.manifest").unlink()
    (tmp_path / "_messages.manifest").write_text('{"files": [{"key": "messages.jsonl"}]}')
    with pytest.raises(RunError, match=r"_messages\.manifest is damaged"):
        dataset_files(str(tmp_path))


def test_a_card_must_be_a_text_file(run, tmp_path):
    (tmp_path / "latin.md").write_bytes(b"f\xfcr")
    for name, message in [("latin.md", "not UTF-8"), ("none.md", "No such file")]:
        with pytest.raises(ConfigError, match=message):
            dataset_files(run.location, str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tasks", "names no owner"),
        ("me/my tasks", "cannot name a repository"),
        ("datasets/me/tasks", "cannot name a repository"),
        ("me/a--b", "cannot name a repository"),
    ],
)
def test_a_malformed_name_is_refused(name, message):
    with pytest.raises(HubError, match=message):
        Hub(name, "http://127.0.0.1:1")


def test_what_the_hub_refuses_says_what_to_do(server, run, monkeypatch, tmp_path):
    def refused(message, repo="me/tasks", **options):
        with pytest.raises(HubError, match=message) as caught:
            push(server, run.location, repo, **options)
        assert "\n" not in str(caught.value)

    server.add("you/tasks")
    refused("no permission to write there", "you/tasks")
    refused("no permission to write there", "you/new")
    (tmp_path / "card.md").write_text("---\nlicense: mine\n---\n")
    refused(r'refuses the card README.md: "license" must be one of', card=tmp_path / "card.md")
    assert server.files("you/tasks") == {}
    assert "me/tasks" not in server.repos
    server.role = "read"
    refused("the token of me only reads")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    refused("the token is refused")
    monkeypatch.delenv("HF_TOKEN")
    refused("there is no token for 127.0.0.1:.*: set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(HubError, match="not a hub; check --endpoint"):
        Hub("me/tasks", f"{server.url}/site").check()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE is set")


def test_a_commit_that_came_in_between_is_not_overwritten(server, run):
    def meanwhile(repo):
        server.repos[repo]["branches"]["main"] = "1" * 40

    server.meanwhile = meanwhile
    with pytest.raises(HubError, match="somebody else has changed it meanwhile; push again"):
        push(server, run.location)
    assert len(server.messages("me/tasks")) == 1


@pytest.mark.parametrize("part", ["/store/", "/preupload/", "/objects/batch", "/verify"])
def test_passing_failures_are_waited_out(server, run, part):
    server.fail = {part: (503, 2)}
    push(server, run.location)
    assert len(server.files("me/tasks")) == 5


@pytest.mark.parametrize("part", ["/store/", "/preupload/", "/commit/", "/create", "/whoami"])
def test_a_hub_that_keeps_failing_has_no_commit(server, run, part):
    server.fail = {part: (500, 1000)}
    with pytest.raises(HubLostError, match=r"failed with status 500 .*nothing was committed"):
        push(server, run.location)
    assert all(server.files(repo) == {} for repo in server.repos)
    server.fail = {}
    push(server, run.location)
    assert len(server.files("me/tasks")) == 5


# The command ------------------------------------------------------------------------------------


def environment(server, **changes):
    values = ENVIRONMENT | {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    return values | {"HF_ENDPOINT": server.url} | changes


def command(server, *arguments, **changes):
    return ray_si("push", *arguments, env=environment(server, **changes))


def test_the_command_lists_what_would_go_then_pushes_it(server, run):
    done = command(server, run.location, "me/tasks", "--dry-run", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert server.seen == []
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == [
        "README.md", "report.html", "data/train-00000-of-00003.parquet",
    ]  # fmt: skip
    assert "5 files, 60 rows," in lines[-1]
    assert lines[-1].endswith(f"would go to me/tasks on {server.host}")
    done = command(server, run.location, "me/tasks", "--private", "--message", "hello")
    assert done.returncode == 0, done.stderr
    assert f"pushed to {server.url}/datasets/me/tasks (commit " in done.stdout
    assert done.stderr == ""
    assert server.messages("me/tasks")[-1] == "hello"


def test_a_users_mistake_is_one_line_and_a_silent_hub_has_status_1(server, run, tmp_path):
    done = command(server, run.location, "me/tasks", HF_TOKEN="", HF_HOME=str(tmp_path))
    assert_one_line_error(done, "there is no token for")
    done = command(server, run.location, "me/tasks", "--endpoint", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("127.0.0.1:1 does not answer (ConnectError); nothing was commit")
    assert len(done.stderr.splitlines()) == 1
    assert TOKEN not in done.stdout + done.stderr


def test_interrupted_it_commits_nothing_and_pushes_again(server, run):
    server.hold = "/store/"
    pushing = subprocess.Popen(
        [sys.executable, "-m", "ray_si", "push", run.location, "me/tasks"],
        env=environment(server), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 100
        while not any(path.startswith("/store/") for _, path in server.seen):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pushing.send_signal(signal.SIGINT)
        _, said = pushing.communicate(timeout=60)
    finally:
        server.hold = None
        pushing.kill()
    assert pushing.returncode == 130
    assert said == "stopped; the hub has all of it or nothing, and the same command goes on\n"
    assert server.files("me/tasks") == {}
    push(server, run.location)
    assert len(server.files("me/tasks")) == 5
