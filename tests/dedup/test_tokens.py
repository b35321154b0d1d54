"""Tokens: the reference's, Unicode ones, and the batch form of both."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st
from rouge_score import tokenizers

from ray_si.dedup.tokens import tokenize
from ray_si.dedup.vocabulary import Vocabulary


@given(st.text())
@example("İstanbul K 10\0x ẞ _a-b")
def test_reference_tokens_equal_the_reference_implementation(text):
    assert tokenize(text, "reference") == tokenizers.DefaultTokenizer(use_stemmer=False).tokenize(
        text
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Привет, МИР!", ["привет", "мир"]),
        ("今天天气very好", ["今", "天", "天", "气", "very", "好"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("اكتب ١٢ سطرا", ["اكتب", "١٢", "سطرا"]),
        ("Straße ﬁn", ["strasse", "fin"]),
        ("snake_case 3.5", ["snake", "case", "3", "5"]),
        ("  \n", []),
    ],
)
def test_unicode_tokens_are_letters_and_digits_of_any_script(text, tokens):
    assert tokenize(text, "unicode") == tokens
    assert tokenize(text, "reference") != tokens or text.isascii()


def test_an_unknown_tokenizer_is_refused():
    with pytest.raises(ValueError, match="auto, reference, unicode"):
        Vocabulary("whitespace")
