"""Texts inside longer ones: what is found equals what comparing every run of words finds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from ray_si.dedup import NgramIndex
from ray_si.dedup.exclusions.ngrams import LETTERS, SHORTEST
from ray_si.dedup.tokens import tokenize

WORDS = 9  # few, so that small examples hold some
VOCABULARY = ["a", "b", "c", "Dé", "1"]

SENTENCES = st.lists(st.sampled_from(VOCABULARY), max_size=16).map(" ".join)
MIXED = st.lists(st.sampled_from([*VOCABULARY, "水", "山", "ก็", "?!"]), max_size=30).map(" ".join)


def _needle(tokens):
    """How many tokens of a text another must have in a row; None for one that is too short."""
    letters = sum(token[0] in "水山ก" for token in tokens)
    factor = LETTERS if 2 * letters > len(tokens) else 1
    return None if len(tokens) < SHORTEST * factor else min(len(tokens), WORDS * factor)


def _oracle(added, text):
    """The first run of the text, by its start, that one of those added has: the earliest of them,
    and the share of it around there."""
    tokens = tokenize(text)
    texts = [tokenize(other) for other in added]
    for start in range(len(tokens)):
        places = [
            (id_, place)
            for id_, other in enumerate(texts)
            if (length := _needle(other)) and start + length <= len(tokens)
            for place in range(len(other) - length + 1)
            if other[place : place + length] == tokens[start : start + length]
        ]
        if places:
            id_, place = min(places)
            other = texts[id_]
            left = 0
            while min(start, place) > left and tokens[start - left - 1] == other[place - left - 1]:
                left += 1
            right = 0
            while (
                start + right < len(tokens)
                and place + right < len(other)
                and tokens[start + right] == other[place + right]
            ):
                right += 1
            return id_, (left + right) / len(other)
    return None


@given(st.lists(MIXED, max_size=6), st.lists(MIXED, max_size=6), st.integers(0, 6))
def test_found_are_the_runs_that_comparing_everything_finds(added, texts, cut):
    texts = [*texts, *(f"c 1 {other} 水 b" for other in added)]
    index = NgramIndex(WORDS)
    index.add(added[:cut])
    index.add(added[cut:])
    assert len(index) == len(added)
    found = {run.index: (run.text_id, run.share) for run in index.find(texts)}
    expected = {i: hit for i, text in enumerate(texts) if (hit := _oracle(added, text))}
    assert found == expected


@given(st.lists(SENTENCES, max_size=8), st.lists(SENTENCES, max_size=8), st.integers(0, 8))
def test_batches_do_not_matter(added, texts, cut):
    index = NgramIndex(WORDS)
    index.add(added)
    parts = [(0, texts[:cut]), (cut, texts[cut:])]
    one_by_one = [
        (start + run.index, run.text_id, run.share)
        for start, part in parts
        for run in index.find(part)
    ]
    assert [(r.index, r.text_id, r.share) for r in index.find(texts)] == one_by_one


QUESTION = (
    "Melina sells a third of her apples in the morning and half of the rest after lunch. She has "
    "ten left. With how many did she begin?"
)
PREAMBLE = (
    "You are a patient teacher of mathematics who writes down every step of a solution, explains "
    "it to a child of ten, and ends with a line that holds nothing but the answer itself. "
)


def _has(text, added=QUESTION, words=13, **options):
    index = NgramIndex(words, **options)
    index.add([added])
    return bool(index.find([text]))


def test_a_question_behind_a_preamble_is_found_whatever_its_case_and_marks():
    assert _has(PREAMBLE + QUESTION)
    assert _has(f"{PREAMBLE}\n\n**{QUESTION.upper().replace(',', ' -')}** Think first.")
    (run,) = _index().find([PREAMBLE + QUESTION])
    assert (run.index, run.text_id, run.share) == (0, 0, 1.0)


def _index():
    index = NgramIndex()
    index.add([QUESTION])
    return index


def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not():
    words = QUESTION.split()
    (run,) = _index().find([f"Once {' '.join(words[3:16])} and so on."])
    assert run.share == pytest.approx(13 / len(words))
    assert not _has(f"Once {' '.join(words[3:15])} and so on.")


def test_short_texts_are_looked_for_whole_down_to_eight_words():
    eight = "Name two rivers that flow into the Danube."
    assert len(tokenize(eight)) == SHORTEST
    assert _has(f"Please: {eight} Then rest.", eight)
    assert not _has("Please: name two rivers that flow into the Elbe.", eight)
    seven = "Name two rivers that reach the Danube."
    assert not _has(f"Please: {seven} Then rest.", seven)


def test_scripts_without_spaces_go_by_letters_twice_as_many():
    chinese = "小明上午卖掉了三分之一的苹果，午饭后又卖掉了剩下的一半，还剩十个。"
    assert _has(f"请你像老师一样一步一步地解释，{chinese}他原来有多少个苹果？", chinese)
    letters = tokenize(chinese)
    assert not _has("".join(letters[:25]), chinese)
    assert _has("".join(letters[:26]), chinese)
    thai = "แม่ค้าขายแอปเปิ้ลไปหนึ่งในสามในตอนเช้าและขายครึ่งหนึ่งของที่เหลือ"
    assert _has(f"ช่วยอธิบายทีละขั้นตอน {thai} เหลือกี่ผล", thai)


def test_nothing_is_found_in_or_of_nothing():
    assert NgramIndex().find(["", QUESTION]) == []
    index = _index()
    assert index.find([]) == index.find(["", "?!", "\0", "\ud800"]) == []
    index.add(["", "?!"])
    assert len(index) == 3


def test_random_texts_of_a_large_vocabulary_share_nothing():
    rng = random.Random(0)
    texts = [" ".join(str(rng.randrange(300)) for _ in range(60)) for _ in range(2000)]
    index = NgramIndex(SHORTEST)
    index.add(texts[:1000])
    assert index.find(texts[1000:]) == []


def test_fewer_than_eight_words_are_refused():
    with pytest.raises(ValueError, match="at least 8"):
        NgramIndex(7)
