"""Training rows: what they keep of thoughts."""

from __future__ import annotations

import pyarrow.parquet as pq

from ray_si.config.file import parse_config
from tests.run.finished import finished_run


def _columns(location, **reasoning):
    config = parse_config({"reasoning": reasoning}).model_dump(mode="json")
    completion = "<plan>\nA draft.\n</plan>\nInput: a\nOutput: b"
    finished_run(location, 2, completion=completion, config={"reasoning": config["reasoning"]})
    return pq.read_table(location / "data").to_pydict()


def test_thoughts_are_dropped_unless_they_are_to_be_kept(tmp_path):
    dropped = _columns(tmp_path / "dropped", tags=["plan"])
    kept = _columns(tmp_path / "kept", tags=["plan"], keep=True)
    assert "reasoning" not in dropped
    assert set(kept.pop("reasoning")) == {"A draft."}
    assert kept == dropped


def test_where_there_was_no_thought_the_column_is_null(tmp_path):
    kept = _columns(tmp_path / "kept", tags=[["BEGIN", "END"]], keep=True)
    assert set(kept["reasoning"]) == {None}
