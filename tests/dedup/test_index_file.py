"""Saved indexes: they come back equal, and damage is noticed."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from ray_si.dedup import RougeIndex


@pytest.fixture
def saved(tmp_path):
    index = RougeIndex(0.6)
    index.add([f"list {i} good reasons to visit place {i % 7}" for i in range(50)] + [""])
    index.save(tmp_path / "pool.index")
    return index, tmp_path / "pool.index"


def test_a_saved_index_comes_back_equal(saved):
    index, path = saved
    loaded = RougeIndex.load(path, threshold=0.6, tokenizer="auto")
    assert len(loaded) == 51
    queries = ["list 3 good reasons to visit place 9", "list new words", ""]
    for a, b in zip(loaded.search(queries), index.search(queries), strict=True):
        assert a.tolist() == b.tolist()
    for each in (loaded, index):
        each.add(["list new words here"])
    assert loaded.search(queries)[1].tolist() == index.search(queries)[1].tolist()
    assert [p.name for p in path.parent.iterdir()] == ["pool.index"]


def test_an_index_of_another_threshold_or_tokenizer_is_refused(saved):
    with pytest.raises(ValueError, match=r"made for threshold 0\.6, not 0\.7"):
        RougeIndex.load(saved[1], threshold=0.7)
    with pytest.raises(ValueError, match="made with the auto tokenizer, not unicode"):
        RougeIndex.load(saved[1], tokenizer="unicode")


def test_every_damage_to_a_file_is_noticed(saved, tmp_path):
    data = saved[1].read_bytes()
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged"
    for end in [0, 1, 100, len(data) // 2, len(data) - 1]:
        damaged.write_bytes(data[:end])
        with pytest.raises(ValueError, match="is damaged or not a ROUGE-L index"):
            RougeIndex.load(damaged)
    noticed = 0
    for at in rng.integers(0, len(data), 80):
        flipped = bytearray(data)
        flipped[at] ^= 0xFF
        damaged.write_bytes(flipped)
        try:
            loaded = RougeIndex.load(damaged)
        except ValueError as error:
            noticed += "is damaged or not a ROUGE-L index" in str(error)
        else:  # a byte that the zip format itself does not read, such as a time stamp
            assert loaded.most_similar(["list 3 good"], 51) == saved[0].most_similar(
                ["list 3 good"], 51
            )
    assert noticed > 40


def test_something_else_is_no_index(tmp_path):
    (tmp_path / "text").write_text("not an index")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    for name in ("text", "other.npz", "empty.zip"):
        with pytest.raises(ValueError, match="is damaged or not a ROUGE-L index"):
            RougeIndex.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        RougeIndex.load(tmp_path / "absent")


def test_a_file_of_a_newer_version_says_so(saved, monkeypatch):
    from ray_si.dedup import index_file

    monkeypatch.setattr(index_file, "_FORMAT", 99)
    saved[0].save(saved[1])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="its format is 99"):
        RougeIndex.load(saved[1])


def test_a_failed_save_leaves_what_was_there(saved, monkeypatch):
    index, path = saved
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        index.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["pool.index"]
