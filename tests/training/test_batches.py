"""Batches, beside those of TRL's own collator."""

from __future__ import annotations

import pyarrow as pa
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ray_si.training.batches import PACK, ROW, Batches, PackedBatches, packs, row_numbers
from ray_si.training.encode import IGNORED, TOKENS

PAD = 7


def table(rows):
    columns = {
        "id": [str(i) for i in range(len(rows))],
        "input_ids": rows,
        "labels": [[IGNORED, *row[1:]] for row in rows],
    }
    return pa.table(columns, TOKENS)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1), st.data())
def test_any_rows_of_any_slice_are_what_trl_makes_of_them(rows, data):
    tokens = table(rows)
    first = data.draw(st.integers(0, len(rows) - 1))
    cut = pa.concat_tables([tokens.slice(first, 1), tokens.slice(first + 1)])
    chosen = data.draw(st.lists(st.integers(0, cut.num_rows - 1), min_size=1, max_size=5))
    found = Batches(cut, PAD)([{ROW: row} for row in chosen])
    trl = DataCollatorForLanguageModeling(pad_token_id=PAD)
    expected = trl([cut.slice(row, 1).to_pylist()[0] for row in chosen])
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == torch.int64
        assert torch.equal(found[name], values)


def test_a_loader_hands_out_every_row_once():
    rows = [[i, i + 1] for i in range(23)]
    tokens = table(rows)
    loader = DataLoader(
        row_numbers(tokens), batch_size=4, shuffle=True, collate_fn=Batches(tokens, PAD)
    )
    found = sorted(row for batch in loader for row in batch["input_ids"].tolist())
    assert found == rows


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1), st.integers(9, 30)
)
def test_packs_hold_every_row_once_and_no_more_than_their_room(rows, room):
    packed = packs(table(rows), room)[PACK]
    assert sorted(row for pack in packed for row in pack) == list(range(len(rows)))
    sizes = sorted(sum(len(rows[row]) for row in pack) for pack in packed)
    assert sizes[-1] <= room
    assert len(sizes) < 2 or sizes[0] + sizes[1] > room, "two packs would have been one"


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=12))
def test_a_pack_is_its_rows_one_after_another_with_positions_of_their_own(rows):
    tokens = table(rows)
    data = packs(tokens, 16)
    batch = PackedBatches(tokens, PAD)([data[i] for i in range(len(data))])
    assert batch.keys() == {"input_ids", "position_ids", "labels"}
    for i, pack in enumerate(data[PACK]):
        end = 0
        for row in pack:
            place = slice(end, end := end + len(rows[row]))
            assert batch["input_ids"][i, place].tolist() == rows[row]
            assert batch["position_ids"][i, place].tolist() == list(range(len(rows[row])))
            assert batch["labels"][i, place].tolist() == [IGNORED, *rows[row][1:]]
        assert (batch["labels"][i, end:] == IGNORED).all()
        assert (batch["position_ids"][i, end:] == 0).all()
