"""Texts as numbers: every token kept, unknown words told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from ray_si.dedup.tokens import TOKENIZERS, tokenize
from ray_si.dedup.vocabulary import Encoded, Vocabulary


@given(st.lists(st.text(max_size=30), max_size=8), st.sampled_from(TOKENIZERS))
@example(["a\0b", "", "\ud800 x"], "reference")
@example(["a\0é", "", "é\ud800 x\0", "B"], "auto")
def test_encoding_a_batch_keeps_each_text_s_tokens(texts, tokenizer):
    vocabulary = Vocabulary(tokenizer)
    encoded = vocabulary.encode(texts, grow=True)
    words: dict[str, int] = {}
    expected = [
        [words.setdefault(word, len(words)) for word in tokenize(text, tokenizer)] for text in texts
    ]
    found = [
        encoded.tokens[start:end].tolist()
        for start, end in zip(encoded.offsets, encoded.offsets[1:], strict=False)
    ]
    assert found == expected
    assert len(vocabulary) == len(words)
    again = Vocabulary.from_state(tokenizer, vocabulary.state()).encode(texts, grow=False)
    assert again.tokens.tolist() == encoded.tokens.tolist()


def test_unknown_words_stay_unknown_unless_the_vocabulary_may_grow():
    vocabulary = Vocabulary()
    vocabulary.encode(["one two"], grow=True)
    assert vocabulary.encode(["two three one three"], grow=False).tokens.tolist() == [1, -1, 0, -1]
    assert len(vocabulary) == 2


def test_many_words_are_told_apart():
    texts = [f"w{i} x{i}" for i in range(30_000)]
    vocabulary = Vocabulary()
    first = vocabulary.encode(texts, grow=True).tokens
    assert first.tolist() == list(range(60_000))
    assert vocabulary.encode(texts, grow=False).tokens.tolist() == first.tolist()


def test_a_text_that_is_no_string_is_named():
    with pytest.raises(TypeError, match=r"texts\[1\] is not a string but NoneType"):
        Vocabulary().encode(["fine", None], grow=True)
    with pytest.raises(TypeError, match=r"texts\[0\] is not a string but bytes"):
        Vocabulary().encode([b"raw"], grow=True)


def test_texts_can_be_taken_and_joined():
    encoded = Vocabulary().encode(["a b", "", "c", "a a a"], grow=True)
    taken = encoded.take(np.array([3, 1, 0]))
    assert (taken.tokens.tolist(), taken.offsets.tolist()) == ([0, 0, 0, 0, 1], [0, 3, 3, 5])
    joined = Encoded.concatenate([taken, encoded.first(1)])
    assert joined.tokens.tolist() == [0, 0, 0, 0, 1, 0, 1]
    assert joined.lengths.tolist() == [3, 0, 2, 2]
