"""A model in a bucket is copied once to a node, whoever asks, and anew when it has changed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_si.engines import models, remote
from ray_si.engines.adapters import check_adapter
from ray_si.engines.memory import weight_bytes
from ray_si.errors import EngineError
from tests.engines.test_adapters import adapter
from tests.engines.test_memory import write


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    """A bucket with a model of 100 floats; a function that puts further files there.

    The cache's name is one that would be another in an address.
    """
    monkeypatch.setenv("RAY_SI_CACHE", str(tmp_path / "my cache %41 #1"))
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder, {"a": ("BF16", [100], 200)}, max_position_embeddings=4096)
    (folder / "pytorch_model.bin").write_bytes(b"the same again")

    def put(name, data):
        s3.put_object(Bucket="data", Key=f"models/tiny/{name}", Body=data)

    for path in folder.iterdir():
        put(path.name, path.read_bytes())
    return put


ADDRESS = "s3://data/models/tiny"


def test_many_that_ask_at_once_get_one_copy(bucket):
    with ThreadPoolExecutor(8) as threads:
        copies = set(threads.map(lambda _: models.resolve(ADDRESS), range(8)))
    (copy,) = copies
    assert {path.name for path in Path(copy).iterdir()} == {"config.json", "model.safetensors"}
    assert weight_bytes(copy, None) == 200
    left = [path.name for path in Path(copy).parent.iterdir()]
    assert sorted(left) == [Path(copy).name, f"{Path(copy).name}.lock"]


def test_what_a_killed_process_had_copied_is_removed_by_the_next_that_copies(bucket, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(remote, "copy_files", killed)
        patched.setattr(remote.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            models.resolve(ADDRESS)
    cache = remote.cache_folder() / "models"
    assert [path for path in cache.iterdir() if path.is_dir()]
    copy = Path(models.resolve(ADDRESS))
    assert sorted(cache.iterdir()) == [copy, copy.with_name(f"{copy.name}.lock")]


def test_a_model_that_has_changed_is_copied_anew(bucket):
    before = models.resolve(ADDRESS)
    bucket("config.json", json.dumps({"max_position_embeddings": 512}))
    after = models.resolve(ADDRESS)
    assert after != before
    assert models.read_config(Path(after)) == {"max_position_embeddings": 512}
    assert models.read_config(Path(before)) == {"max_position_embeddings": 4096}


def test_a_look_at_a_model_fetches_no_weights(bucket, tmp_path):
    folder = models.check_model(ADDRESS)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert weight_bytes(ADDRESS, 4) == 400  # from the header, in the bucket


def test_of_two_copies_of_the_weights_in_a_bucket_one_counts(bucket, tmp_path):
    again = (tmp_path / "model" / "model.safetensors").read_bytes()
    bucket("consolidated.safetensors", again)
    assert weight_bytes(ADDRESS, None) == 200
    bucket("model-00001-of-00001.safetensors", again)
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    bucket("model.safetensors.index.json", json.dumps(index))
    assert weight_bytes(ADDRESS, None) == 200


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://data/models/none", "no model at s3://data/models/none: it has no config.json"),
        ("s3://absent/models", "s3://absent/models"),
        ("ftp://data/models", "a model may lie at s3:// or gs://"),
    ],
)
def test_an_address_without_a_model_is_one_line(bucket, address, message):
    with pytest.raises(EngineError, match=message) as refused:
        models.check_model(address)
    assert "\n" not in str(refused.value)


def test_an_embedder_with_folders_in_a_bucket_is_refused_and_one_of_files_is_not(bucket):
    models.check_embedder(ADDRESS)
    bucket("modules.json", b"[]")
    with pytest.raises(EngineError, match="not copied from a bucket: give a folder"):
        models.check_embedder(ADDRESS)


def test_a_damaged_index_in_a_bucket_is_one_line(bucket):
    bucket(remote.INDEX, b"{")
    with pytest.raises(EngineError, match="is damaged; copy it again"):
        weight_bytes(ADDRESS, None)


def test_an_adapter_may_lie_in_a_bucket(bucket, s3, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter(folder)
    for path in folder.iterdir():
        s3.put_object(Bucket="data", Key=f"adapters/mine/{path.name}", Body=path.read_bytes())
    check_adapter("s3://data/adapters/mine", {"hidden_size": 576})
    copy = Path(remote.local_copy("s3://data/adapters/mine"))
    assert (copy / "adapter_model.safetensors").is_file()
