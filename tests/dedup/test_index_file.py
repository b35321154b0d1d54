"""Saved indexes: they come back equal; damage and what is made to do harm are noticed."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

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


# Made to do harm ---------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    """The arrays of a sound index, and what writes changed ones to a file."""
    index = RougeIndex(0.6)
    index.add(["name three rivers", "name four long rivers", ""])
    index.save(tmp_path / "sound")
    with np.load(tmp_path / "sound") as stored:
        arrays = dict(stored)

    def write(**changes):
        made = {name: array for name, array in (arrays | changes).items() if array is not None}
        np.savez(tmp_path / "index.npz", **made)
        return tmp_path / "index.npz"

    return arrays, write


def header(**changes):
    values = {"format": 1, "threshold": "3/5", "tokenizer": "reference"} | changes
    return np.frombuffer(json.dumps(values).encode(), np.uint8)


def test_the_arrays_alone_are_a_sound_index(parts):
    assert len(RougeIndex.load(parts[1]())) == 3
    assert len(RougeIndex.load(parts[1](header=header()))) == 3


@pytest.mark.parametrize(
    "threshold",
    ["1/0", "0", "1e400", "1e999999999", "-3/5", "6/5", "1/3", "nan", "9" * 10_000, 0.6, None],
)
def test_thresholds_that_no_index_has(parts, threshold):
    with pytest.raises(ValueError, match="is damaged or not a ROUGE-L index: its threshold"):
        RougeIndex.load(parts[1](header=header(threshold=threshold)))


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"{}", b"[1]", b"7", b"\xff", b'{"format": 1, "threshold": "3/5"}']
)
def test_headers_that_are_none(parts, data):
    with pytest.raises(ValueError, match="is damaged or not a ROUGE-L index"):
        RougeIndex.load(parts[1](header=np.frombuffer(data, np.uint8)))


@pytest.mark.parametrize("tokenizer", ["klingon", 7, ["reference"], None])
def test_tokenizers_that_there_are_not(parts, tokenizer):
    with pytest.raises(ValueError, match="is damaged or not a ROUGE-L index"):
        RougeIndex.load(parts[1](header=header(tokenizer=tokenizer)))


def changed(array, at, value):
    copy = array.copy()
    copy[at] = value
    return copy


BIG = np.iinfo(np.int64).max


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("words", lambda a: a.astype(np.int64) + 10**13),
        ("words", lambda a: a.astype(np.float64)),
        ("words", lambda a: a[:, None]),
        ("words", lambda a: changed(a, 2, 0)),
        ("words", lambda a: a[:-1]),
        ("tokens", lambda a: a.astype(np.int64)),
        ("tokens", lambda a: a.astype(np.float32)),
        ("tokens", lambda a: a.astype(">i4")),
        ("tokens", lambda a: changed(a, 0, -1)),
        ("tokens", lambda a: changed(a, 0, 2**31 - 1)),
        ("tokens", lambda a: a[:-1]),
        ("offsets", lambda a: a.astype(np.float64)),
        ("offsets", lambda a: changed(a, 1, BIG)),
        ("offsets", lambda a: changed(a, 1, -BIG)),
        ("offsets", lambda a: changed(a, 0, -BIG)),
        ("offsets", lambda a: a[:0]),
        ("offsets", lambda a: np.int64(3)),
        ("starts", lambda a: changed(a, 1, BIG)),
        ("starts", lambda a: changed(a, 1, -BIG)),
        ("starts", lambda a: changed(a, 1, 0)),
        ("starts", lambda a: changed(a, -1, BIG)),
        ("starts", lambda a: a.astype(np.uint64)),
        ("starts", lambda _: None),
        ("starts", lambda _: np.array([{}], dtype=object)),
    ],
)
def test_arrays_of_other_types_shapes_and_ranges(parts, name, change):
    arrays, write = parts
    with pytest.raises(ValueError, match="is damaged or not a ROUGE-L index"):
        RougeIndex.load(write(**{name: change(arrays[name])}))


@pytest.mark.parametrize(
    "claim", ["(9999999999999,)", "(999999999999999999999,)", "(", "(" * 5000, "(-7,)", "(7,)) #"]
)
def test_arrays_whose_own_headers_lie(parts, tmp_path, claim):
    with zipfile.ZipFile(parts[1]()) as sound:
        members = {name: sound.read(name) for name in sound.namelist()}
    text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {claim}, }}\n".encode()
    data = members["tokens.npy"]
    members["tokens.npy"] = data[:8] + len(text).to_bytes(2, "little") + text + data[128:]
    with zipfile.ZipFile(tmp_path / "claim", "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    with pytest.raises(ValueError, match="is damaged or not a ROUGE-L index"):
        RougeIndex.load(tmp_path / "claim")


def _astype(array, kind):
    with np.errstate(all="ignore"):
        return array.astype(kind)


mutations = st.one_of(
    st.tuples(
        st.just("set"),
        st.integers(0, 60),
        st.one_of(st.integers(-3, 9), st.integers(-(2**63), 2**63 - 1)),
    ),
    st.tuples(st.just("cut"), st.integers(0, 60), st.just(0)),
    st.tuples(st.just("repeat"), st.integers(2, 3), st.just(0)),
    st.tuples(st.just("reverse"), st.just(0), st.just(0)),
    st.tuples(
        st.sampled_from(["<f8", ">i8", "<u8", "<i2", "?", "<U3", "<c16", "<M8[s]"]),
        st.just(0),
        st.just(0),
    ),
    st.tuples(st.just("matrix"), st.just(0), st.just(0)),
)


def mutated(array, how, at, value):
    if how == "set":
        copy = array.copy()
        if len(copy):
            copy[at % len(copy)] = np.int64(value).astype(copy.dtype)
        return copy
    if how == "cut":
        return array[: at % (len(array) + 1)]
    if how == "repeat":
        return np.tile(array, at)
    if how == "reverse":
        return array[::-1]
    return array.reshape(1, -1) if how == "matrix" else _astype(array, how)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["tokens", "offsets", "words", "starts"]), mutations),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_the_arrays_hold_it_is_refused_or_can_be_searched(parts, changes):
    arrays, write = parts
    changed_arrays = dict(arrays)
    for name, mutation in changes:
        changed_arrays[name] = mutated(changed_arrays[name], *mutation)
    try:
        index = RougeIndex.load(write(**changed_arrays))
    except ValueError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert "is damaged or not a ROUGE-L index" in message
        return
    queries = ["name three rivers", "name four long rivers", "", "another"]
    scores, ids = index.search(queries)
    assert ((ids >= -1) & (ids < len(index))).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    index.add(queries)
    assert index.search(["name four long rivers"])[0][0] == 1
