"""Files that appear when all is done, or not at all; here and on S3."""

from __future__ import annotations

import _thread
import signal
import threading
from pathlib import Path

import pytest

from ray_si.errors import CorpusError
from ray_si.storage.corpus import open_corpus
from ray_si.storage.files import locate, staged
from tests.faults.flaky_s3 import FlakyS3


def stage(targets, content, error=None):
    with staged(*map(locate, map(str, targets))) as paths:
        for path in paths:
            Path(path).write_bytes(content)
        if error:
            raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(tmp_path, error):
    targets = tmp_path / "a", tmp_path / "b"
    with pytest.raises(error):
        stage(targets, b"after", error)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").write_text("before")
    with pytest.raises(error):
        stage(targets, b"after", error)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_a_target_that_cannot_be_put_in_place_takes_the_others_back(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match="cannot write"):
        stage([tmp_path / "a", tmp_path / "folder"], b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    stage([tmp_path / "link"], b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_before_the_end_leaves_s3_as_it_was(s3, error):
    with pytest.raises(error):
        stage(["s3://data/a.jsonl"], b"x" * (6 << 20), error)
    assert "Contents" not in s3.list_objects_v2(Bucket="data")
    assert not s3.list_multipart_uploads(Bucket="data").get("Uploads")


def test_an_interrupt_during_an_upload_leaves_nothing(s3, s3_server, monkeypatch):
    # where the tests run in the background of a shell, interrupts are ignored otherwise
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with FlakyS3(s3_server["AWS_ENDPOINT_URL"], share=0) as proxy:  # counts, and is slow enough
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        over = threading.Event()

        def interrupt():
            while not over.wait(0.001):
                if proxy.requests["PUT"]:  # the first of ten parts
                    _thread.interrupt_main()
                    return

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                stage(["s3://data/a.jsonl"], b"x" * (96 << 20))
        finally:
            over.set()
            thread.join()
            signal.signal(signal.SIGINT, before)
    assert "Contents" not in s3.list_objects_v2(Bucket="data")
    assert not s3.list_multipart_uploads(Bucket="data").get("Uploads")


def test_an_upload_that_fails_keeps_what_was_there_and_takes_the_others_back(s3):
    s3.put_object(Bucket="data", Key="b", Body=b"before")
    with pytest.raises(CorpusError, match="no such bucket"):
        stage(["s3://data/a", "s3://gone/b", "s3://data/b"], b"after")
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="data")["Contents"]] == ["b"]
    assert s3.get_object(Bucket="data", Key="b")["Body"].read() == b"before"


def test_s3_troubles_are_told_apart(s3, monkeypatch):
    with pytest.raises(CorpusError, match="there is no bucket absent"):
        open_corpus(locate("s3://absent/a.jsonl"), "text")
    with pytest.raises(CorpusError, match="there is no file s3://data/a"):
        open_corpus(locate("s3://data/a.jsonl"), "text")
    with pytest.raises(CorpusError, match="there is no bucket absent"):
        locate("s3://absent/a.jsonl").check_writable(overwrite=False)
    for location in ("s3://data", "s3://data/folder/", "s3:///a.jsonl"):
        with pytest.raises(CorpusError, match="write s3://bucket/path/to/file"):
            locate(location)
    with pytest.raises(CorpusError, match="only local files and s3://"):
        locate("gs://data/a.jsonl")
    s3.put_object(Bucket="data", Key="a.jsonl", Body=b'{"text": "a"}\n')
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(CorpusError, match=r"access denied; check \$AWS_ACCESS_KEY_ID"):
        open_corpus(locate("s3://data/a.jsonl"), "text")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(CorpusError, match="S3 could not be reached"):
        open_corpus(locate("s3://data/a.jsonl"), "text")
