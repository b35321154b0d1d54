"""A build whose run lives on S3 is the build whose run lives in a folder."""

from __future__ import annotations

import hashlib
import json
from uuid import uuid4

import pandas
import pyarrow.dataset
import pytest
from pyarrow import fs

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.errors import StorageError
from ray_si.export.training_files import Options, write_training_files
from ray_si.run.run import Run
from ray_si.run.schemas import TRAINING_ROWS
from ray_si.run.status import status as status_of
from ray_si.self_instruct.formats import mapped
from ray_si.storage.objects import open_objects
from ray_si.storage.s3 import _client
from tests import loopback
from tests.builds import TARGET, replay_values

pytestmark = pytest.mark.usefixtures("ray_session", "s3_environment")

DATA = ("data/", "seeds.parquet", "bootstrap/round-00000/block-", "instances/block-")
"""What depends on nothing but configuration, seeds and answers."""


@pytest.fixture(scope="module")
def on_s3(s3_server):
    """The place of a run that was finished without a cluster, and the result of its build."""
    location = f"s3://runs/{uuid4().hex}/run"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.items():
            environment.setenv(name, value)
        _client.cache_clear()
        with loopback.installed():
            result = build(parse_config(replay_values()), location)
    _client.cache_clear()
    return location, result


def digests(location):
    objects = open_objects(location)
    return {
        key: hashlib.sha256(objects.get(key)).hexdigest()
        for prefix in DATA
        for key in objects.list(prefix)
        if "manifest" not in key
    }


def test_what_was_written_to_s3_is_read_by_others(on_s3, s3_server):
    location, result = on_s3
    path = location.removeprefix("s3://")
    filesystem = fs.S3FileSystem(endpoint_override=s3_server["AWS_ENDPOINT_URL"])
    files = [f.path for f in filesystem.get_file_info(fs.FileSelector(f"{path}/data"))]
    shards = sorted(file for file in files if file.endswith(".parquet"))
    table = pyarrow.dataset.dataset(shards, filesystem=filesystem).to_table(use_threads=False)
    frames = [pandas.read_parquet(shard, filesystem=filesystem) for shard in shards]
    assert table.num_rows == sum(map(len, frames)) == result.stats["rows"]
    run = Run.open(location)
    for target in (f"{location}-export", None):
        to = target or f"{location}-again/"
        ids = mapped(["id=id"], TRAINING_ROWS.names)
        done = write_training_files(run, to, ids, Options("rows"), {})
        assert done.rows == {"train": result.stats["rows"]}
    lines = open_objects(f"{location}-export").get("rows.jsonl").decode().splitlines()
    assert [json.loads(line)["id"] for line in lines] == table["id"].to_pylist()


def test_a_run_on_s3_has_the_same_bytes_and_goes_on_when_it_was_cut_short(
    finished, on_s3, replay_config
):
    location, result = on_s3
    assert result.stats == finished[1].stats
    assert digests(location) == digests(str(finished[0]))
    objects = open_objects(location)
    lost = ["stats.json", *objects.list("data/"), *objects.list("instances/manifest")]
    lost += ["instances/block-00002.parquet"]
    last = [key for key in objects.list("bootstrap/") if key.endswith("manifest.json")][-1]
    lost += list(objects.list(last.removesuffix("manifest.json")))
    for key in lost:
        objects.delete(key)
    status = status_of(Run.open(location))
    assert status["accepted"] < status["target"] == TARGET
    assert status["phase"] == "bootstrap"  # whose last round is lost, though instances stand
    # on Ray, whose workers write the blocks that are lost
    assert build(parse_config(replay_config), location).stats == result.stats
    assert digests(location) == digests(str(finished[0]))
    assert status_of(Run.open(location))["phase"] == "done"


def test_storage_that_fails_in_a_worker_is_said_in_one_line(tmp_path, replay_config):
    run, blocked = tmp_path / "run", tmp_path / "run" / "instances"

    def block_the_instances(progress):
        if (run / "run.json").exists() and not blocked.is_symlink():
            blocked.symlink_to("/proc/absent")  # lists as empty, and takes nothing

    with pytest.raises(StorageError, match=r"instances.* cannot be used") as caught:
        build(parse_config(replay_config), str(run), listen=block_the_instances)
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_refused_before_any_model_is_loaded(replay_config):
    progress = []
    with pytest.raises(StorageError, match="there is no such bucket"):
        build(parse_config(replay_config), "s3://absent/run", listen=progress.append)
    assert progress == []
