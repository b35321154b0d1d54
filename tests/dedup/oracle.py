"""Slow definitions that the gate must equal, and corpora with many texts near the threshold."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from ray_si.dedup.tokens import tokenize

WORDS = ["red", "green", "blue", "one", "two", "10", "a", "Ä"]
THRESHOLDS = st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0])


def lcs(a, b):
    """Length of the longest common subsequence, by the textbook table."""
    row = [0] * (len(b) + 1)
    for x in a:
        previous, row = row, [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(previous[j + 1], row[j]))
    return row[-1]


def slow_f(a, b, tokenizer="auto"):
    """ROUGE-L F as a fraction."""
    x, y = tokenize(a, tokenizer), tokenize(b, tokenizer)
    return Fraction(2 * lcs(x, y), len(x) + len(y)) if x and y else Fraction(0)


def nearest(pool, text, threshold):
    """(score, id) of the earliest text that is nearest, if above the threshold; else (0, -1)."""
    best = (Fraction(0), -1)
    for i, other in enumerate(pool):
        score = slow_f(text, other)
        if score > Fraction(str(threshold)) and score > best[0]:
            best = (score, i)
    return best


def one_by_one(pool, texts, threshold):
    """The definition of the gate: accepted indices, and (score, id) of every refused text."""
    pool, accepted, refused = list(pool), [], {}
    for i, text in enumerate(texts):
        score, match = nearest(pool, text, threshold)
        if match < 0:
            accepted.append(i)
            pool.append(text)
        else:
            refused[i] = (score, match)
    return accepted, refused


@st.composite
def corpora(draw, max_size=30, max_words=12):
    """Texts of which many are edits of earlier ones, repeated and empty ones included."""
    words = st.sampled_from(WORDS)
    texts = []
    for _ in range(draw(st.integers(0, max_size))):
        if texts and draw(st.booleans()):
            text = draw(st.sampled_from(texts)).split()
            for _ in range(draw(st.integers(0, 3))):
                at = draw(st.integers(0, len(text)))
                if draw(st.booleans()):
                    text.insert(at, draw(words))
                else:
                    del text[at : at + 1]
        else:
            text = draw(st.lists(words, max_size=max_words))
        texts.append(" ".join(text))
    return texts
