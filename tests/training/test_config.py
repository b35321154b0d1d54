"""Settings of a fine-tuning: what is refused, what counts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ray_si.training.config import Training


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 3}, "must be a multiple of workers x rows_at_once"),
        ({"fsdp": {"a": 1}}, "fsdp has options, and parallel is ddp"),
        ({"parallel": "deepspeed", "gpu": True}, "needs its configuration"),
        ({"parallel": "fsdp"}, "needs gpu: true"),
        ({"lora": {"rnk": 1}}, "Extra inputs"),
        ({"epochs": True}, "no value here"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        Training(**values)


def test_what_only_places_the_work_is_no_part_of_its_identity():
    one = Training(workers=2, rows_at_once=4, log_steps=3, model="a")
    assert one.identity() == Training(model="b").identity()
    assert one.identity() != Training(epochs=1).identity()
