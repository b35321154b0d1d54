"""Near-duplicates taken out of corpora: files in, a file of what is kept and one of the rest."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from ray_si.corpora.index import CorpusIndex, IndexOptions
from ray_si.corpora.options import check_thresholds
from ray_si.corpora.reading import LocalReader, Place, Reader
from ray_si.dedup import Deduplicator, DedupResult
from ray_si.dedup.tokens import unread
from ray_si.engines import registry
from ray_si.errors import ConfigError, CorpusError
from ray_si.pipeline.gate import told_of_disk
from ray_si.pipeline.progress import DedupProgress
from ray_si.storage.corpus import (
    Corpus,
    CorpusBatch,
    format_of,
    holds_rows,
    open_corpus,
    plain_type,
)
from ray_si.storage.corpus_writer import JsonlWriter, ParquetWriter, open_writer
from ray_si.storage.files import File, locate, reading, staged

REJECTED_TEXTS = pa.schema(
    [
        ("text", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("match", pa.string()),
        ("match_source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("error", pa.string()),
        ("match_id", pa.int64()),
    ]
)
"""A row that is left out: its text, why ("rouge" or "cosine"), how close it came to what.

``match_source`` is the --against file that the match is from, else null; ``row`` counts from 1 in
``file`` (for JSONL it is the line). ``match_id`` is the match's place among the texts of --index,
where it is one of these. Of an "unreadable" row ``error`` says what is wrong, and there
is no text. Such rows of --against files come first.
"""

UNREADABLE = "unreadable"
"""The reason of rows that were passed over because they cannot be read."""

_BATCH_ROWS = 10_000
_BATCH_ROWS_EMBEDDED = {"cores": 500, "GPUs": 4096}
"""Fewer where a model reads them, so that progress shows every few seconds."""

_OPENED_AT_ONCE = 16
"""Files that are looked into at a time before any is read, which on S3 takes some requests each."""


@dataclass(frozen=True)
class DedupReport:
    """What a deduplication came to.

    ``rejected`` counts by reason, with the source where there is one, as in "rouge (eval.jsonl)".
    "unreadable" are rows that were passed over, those of --against files with these as the source.
    ``empty`` are the files without a row, ``passed_over`` inputs that are hidden or a dataset's
    metadata; ``unread`` counts the texts of which the tokenizer "reference" read less than half.
    ``indexed`` is how many texts the index has by now, None where there is none. ``peak_bytes`` is
    the most memory this process has held, other processes of Ray not included. ``was_done`` says
    that an earlier call had done all this, for the same index, and that nothing was left to do.
    """

    rows: int
    kept: int
    rejected: dict[str, int]
    empty: list[str]
    passed_over: list[str]
    unread: int
    seconds: float
    peak_bytes: int
    out: str
    rejected_out: str
    indexed: int | None
    was_done: bool = False


def dedup_files(
    inputs: Sequence[str],
    out: str,
    *,
    text_field: str = "instruction",
    rouge: float = 0.7,
    cosine: float | None = 0.9,
    against: Sequence[str] = (),
    tokenizer: str = "auto",
    shards: int = 1,
    embedder: str = "all-minilm-l6-v2",
    embedders: int | None = None,
    embedder_gpus: float = 0.0,
    gate_gpus: float = 0.0,
    address: str | None = None,
    overwrite: bool = False,
    skip_unreadable: bool = False,
    index: str | None = None,
    discard_unfinished: bool = False,
    listen: Callable[[DedupProgress], None] = lambda progress: None,
) -> DedupReport:
    """Copy the rows of ``inputs`` that resemble no earlier one, and nothing in ``against``.

    All inputs and ``out`` are of one kind, JSONL or Parquet, local or ``s3://``. The rows kept stay
    in order and unchanged (JSONL: byte for byte); the others go to ``<stem>.rejected.<ext>`` beside
    ``out`` as `REJECTED_TEXTS` says. Both files appear when all is done, or neither. Texts are in
    ``text_field``, in ``against`` files also in "instruction". ``cosine`` None switches that gate
    off. Rows that cannot be read are an error; with ``skip_unreadable`` they are passed over, and
    counted and named in what is rejected. Memory holds two batches and the gate's pool.

    More than one of ``shards``, ``embedders``, ``embedder_gpus``, ``gate_gpus`` or an ``address``
    need Ray. Ray Data reads the files there, and embeds all texts, where cosines are compared, on
    that many actors with a share of a GPU each; None is as many as there is room for. Ray's object
    store keeps the pool too, to rebuild a shard that dies. With ``gate_gpus`` each shard, even one,
    has so much of a GPU and compares embeddings there.

    Nothing may resemble what is in the ``index``, a folder or ``s3://`` prefix, either, which takes
    what is kept: see `CorpusIndex`. A job with an index that was killed goes on where it was; one
    that is done, with the same texts, is not done again while its output is there.
    ``discard_unfinished`` gives up the job that an index is in the middle of.

    Raises ConfigError, CorpusError, EngineError or GateError; then nothing is written.
    """
    started = time.perf_counter()

    # what is wrong with options, files or the model is said before anything is written
    check_thresholds(rouge, cosine, tokenizer)
    if shards < 1:
        raise ConfigError(f"--shards must be at least 1, not {shards}")
    if embedders is not None and embedders < 1:
        raise ConfigError(f"--embedders must be at least 1, not {embedders}")
    for option, share in (("--embedder-gpus", embedder_gpus), ("--gate-gpus", gate_gpus)):
        if share and not 0.01 <= share <= 1:
            raise ConfigError(f"{option} is a share of a GPU, 0.01 to 1, not {share:g}")
    if discard_unfinished and index is None:
        raise ConfigError("--discard-unfinished is about the job of an --index: name that")
    if cosine is None and (embedders or embedder_gpus or gate_gpus):
        raise ConfigError("without the cosine gate nothing is embedded: leave out --cosine off")
    targets = [locate(rejected_name(out)), locate(out)]
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as threads:
        skip = skip_unreadable
        corpora = list(
            threads.map(
                lambda path: open_corpus(locate(path), text_field, skip_unreadable=skip),
                filter(holds_rows, inputs),
            )
        )
        unwanted = list(
            threads.map(
                lambda path: open_corpus(
                    locate(path), text_field, "instruction", skip_unreadable=skip
                ),
                against,
            )
        )
    if cosine is not None:
        registry.check_embedder(embedder)

    # nothing may resemble the unwanted texts; then every row is kept or rejected, in order
    tally = _Tally(listen, [corpus.size for corpus in corpora])
    corpus_index: CorpusIndex | None = None

    def reported(counts: dict[str, Any], *, was_done: bool = False) -> DedupReport:
        return DedupReport(
            **counts,
            empty=[corpus.file.location for corpus in [*corpora, *unwanted] if corpus.is_empty],
            passed_over=[path for path in inputs if not holds_rows(path)],
            seconds=time.perf_counter() - started,
            peak_bytes=_peak_bytes(),
            out=out,
            rejected_out=targets[0].location,
            indexed=None if corpus_index is None else len(corpus_index),
            was_done=was_done,
        )

    with ExitStack() as stack:
        if index is not None:
            options = IndexOptions(rouge, cosine, tokenizer, None if cosine is None else embedder)
            job = _job(corpora, unwanted, text_field, out, skip_unreadable=skip_unreadable)
            opened = CorpusIndex.opened(index, options, job, discard=discard_unfinished)
            corpus_index = stack.enter_context(opened)
        is_resumed = corpus_index is not None and corpus_index.is_resumed
        if corpus_index is not None and not is_resumed and all(map(_is_there, targets)):
            counts = corpus_index.done(_texts([*unwanted, *corpora], tally))
            if counts is not None:
                return reported(counts, was_done=True)
        _check_files(corpora, unwanted, targets, overwrite or is_resumed)
        with staged(*targets) as paths:
            tally.report(note="starting")
            gate_options: dict[str, Any] = {"rouge": rouge, "cosine": cosine}
            gate_options["tokenizer"] = tokenizer
            model = None if cosine is None else embedder
            if shards > 1 or embedders or embedder_gpus or gate_gpus or address:
                gpus = embedder_gpus, gate_gpus
                opened_gate = _on_ray(
                    address, shards, model, embedders, gpus, gate_options, tally.report
                )
            else:
                opened_gate = _here(model, gate_options, corpus_index)
            with (
                told_of_disk(),
                opened_gate as (gate, reader),
                closing(open_writer(paths[0], targets[0].location, REJECTED_TEXTS)) as rejected,
                closing(open_writer(paths[1], out, _first_with_columns(corpora).schema)) as kept,
            ):
                decide = _filled(gate, corpus_index, unwanted, reader, tally, rejected)
                known = corpus_index.known(reader.cut) if corpus_index is not None else None
                for number, place, batch, embeddings in reader.read(corpora, known):
                    result = decide(batch.texts, embeddings, place)
                    assert len(result.accepted) + len(result.rejected) == len(batch.texts)
                    kept.write(batch.take(result.accepted))
                    rejected.write_rows(_left_out(result, batch, corpora[number], corpus_index))
                    tally.count(result, batch, number)
                    tally.unread += unread(batch.texts) if tokenizer == "reference" else 0
            tally.report(note="writing")
            if corpus_index is not None:  # before the files appear, which are this job's from then
                corpus_index.commit()
        if corpus_index is not None:
            corpus_index.finish(tally.counts())
    return reported(tally.counts())


def _job(
    corpora: Sequence[Corpus],
    unwanted: Sequence[Corpus],
    text_field: str,
    out: str,
    *,
    skip_unreadable: bool,
) -> dict[str, Any]:
    """What a job is known again by."""
    return {
        "inputs": [corpus.file.location for corpus in corpora],
        "sizes": [corpus.size for corpus in corpora],
        "against": [[corpus.file.location, corpus.size] for corpus in unwanted],
        "text_field": text_field,
        "out": out,
        "skip_unreadable": skip_unreadable,
    }


def _is_there(file: File) -> bool:
    with reading(file.location):
        return bool(file.filesystem.get_file_info(file.path).type == fs.FileType.File)


def _texts(corpora: Sequence[Corpus], tally: _Tally) -> Iterator[list[str]]:
    """All texts, in batches."""
    tally.report(note="reading what was done before")
    for read in LocalReader(_BATCH_ROWS).read(corpora):
        yield read.batch.texts


def rejected_name(out: str) -> str:
    """Where what is rejected goes, beside ``out``."""
    suffix = format_of(out).suffix
    return f"{out[: -len(suffix)]}.rejected{out[-len(suffix) :]}"


def _check_files(
    corpora: list[Corpus], unwanted: list[Corpus], targets: list[File], overwrite: bool
) -> None:
    if not corpora:
        raise CorpusError("there is no input that could hold rows")
    out = targets[-1].location
    first = _first_with_columns(corpora)
    if first.schema is not None and not first.schema:
        raise CorpusError(f"{first.file.location} says no columns, as it is empty; leave it out")
    for corpus in corpora:
        path = corpus.file.location
        kinds = format_of(path).kind, format_of(out).kind
        if kinds[0] != kinds[1]:
            raise CorpusError(f"{path} is {kinds[0]} and {out} is {kinds[1]}: use one kind for all")
        if (
            corpus.schema is not None
            and not corpus.is_empty
            and _differ(corpus.schema, first.schema)
        ):
            raise CorpusError(
                f"{path} and {first.file.location} differ in their columns: "
                f"{_difference(corpus.schema, first.schema)}; make them alike"
            )
    for target in reversed(targets):
        for corpus in [*corpora, *unwanted]:
            if target.is_same(corpus.file):
                raise CorpusError(f"{target.location} would replace an input; choose another --to")
        target.check_writable(overwrite)


def _first_with_columns(corpora: list[Corpus]) -> Corpus:
    """The corpus whose columns the output has: the first with rows, else the first with columns."""
    return min(corpora, key=lambda corpus: (corpus.is_empty, not corpus.schema))


def _differ(schema: pa.Schema, other: pa.Schema) -> bool:
    """Whether columns differ in more than their order and the layout of strings."""
    mine, theirs = (
        sorted((field.name, str(plain_type(field.type))) for field in fields)
        for fields in (schema, other)
    )
    return mine != theirs


def _difference(schema: pa.Schema, other: pa.Schema) -> str:
    mine = [str(field) for field in schema]
    theirs = [str(field) for field in other]
    only = [f"only the first has {field}" for field in mine if field not in theirs]
    only += [f"only the second has {field}" for field in theirs if field not in mine]
    return ", ".join(only) or "their order"


@contextmanager
def _here(
    model: str | None, options: dict[str, Any], index: CorpusIndex | None
) -> Iterator[tuple[Deduplicator, Reader]]:
    """A gate in this process, which embeds what ROUGE-L lets pass."""
    if model is None:
        yield Deduplicator(**options), LocalReader(_BATCH_ROWS)
        return
    encode = registry.embedder(model).encode
    encoder = encode if index is None else index.encoder(encode)
    yield Deduplicator(encoder=encoder, **options), LocalReader(_BATCH_ROWS_EMBEDDED["cores"])


@contextmanager
def _on_ray(
    address: str | None,
    shards: int,
    model: str | None,
    embedders: int | None,
    gpus: tuple[float, float],
    options: dict[str, Any],
    notify: Callable[[str], None],
) -> Iterator[tuple[Deduplicator, Reader]]:
    """A gate over shards, if there are several or they have GPUs, that gets its batches embedded.

    ``gpus`` are the shares of an embedder and of a shard.
    """
    from ray_si.build.sharding import ShardedDeduplicator, reserved_gpus
    from ray_si.corpora.spread import Embedders, SpreadReader, free_cards
    from ray_si.serving.connect import connect
    from ray_si.serving.placement import for_workers

    with connect(address):
        if model is None:
            reader = SpreadReader(_BATCH_ROWS, None)
        else:
            cards = free_cards(shards, gpus[1])
            pool = Embedders.fitting(str(for_workers(model)), embedders, gpus[0], cards)
            reader = SpreadReader(_BATCH_ROWS_EMBEDDED["GPUs" if gpus[0] else "cores"], pool)
        if shards == 1 and not gpus[1]:
            yield Deduplicator(**options), reader
            return
        with (
            reserved_gpus(shards, gpus[1], notify=notify) as reserved,
            ShardedDeduplicator(shards, restore=None, cards=reserved, **options) as gate,
        ):
            yield gate, reader


def _filled(
    gate: Deduplicator,
    index: CorpusIndex | None,
    unwanted: Sequence[Corpus],
    reader: Reader,
    tally: _Tally,
    rejected: JsonlWriter | ParquetWriter,
) -> Callable[[list[str], np.ndarray | None, Place], DedupResult]:
    """What decides on a batch, once what nothing may resemble is in the gate.

    Rows of that which cannot be read are written to ``rejected``.
    """

    def as_compared(embeddings: np.ndarray | None) -> np.ndarray | None:
        return embeddings if index is None or embeddings is None else index.rounded(embeddings)

    if index is not None:
        tally.report(note="reading the index")
        index.fill(gate)
    if unwanted:
        tally.report(note=f"reading {', '.join(corpus.file.location for corpus in unwanted)}")
    for number, _, batch, embeddings in reader.read(unwanted):
        source = unwanted[number].file.location
        rejected.write_rows(_rejections(_unreadable(batch), unwanted[number]))
        gate.add(batch.texts, as_compared(embeddings), source=source)
        if index is not None:
            index.see(batch.texts)
        tally.count_unreadable(len(batch.unreadable), source)
    if index is None:
        return lambda texts, embeddings, place: gate.filter(texts, embeddings)
    index.begin(gate)
    return lambda texts, embeddings, place: index.filter(texts, as_compared(embeddings), place)


def _left_out(
    result: DedupResult, batch: CorpusBatch, corpus: Corpus, index: CorpusIndex | None
) -> list[dict[str, Any]]:
    """The rows of `REJECTED_TEXTS` that a batch has, in order."""
    rows: list[dict[str, Any]] = [
        {
            "text": batch.texts[duplicate.index],
            "reason": duplicate.reason,
            "score": duplicate.score,
            "match": duplicate.match,
            "match_source": duplicate.source,
            "match_id": duplicate.match_id
            if index is not None and duplicate.match_id >= 0
            else None,
            "row": batch.numbers[duplicate.index],
        }
        for duplicate in result.rejected
    ]
    return _rejections(sorted(rows + _unreadable(batch), key=lambda row: row["row"]), corpus)


def _unreadable(batch: CorpusBatch) -> list[dict[str, Any]]:
    return [
        {"reason": UNREADABLE, "row": number, "error": what} for number, what in batch.unreadable
    ]


def _rejections(rows: list[dict[str, Any]], corpus: Corpus) -> list[dict[str, Any]]:
    """Rows of `REJECTED_TEXTS`, of these of a corpus."""
    blank = dict.fromkeys(REJECTED_TEXTS.names)
    return [blank | row | {"file": corpus.file.location} for row in rows]


class _Tally:
    """Counts rows of inputs of these sizes, and tells the listener."""

    def __init__(self, listen: Callable[[DedupProgress], None], sizes: Sequence[int]) -> None:
        self.now = DedupProgress(total=sum(sizes))
        self.reasons: Counter[str] = Counter()
        self.unread = 0
        self._listen = listen
        self._before = [0, *accumulate(sizes)]

    def report(self, note: str = "") -> None:
        self.now = replace(self.now, note=note)
        self._listen(self.now)

    def count(self, result: DedupResult, batch: CorpusBatch, number: int) -> None:
        """Count a batch of the input of this number."""
        self.reasons.update(
            f"{duplicate.reason} ({duplicate.source})" if duplicate.source else duplicate.reason
            for duplicate in result.rejected
        )
        self.count_unreadable(len(batch.unreadable))
        left_out = len(result.rejected) + len(batch.unreadable)
        self.now = replace(
            self.now,
            rows=self.now.rows + len(result.accepted) + left_out,
            accepted=self.now.accepted + len(result.accepted),
            rejected=self.now.rejected + left_out,
            done=self._before[number] + batch.done,
        )
        self.report()

    def counts(self) -> dict[str, Any]:
        """What a report says of the rows."""
        return {
            "rows": self.now.rows,
            "kept": self.now.accepted,
            "rejected": dict(self.reasons.most_common()),
            "unread": self.unread,
        }

    def count_unreadable(self, count: int, source: str | None = None) -> None:
        if count:
            self.reasons[f"{UNREADABLE} ({source})" if source else UNREADABLE] += count


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
