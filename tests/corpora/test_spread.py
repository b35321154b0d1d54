"""Deduplication that reads and embeds over Ray: the bytes of one process, whatever happens."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_si.corpora import dedup, index as corpus_index, spread
from ray_si.corpora.dedup import dedup_files
from ray_si.corpora.spread import Embedders, SpreadReader, free_cards
from ray_si.engines import registry
from ray_si.errors import ConfigError, GateError
from ray_si.storage import corpus
from tests.builds import rays_processes
from tests.clusters import ROOT, node_with_gpus
from tests.command import assert_one_line_error, invoke

WORDS = "river mountain house garden city ocean train book music light paper stone".split()


def made(number, seed=0):
    """Texts of which many are near-duplicates of earlier ones, by words or by the model."""
    random = np.random.default_rng(seed)
    return [
        " ".join([*random.choice(WORDS, 6), str(random.integers(5 * number))])
        for _ in range(number)
    ]


def write(path, texts):
    """A file of texts, with blank lines among them."""
    rows = (json.dumps({"instruction": t}) + "\n" * (1 + i % 3) for i, t in enumerate(texts))
    path.write_text("".join(rows))
    return str(path)


def static_model(path):
    """A model that looks up a vector for each word, so that batches change nothing in them."""
    # imported here, as the driver that is killed takes this module and no model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(1).normal(size=(len(words), 16)).astype(np.float32)
    model = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[model], device="cpu").save(str(path))
    return str(path)


def embed_by_table(patch):
    """Have such a model without sentence-transformers, which every actor imports for seconds.

    All is defined within, so that Ray takes it to the actors by value, not by this module.
    """

    def embedder(model, device=None):
        assert device in (None, "cpu"), device  # torch sees no other here
        vectors = np.random.default_rng(1).normal(size=(len(WORDS) + 1, 16)).astype(np.float32)
        rows = {word: i for i, word in enumerate(WORDS)}

        def encode(texts):
            found = [vectors[[rows.get(word, -1) for word in text.split()]] for text in texts]
            means = np.stack([of_words.mean(axis=0) for of_words in found])
            return means / np.linalg.norm(means, axis=1, keepdims=True)

        return SimpleNamespace(encode=encode)

    class EmbedByTable(spread.Embed):
        def __init__(self, **options):
            registry.embedder = embedder  # in the actor's own process
            super().__init__(**options)

    patch.setattr(registry, "embedder", embedder)
    patch.setattr(spread, "Embed", EmbedByTable)


@pytest.fixture
def table_model(tmp_path, monkeypatch):
    """A model's folder, with a table in the model's stead."""
    embed_by_table(monkeypatch)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    return str(folder)


@pytest.fixture
def small_parts(monkeypatch):
    """Files are cut after some dozen rows, and batches too."""
    for module in (corpus, spread):
        monkeypatch.setattr(module, "PART_BYTES", 3000)
    monkeypatch.setattr(dedup, "_BATCH_ROWS", 17)
    monkeypatch.setattr(dedup, "_BATCH_ROWS_EMBEDDED", {"cores": 17, "GPUs": 17})


def outputs(folder, name):
    return [(folder / f"{name}{end}").read_bytes() for end in (".jsonl", ".rejected.jsonl")]


def test_files_that_are_read_in_parts_give_the_bytes_of_one_process(
    ray_session, tmp_path, small_parts
):
    texts = made(300)
    lines = [write(tmp_path / f"in-{i}.jsonl", texts[i::3]) for i in range(2)]
    with open(lines[0], "a") as stream:
        stream.write("{}\n" + json.dumps({"instruction": "the last of all"}))
    packed = tmp_path / "in-2.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps({"instruction": texts[2]}) + "\n").encode() * 40))
    against = write(tmp_path / "against.jsonl", made(60, seed=1))
    for shards in (1, 2):
        report = dedup_files(
            [*lines, str(packed)], str(tmp_path / f"{shards}.jsonl"), cosine=None, shards=shards,
            against=[against], skip_unreadable=True,
        )  # fmt: skip
        assert report.rows == 242
        assert report.rejected["unreadable"] == 1
        assert 30 < report.kept < 210
    assert outputs(tmp_path, 1) == outputs(tmp_path, 2)


def test_row_groups_are_read_apart_and_embedded_with_the_same_result(
    ray_session, tmp_path, small_parts
):
    table = pa.table({"instruction": made(200), "n": range(200)})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=30)
    model = static_model(tmp_path / "model")
    reports = []
    for name, embedders in (("one", None), ("ray", 1)):
        report = dedup_files(
            [str(tmp_path / "in.parquet")], str(tmp_path / f"{name}.parquet"),
            embedder=model, embedders=embedders,
        )  # fmt: skip
        assert report.rejected["cosine"] > 5
        reports.append(report)
    assert reports[0].rejected == reports[1].rejected
    for name in ("{}.parquet", "{}.rejected.parquet"):
        one, ray = (pq.read_table(tmp_path / name.format(of)) for of in ("one", "ray"))
        assert one.equals(ray)


def test_what_cannot_be_read_is_named_by_its_line_of_the_file(ray_address, tmp_path, small_parts):
    path = write(tmp_path / "in.jsonl", made(200))
    lines = (tmp_path / "in.jsonl").read_text().splitlines()
    lines[250] = "nothing"
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    options = ("--to", "kept.jsonl", "--cosine", "off")
    done = invoke("dedup", path, *options, "--shards", 2, cwd=tmp_path)
    assert_one_line_error(done, "in.jsonl, line 251: not valid JSON")
    assert {item.name for item in tmp_path.iterdir()} == {"in.jsonl"}
    damaged = gzip.compress((json.dumps({"instruction": "a b c"}) + "\n").encode() * 9999)
    (tmp_path / "in.jsonl.gz").write_bytes(damaged[:-20])
    done = invoke("dedup", "in.jsonl.gz", *options, "--address", ray_address, cwd=tmp_path)
    assert_one_line_error(done, "in.jsonl.gz")
    assert not list(tmp_path.glob("kept*"))


def test_an_embedder_that_dies_does_not_change_the_result(
    ray_session, tmp_path, small_parts, table_model
):
    inputs = [write(tmp_path / "in.jsonl", made(400))]
    killed = []

    def kill(progress):
        if progress.rows > 50 and not killed:
            embedders = list(rays_processes("ray::MapWorker(MapBatches(Embed"))
            embedders[-1].kill()
            killed.append(embedders[-1].pid)

    dedup_files(inputs, str(tmp_path / "one.jsonl"), embedder=table_model)
    spread_over = {"embedders": 2, "listen": kill}
    dedup_files(inputs, str(tmp_path / "ray.jsonl"), embedder=table_model, **spread_over)
    assert killed
    assert outputs(tmp_path, "one") == outputs(tmp_path, "ray")


KILLED = """
import os, signal, sys
import pytest
from ray_si.corpora import dedup, index, spread
from ray_si.storage import corpus
from tests.corpora.test_spread import embed_by_table
embed_by_table(pytest.MonkeyPatch())
corpus.PART_BYTES = spread.PART_BYTES = 3000
index.COMMIT_BATCHES = 2
dedup._BATCH_ROWS_EMBEDDED = {"cores": 17, "GPUs": 17}
def listen(progress):
    if progress.rows >= 150:
        os.kill(os.getpid(), signal.SIGKILL)
dedup.dedup_files(["s3://data/in.jsonl"], "s3://data/kept.jsonl", index="s3://data/seen",
                  embedder=sys.argv[1], embedders=1, listen=listen)
"""


def test_a_job_whose_driver_was_killed_embeds_no_batch_again(
    ray_address, s3, s3_server, tmp_path, small_parts, table_model, monkeypatch
):
    s3.upload_file(write(tmp_path / "in.jsonl", made(400)), "data", "in.jsonl")
    arguments = [sys.executable, "-c", KILLED, table_model]
    environment = os.environ | s3_server | {"RAY_ADDRESS": ray_address}
    done = subprocess.run(arguments, env=environment, cwd=ROOT, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL

    embedded = []
    read = SpreadReader.read

    def counted(self, corpora, known=None):
        for item in read(self, corpora, known):
            embedded.extend(item.batch.texts if item.embeddings is not None else [])
            yield item

    monkeypatch.setattr(SpreadReader, "read", counted)
    monkeypatch.setattr(corpus_index, "COMMIT_BATCHES", 2)
    spread_over = {"embedders": 1, "shards": 2}
    for name, place, options in (("kept", "seen", spread_over), ("whole", "other", {})):
        dedup_files(
            ["s3://data/in.jsonl"], f"s3://data/{name}.jsonl", index=f"s3://data/{place}",
            embedder=table_model, **options,
        )  # fmt: skip
    assert 100 < len(embedded) < 300

    def bodies(name):
        for end in (".jsonl", ".rejected.jsonl"):
            yield s3.get_object(Bucket="data", Key=name + end)["Body"].read()

    assert list(bodies("kept")) == list(bodies("whole"))
    # a process of its own takes over what Ray began
    again = dedup_files(
        ["s3://data/in.jsonl"], "s3://data/again.jsonl", index="s3://data/seen",
        embedder=table_model,
    )  # fmt: skip
    assert again.kept == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--embedders", 0), "--embedders must be at least 1, not 0"),
        (("--embedder-gpus", 1.5), "--embedder-gpus is a share of a GPU, 0.01 to 1, not 1.5"),
        (("--embedders", 2, "--cosine", "off"), "without the cosine gate nothing is embedded"),
        (("--discard-unfinished",), "--discard-unfinished is about the job of an --index"),
        (("--gate-gpus", 1.5), "--gate-gpus is a share of a GPU, 0.01 to 1, not 1.5"),
        (("--gate-gpus", 1, "--cosine", "off"), "without the cosine gate nothing is embedded"),
        (("--gate-gpus", 0.5), "has 0 GPUs: with --gate-gpus 0.5 there is room for 0 shards, and"),
        (("--embedders", 8), "has 4 cores: with --embedder-gpus 0 there is room for 7 embedders"),
        (("--embedder-gpus", 0.5), "has 4 cores and 0 GPUs: with --embedder-gpus 0.5 there is"),
    ],
)
def test_options_that_do_not_fit_are_one_line(ray_address, tmp_path, options, message):
    write(tmp_path / "in.jsonl", made(20))
    model = static_model(tmp_path / "model")
    arguments = ("in.jsonl", "--to", "kept.jsonl", "--embedder", model, "--address", ray_address)
    done = invoke("dedup", *arguments, *options, cwd=tmp_path)
    assert_one_line_error(done, message)
    assert not list(tmp_path.glob("kept*"))


@pytest.mark.parametrize(
    ("shards", "gpus", "room"),
    [(1, 0.0, 4), (1, 0.5, 3), (2, 0.5, 2), (4, 0.5, 0), (5, 0.25, None), (3, 1.0, None)],
)
def test_embedders_take_what_the_gates_shards_leave_of_gpus(monkeypatch, shards, gpus, room):
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}]
    monkeypatch.setattr("ray_si.corpora.spread.ray.nodes", lambda: nodes)
    if gpus == 1.0:
        with pytest.raises(ConfigError, match="has 2 GPUs: with --gate-gpus 1 there is room for 2"):
            free_cards(shards, gpus)
        return
    cards = free_cards(shards, gpus)
    if room:
        assert Embedders.fitting("m", None, 0.5, cards).count == room
        return
    share = 0.5 if room == 0 else 0.75
    with pytest.raises(ConfigError, match=r"and 2 GPUs, .* of them free: .* room for 0 embedders"):
        Embedders.fitting("m", None, share, cards)


@pytest.fixture(scope="module")
def a_gpu(ray_address):
    """A node with a GPU and a core, for the tests from here on."""
    with node_with_gpus(ray_address, 1, cpus=1):
        yield


def test_a_gpu_that_torch_does_not_see_leaves_nothing_behind(a_gpu, tmp_path):
    path = write(tmp_path / "in.jsonl", made(50))
    options = {"embedder": static_model(tmp_path / "model"), "embedders": 1, "gate_gpus": 0.5}
    with pytest.raises(GateError, match=r"^gate shard 0 of 1: there is no device cuda"):
        dedup_files([path], str(tmp_path / "kept.jsonl"), **options)
    assert not list(tmp_path.glob("kept*"))


def test_embedders_with_a_share_of_a_gpu_give_the_bytes_of_one_process(
    a_gpu, tmp_path, small_parts, table_model
):
    path = write(tmp_path / "in.jsonl", made(80))
    for name, options in (("with", {"embedders": 1, "embedder_gpus": 0.5}), ("without", {})):
        dedup_files([path], str(tmp_path / f"{name}.jsonl"), embedder=table_model, **options)
    assert outputs(tmp_path, "with") == outputs(tmp_path, "without")


def test_text_of_which_an_embedder_makes_nan_is_one_line(ray_session, tmp_path):
    model = static_model(tmp_path / "model")
    (weights,) = (tmp_path / "model").rglob("*.safetensors")
    from safetensors.numpy import load_file, save_file

    save_file({k: v * np.nan for k, v in load_file(weights).items()}, weights)
    write(tmp_path / "in.jsonl", made(20))
    arguments = ("--to", "kept.jsonl", "--embedder", model, "--embedders", 1)
    done = invoke("dedup", "in.jsonl", *arguments, cwd=tmp_path)
    assert_one_line_error(done, "gives NaN for")


def test_an_embedder_that_cannot_start_is_an_error_of_its_rows_and_not_started_for_ever(tmp_path):
    table = pa.Table.from_pylist([{"part": 0, "number": 0, "batch": b""}], spread._BATCHES)
    (row,) = spread.Embed(str(tmp_path / "no-model"), "cpu", None)(table).to_pylist()
    assert row["error"] == "EngineError"
    assert "no-model" in row["message"]
