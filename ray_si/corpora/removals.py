"""Removals of any deduplication tool, held against exact ROUGE-L and cosine similarity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from ray_si.corpora.options import check_thresholds
from ray_si.dedup import CosineIndex, RougeIndex
from ray_si.dedup.cosine.scalar import cosine as cosine_of, normalized
from ray_si.dedup.deduplicator import Encoder
from ray_si.dedup.rouge import rouge_l_of_pairs
from ray_si.dedup.tokens import Tokenizer
from ray_si.engines import registry
from ray_si.errors import ConfigError, CorpusError
from ray_si.storage.corpus import Corpus, format_of, listed, open_corpus
from ray_si.storage.corpus_writer import open_writer
from ray_si.storage.files import locate, staged

Form = Literal["pairs", "clusters", "kept"]

_BATCH = 10_000
SAMPLES = 10
"""Unfounded removals that a report shows."""


class Removal(NamedTuple):
    """A text that a tool removed, and the text that it kept instead.

    ``others`` are the remaining members of its cluster, where the tool gave clusters.
    """

    text: str
    kept: str
    others: list[str]


@dataclass(frozen=True)
class Unfounded:
    """A removal of what is no near-duplicate.

    ``kept`` is the text that was kept instead, or the nearest kept one by ROUGE-L; the scores are
    with it, the cosine None where it was not asked for.
    """

    text: str
    kept: str | None
    rouge: float | None
    cosine: float | None


@dataclass
class RemovalReport:
    """What a tool's removals came to.

    ``by_rouge`` and ``by_cosine`` are near-duplicates of what was kept, by ROUGE-L or only by the
    cosine; ``chained`` those of another member of their cluster alone; ``unfounded`` the rest.
    ``samples`` are the first of these. ``unknown`` are rows of a list of kept ones that the corpus
    does not have.
    """

    form: Form
    removals: int = 0
    by_rouge: int = 0
    by_cosine: int = 0
    chained: int = 0
    unfounded: int = 0
    unknown: int = 0
    samples: list[Unfounded] = field(default_factory=list)


@dataclass(frozen=True)
class Gate:
    """What makes two texts near-duplicates; ``encode`` is needed for the cosine."""

    rouge: float = 0.7
    cosine: float | None = 0.9
    tokenizer: Tokenizer = "auto"
    encode: Encoder | None = None

    def scores(
        self, left: Sequence[str], right: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """ROUGE-L F and, of the pairs that it does not decide (else NaN), the cosine; (n,)."""
        rouge = rouge_l_of_pairs(left, right, self.tokenizer)
        if self.cosine is None or self.encode is None:
            return rouge, None
        cosines = np.full(len(left), np.nan)
        rest = np.flatnonzero(rouge <= self.rouge).tolist()
        if rest:
            texts = list(dict.fromkeys(side[i] for side in (left, right) for i in rest))
            vectors = dict(zip(texts, normalized(self.encode(texts)), strict=True))
            for i in rest:
                cosines[i] = cosine_of(vectors[left[i]], vectors[right[i]])
        return rouge, cosines

    def is_near(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """Which pairs are near-duplicates, shape (n,)."""
        rouge, cosines = self.scores(left, right)
        near = rouge > self.rouge
        return near if cosines is None else near | (cosines > self.cosine)


def verify_removals(
    path: str,
    gate: Gate,
    *,
    corpus: Sequence[str] = (),
    text_field: str = "instruction",
    id_field: str | None = None,
    listen: Callable[[Unfounded], None] = lambda unfounded: None,
) -> RemovalReport:
    """Hold the removals in a file against a gate; ``listen`` hears of each that is unfounded.

    The file's first row says its form. Rows with ``removed`` and ``kept`` are pairs. Rows with
    ``cluster``, an array, are clusters, of which the first or the one in ``kept`` was kept. Others,
    with ``text_field``, are what was kept of the ``corpus``, whose other rows were removed: each of
    these must resemble anything kept. Members of pairs and clusters are texts, or integers that
    count the rows of the ``corpus`` from 0, or with ``id_field`` values of this field in it.

    Raises CorpusError or ConfigError where files or options cannot be used.
    """
    rows = open_corpus(locate(path))
    form = _form(rows, text_field)
    report = RemovalReport(form)
    if form == "kept":
        kept = _texts(open_corpus(locate(path), text_field))
        if not corpus:
            raise ConfigError(f"{path} lists what was kept: name what it was of with --corpus")
        _check_kept(report, gate, kept, _corpus_texts(corpus, text_field), listen)
        return report
    removals = (_pairs if form == "pairs" else _clusters)(
        rows, _Members(corpus, text_field, id_field)
    )
    while batch := list(islice(removals, _BATCH)):
        _check_pairs(report, gate, batch, listen)
    return report


def _form(rows: Corpus, text_field: str) -> Form:
    _, first = next(rows.rows(), (0, {}))
    if "removed" in first and "kept" in first:
        return "pairs"
    if "cluster" in first:
        return "clusters"
    if text_field in first:
        return "kept"
    raise CorpusError(
        f"{rows.file.location}: rows have removed and kept (pairs), cluster (an array), or "
        f"{text_field} (what was kept); there are: {listed(first)}"
    )


# Pairs and clusters ----------------------------------------------------------------------------


class _Members:
    """The texts that members of pairs and clusters stand for."""

    def __init__(self, corpus: Sequence[str], text_field: str, id_field: str | None) -> None:
        if id_field is not None and not corpus:
            raise ConfigError("--id-field names a field of the corpus: name that with --corpus")
        self._texts = _corpus_texts(corpus, text_field) if corpus else None
        self._places = None if id_field is None else _places(corpus, text_field, id_field)

    def text(self, member: Any, where: str) -> str:
        """CorpusError where there is no such text."""
        if self._places is not None:
            if not isinstance(member, str | int) or member not in self._places:
                raise CorpusError(f"{where}: the corpus has no row with the id {member!r}")
            member = self._places[member]
        if isinstance(member, str):
            try:
                member.encode()
            except UnicodeEncodeError as error:
                raise CorpusError(f"{where}: a text has half a surrogate pair") from error
            return member
        if type(member) is not int:
            raise CorpusError(f"{where}: {member!r} is neither a text nor the number of a row")
        if self._texts is None:
            raise ConfigError(f"{where}: {member} is the number of a row: name --corpus")
        if not 0 <= member < len(self._texts):
            raise CorpusError(f"{where}: the corpus has {len(self._texts)} rows, and no {member}")
        return self._texts[member]


def _pairs(rows: Corpus, texts: _Members) -> Iterator[Removal]:
    for number, row in rows.rows():
        where = f"{rows.file.location}, row {number}"
        removed, kept = (texts.text(row.get(name), where) for name in ("removed", "kept"))
        yield Removal(removed, kept, [])


def _clusters(rows: Corpus, texts: _Members) -> Iterator[Removal]:
    for number, row in rows.rows():
        where = f"{rows.file.location}, row {number}"
        members = row.get("cluster")
        if not isinstance(members, list):
            raise CorpusError(f"{where}: field 'cluster' is not an array")
        if not members:
            continue
        first = members.index(row["kept"]) if row.get("kept") in members else 0
        if row.get("kept") is not None and row["kept"] not in members:
            raise CorpusError(f"{where}: {row['kept']!r} was kept and is not in the cluster")
        resolved = [texts.text(member, where) for member in members]
        for i in range(len(resolved)):
            if i != first:
                others = [text for k, text in enumerate(resolved) if k not in (i, first)]
                yield Removal(resolved[i], resolved[first], others)


def _check_pairs(
    report: RemovalReport,
    gate: Gate,
    removals: Sequence[Removal],
    listen: Callable[[Unfounded], None],
) -> None:
    removed, kept = [item.text for item in removals], [item.kept for item in removals]
    rouge, cosines = gate.scores(removed, kept)
    by_rouge = rouge > gate.rouge
    by_cosine = np.zeros(len(removals), bool) if cosines is None else cosines > gate.cosine
    report.removals += len(removals)
    report.by_rouge += int(by_rouge.sum())
    report.by_cosine += int(by_cosine.sum())
    rest = np.flatnonzero(~(by_rouge | by_cosine)).tolist()
    others = [(i, other) for i in rest for other in removals[i].others]
    near = gate.is_near([removed[i] for i, _ in others], [other for _, other in others])
    chained = {i for (i, _), is_near in zip(others, near, strict=True) if is_near}
    report.chained += len(chained)
    for i in rest:
        if i not in chained:
            cosine = None if cosines is None else float(cosines[i])
            _add(report, Unfounded(removed[i], kept[i], float(rouge[i]), cosine), listen)


# Lists of what was kept ------------------------------------------------------------------------


def _check_kept(
    report: RemovalReport,
    gate: Gate,
    kept: list[str],
    corpus: list[str],
    listen: Callable[[Unfounded], None],
) -> None:
    left = Counter(kept)
    removed = []
    for text in corpus:
        if left[text]:
            left[text] -= 1
        else:
            removed.append(text)
    report.removals, report.unknown = len(removed), left.total()
    index = RougeIndex(gate.rouge, gate.tokenizer)
    index.add(kept)
    rest = [removed[i] for i in np.flatnonzero(index.search(removed)[1] < 0)]
    report.by_rouge = len(removed) - len(rest)
    if rest and kept and gate.cosine is not None and gate.encode is not None:
        rest = _beyond_cosine(gate.cosine, gate.encode, kept, rest)
    report.by_cosine = len(removed) - report.by_rouge - len(rest)
    nearest = index.most_similar(rest[:SAMPLES], 1) if kept else []
    for i, text in enumerate(rest):
        if i < len(nearest):
            (id_,), (score,) = nearest[i].ids, nearest[i].scores
            _add(report, Unfounded(text, kept[id_], score, None), listen)
        else:
            _add(report, Unfounded(text, None, None, None), listen)


def _beyond_cosine(
    limit: float, encode: Encoder, kept: Sequence[str], texts: Sequence[str]
) -> list[str]:
    """Those of the texts whose cosine with everything kept is at most the limit."""
    index: CosineIndex | None = None
    for start in range(0, len(kept), _BATCH):
        vectors = encode(list(kept[start : start + _BATCH]))
        index = index or CosineIndex(vectors.shape[1], limit)
        index.add(vectors)
    assert index is not None
    beyond: list[str] = []
    for start in range(0, len(texts), _BATCH):
        part = texts[start : start + _BATCH]
        ids = index.search(encode(list(part)))[1]
        beyond += [text for text, id_ in zip(part, ids, strict=True) if id_ < 0]
    return beyond


def _add(report: RemovalReport, unfounded: Unfounded, listen: Callable[[Unfounded], None]) -> None:
    report.unfounded += 1
    if len(report.samples) < SAMPLES:
        report.samples.append(unfounded)
    listen(unfounded)


# Corpora ---------------------------------------------------------------------------------------


def _texts(corpus: Corpus) -> list[str]:
    return [text for batch in corpus.batches(_BATCH) for text in batch.texts]


def _corpus_texts(paths: Sequence[str], text_field: str) -> list[str]:
    return [text for path in paths for text in _texts(open_corpus(locate(path), text_field))]


def _places(paths: Sequence[str], text_field: str, id_field: str) -> dict[Any, int]:
    """Id -> place among the rows of all files; CorpusError where an id is not there, or twice."""
    places: dict[Any, int] = {}
    for path in paths:
        for number, row in open_corpus(locate(path)).rows():
            id_ = row.get(id_field)
            if not isinstance(id_, str | int) or id_ in places:
                why = "there twice" if id_ in places else "no text or integer"
                raise CorpusError(f"{path}, row {number}: the id {id_!r} is {why}")
            places[id_] = len(places)
    return places


def write_unfounded(
    path: str,
    to: str | None,
    *,
    corpus: Sequence[str] = (),
    text_field: str = "instruction",
    id_field: str | None = None,
    rouge: float = 0.7,
    cosine: float | None = 0.9,
    tokenizer: str = "auto",
    embedder: str = "all-minilm-l6-v2",
) -> RemovalReport:
    """`verify_removals` with a model, and all unfounded removals as rows of the JSONL file ``to``.

    That file appears when all is done. Raises ConfigError, CorpusError or EngineError.
    """
    check_thresholds(rouge, cosine, tokenizer)
    target = None if to is None else locate(to)
    if target is not None:
        if format_of(target.location).kind != "JSONL":
            raise ConfigError(f"--to is a JSONL file, not {to}")
        target.check_writable(overwrite=False)
    if cosine is not None:
        registry.check_embedder(embedder)
    encode = None if cosine is None else registry.embedder(embedder).encode
    gate = Gate(rouge, cosine, cast(Tokenizer, tokenizer), encode)
    options: dict[str, Any] = {"corpus": corpus, "text_field": text_field, "id_field": id_field}
    if target is None:
        return verify_removals(path, gate, **options)
    with (
        staged(target) as (temporary,),
        closing(open_writer(temporary, target.location, None)) as out,
    ):
        return verify_removals(
            path, gate, **options, listen=lambda item: out.write_rows([asdict(item)])
        )
