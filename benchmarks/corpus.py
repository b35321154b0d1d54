"""A corpus of made-up instructions of any size, with the word statistics of real ones.

    python benchmarks/corpus.py 1000000 > texts.jsonl      one {"instruction": ...} a line
    python benchmarks/corpus.py 1000000 --statistics       what this page says of the corpus

Every text is a pure function of seed and position, so a pool and the queries after it are parts of
one stream, any part can be made without the rest, and a part is the same whatever came before.

Words follow Zipf-Mandelbrot, p ~ (rank + 1)**-1.1, down to rank 7,873 and fall off as rank**-1.77
beyond, the two regimes of English (Gerlach & Altmann 2013, PRX 3, 021006), so the vocabulary grows
as in real text. The head and the lengths (log-normal, cut to 4-60) were fitted by hand to
real instructions: the 175 seed tasks of the Self-Instruct paper, and those together with the
paper's 252 user-oriented tasks and our 186 bundled seeds (613).

                        paper's seeds   613 instructions   613 texts   1,000,000 texts
    tokens, mean                 13.1               15.0        15.0              14.9
    tokens, median                 11                 13          13                13
    sd of log(tokens)            0.50               0.48        0.47              0.47
    most frequent word          9.2 %              8.7 %       7.8 %             7.7 %
    top 10                     28.4 %             27.8 %      29.4 %            29.1 %
    top 100                    62.5 %             55.6 %      55.2 %            54.5 %
    distinct words                727              2,100       2,727           225,156

(613 texts: mean of twelve seeds. Stop words are 44 % of the real tokens.) What is lacking is
syntax: real instructions share turns of phrase ("Write a short ..."), these share words by chance.

One text in 20 is a near-duplicate: an earlier text, each of whose words is substituted, deleted,
followed by a new one or swapped with the next at a rate drawn from 0-0.7. That spreads its ROUGE-L
with the original over 0.53-1.0 (5th and 95th percentile, median 0.79): two in three are above 0.7,
one in eight is an exact copy.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

NEAR_DUPLICATES = 0.05
MAX_EDIT_RATE = 0.7
MEDIAN_LENGTH, LOG_SD, SHORTEST, LONGEST = 13.3, 0.48, 4, 60
VOCABULARY = 2_000_000
HEAD_EXPONENT, HEAD_SHIFT, TAIL_EXPONENT, TAIL_RANK = 1.1, 1, 1.77, 7873

_CHUNK = 1 << 16
"""Texts made at once: a few tens of megabytes of arrays."""
_LENGTH, _WORD, _IS_DUPLICATE, _SOURCE, _RATE, _EDIT, _NEW_WORD = range(7)
"""The independent streams of random numbers."""


@functools.cache
def _words() -> np.ndarray:
    """Pronounceable words by rank, shorter ones first, shape (VOCABULARY,)."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    spelled = itertools.chain.from_iterable(
        map("".join, itertools.product(syllables, repeat=length)) for length in itertools.count(1)
    )
    return np.array(list(itertools.islice(spelled, VOCABULARY)), object)


@functools.cache
def _word_cdf() -> np.ndarray:
    """Cumulative probabilities of the words by rank, shape (VOCABULARY,)."""
    ranks = np.arange(1, VOCABULARY + 1)
    head = (np.minimum(ranks, TAIL_RANK) + HEAD_SHIFT) ** -HEAD_EXPONENT
    cdf = np.cumsum(head * np.maximum(ranks / TAIL_RANK, 1) ** -TAIL_EXPONENT)
    return cdf / cdf[-1]


@functools.cache
def _length_cdf() -> np.ndarray:
    """Cumulative probabilities of the lengths SHORTEST .. LONGEST."""
    normal = NormalDist(math.log(MEDIAN_LENGTH), LOG_SD)
    edges = [normal.cdf(math.log(n + 0.5)) for n in range(SHORTEST - 1, LONGEST + 1)]
    return (np.array(edges[1:]) - edges[0]) / (edges[-1] - edges[0])


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014) on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(seed: int, stream: int, text: np.ndarray, place: np.ndarray | int = 0) -> np.ndarray:
    """Random numbers in [0, 1), each a pure function of its arguments."""
    key = _mix(np.array([seed * 16 + stream + 1], np.uint64))
    z = _mix(text.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key)
    z = _mix(z + np.asarray(place, np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return (z >> np.uint64(11)) * 2.0**-53


def _is_duplicate(seed: int, text: np.ndarray) -> np.ndarray:
    return (_uniform(seed, _IS_DUPLICATE, text) < NEAR_DUPLICATES) & (text > 0)


def _ranks(seed: int, first: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the words of texts first .. first+n-1 one after another, and the n word counts."""
    ids = np.arange(first, first + n)
    origin = ids.copy()
    while (copied := _is_duplicate(seed, origin)).any():
        origin[copied] = _uniform(seed, _SOURCE, origin[copied]) * origin[copied]

    lengths = SHORTEST + np.searchsorted(_length_cdf(), _uniform(seed, _LENGTH, origin), "right")
    starts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(starts, lengths)

    def draw(stream: int, text: np.ndarray, where: np.ndarray | slice) -> np.ndarray:
        return np.searchsorted(
            _word_cdf(), _uniform(seed, stream, text[where], place[where]), "right"
        )

    ranks = draw(_WORD, np.repeat(origin, lengths), slice(None))
    owner = np.repeat(ids, lengths)

    rate = np.where(origin != ids, MAX_EDIT_RATE * _uniform(seed, _RATE, ids), 0).repeat(lengths)
    dice = _uniform(seed, _EDIT, owner, place)
    edit = np.where(dice < rate, np.floor(4 * dice / np.maximum(rate, 1e-9)), -1)
    substituted, deleted, followed, swapped = (np.flatnonzero(edit == kind) for kind in range(4))
    ranks[substituted] = draw(_NEW_WORD, owner, substituted)
    swapped = swapped[place[swapped] + 1 < lengths[owner[swapped] - first]]
    ranks[swapped], ranks[swapped + 1] = ranks[swapped + 1], ranks[swapped]
    copies = np.ones_like(ranks)
    copies[deleted], copies[followed] = 0, 2
    edited = np.repeat(ranks, copies)
    edited[np.cumsum(copies)[followed] - 1] = draw(_NEW_WORD, owner, followed)
    return edited, np.add.reduceat(copies, starts)


def texts(n: int, seed: int = 0, start: int = 0) -> Iterator[str]:
    """Texts ``start`` .. ``start + n - 1`` of the corpus of this seed, made as they are asked for.

    The queries ``texts(m, seed, start=n)`` belong to the pool ``texts(n, seed)``: the
    near-duplicates among them are of texts in it.
    """
    for first in range(start, start + n, _CHUNK):
        ranks, lengths = _ranks(seed, first, min(_CHUNK, start + n - first))
        words = _words()[ranks].tolist()
        ends = np.cumsum(lengths).tolist()
        for begin, end in itertools.pairwise([0, *ends]):
            yield " ".join(words[begin:end]).capitalize() + "."


def statistics(n: int, seed: int = 0) -> dict[str, float]:
    """What the table above says of the first ``n`` texts, and the share of distinct texts."""
    counts: Counter[str] = Counter()
    lengths, distinct = [], set()
    for text in texts(n, seed):
        words = text[:-1].lower().split()
        counts.update(words)
        lengths.append(len(words))
        distinct.add(hash(text))
    shares = np.cumsum(sorted(counts.values(), reverse=True)) / counts.total()
    return {
        "tokens_mean": float(np.mean(lengths)),
        "tokens_median": float(np.median(lengths)),
        "tokens_log_sd": float(np.std(np.log(np.maximum(lengths, 1)))),
        **{f"top_{k}": float(shares[k - 1]) for k in (1, 10, 100)},
        "distinct_words": len(counts),
        "distinct_texts": len(distinct) / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--statistics", action="store_true")
    options = parser.parse_args()
    if options.statistics:
        print(json.dumps(statistics(options.n, options.seed), indent=1))
        return
    for text in texts(options.n, options.seed, options.start):
        print(json.dumps({"instruction": text}))


if __name__ == "__main__":
    main()
