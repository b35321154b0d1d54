"""Sampling parameters by purpose."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.config.sections.generator import SamplingByPurpose

USUAL = SamplingByPurpose()


def sampling(**values):
    return parse_config({"generator": {"sampling": values}}).generator.sampling


@pytest.mark.parametrize("purpose", SamplingByPurpose.model_fields)
def test_a_key_that_is_set_leaves_the_others_as_the_purpose_has_them(purpose):
    usual = getattr(USUAL, purpose)
    for key, value in {"max_tokens": 1000, "temperature": 1.5, "top_p": 0.4}.items():
        found = sampling(**{purpose: {key: value}})
        assert found == USUAL.model_copy(
            update={purpose: usual.model_copy(update={key: value})},
        )
        assert getattr(found, purpose).model_fields_set == {key}


def test_what_stands_there_in_full_is_taken_as_it_is():
    classification = {"temperature": 0.7, "top_p": 1.0, "stop": ("\n",)}
    found = sampling(classification=classification).classification
    assert {key: getattr(found, key) for key in classification} == classification
    assert sampling(**USUAL.model_dump(mode="json")) == USUAL
