"""What was kept, as an index that one deduplication after another appends to.

::

    index.json                          options, parts, the job that is under way, and what the jobs
                                        that are done came to; replaced
    parts/part-00000-00001.parquet      texts kept and their embeddings, by fencing number
    job/decisions-00000-00001.parquet   what was decided on the rows of that job so far
    lease/00001.json                    who writes

Texts have ids from 0 on, in the order of the parts. A job logs its decisions with the texts that it
kept: killed at any moment and run again, it takes those as they are and goes on behind them. A
digest of all texts up to there says that they are the same. So does one of a job that is done, in
index.json, so that it is not done again. What index.json does not name doesn't count.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.corpora.reading import Place
from ray_si.dedup import Deduplicator, DedupResult, Duplicate
from ray_si.dedup.deduplicator import Encoder
from ray_si.errors import CorpusError, StorageError
from ray_si.pipeline.embeddings import compact
from ray_si.run.schemas import EMBEDDING, embedding_column, embeddings_of
from ray_si.storage.base import Objects
from ray_si.storage.lease import LEASES, Lease
from ray_si.storage.objects import open_objects
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import ShardInfo, from_parquet, read_named, write_table

MANIFEST = "index.json"
_KIND, _FORMAT = "ray_si corpus index", 1
_FENCED = re.compile(r"-(\d{5,})\.parquet$")

_SEEN = b"texts"
"""Where the metadata of decisions have the digest; those of earlier versions have none."""

COMMIT_BATCHES = 10
"""Batches of a job between two commits: what a kill may cost."""

_READERS = 4
"""Parts read at a time, which may have some 30 MB each; twice as many wait for the gate."""

_KEPT = pa.schema([("text", pa.string()), ("embedding", EMBEDDING)])
_DECISIONS = pa.schema(
    [
        ("is_kept", pa.bool_()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("match", pa.string()),
        ("match_source", pa.string()),
        ("match_id", pa.int64()),
    ]
)


@dataclass(frozen=True)
class IndexOptions:
    """What an index is made with, and everything appended to it; ``embedder`` None: no cosines."""

    rouge: float
    cosine: float | None
    tokenizer: str
    embedder: str | None


class CorpusIndex:
    """An index under its lease, for one job.

    ``job`` says what is deduplicated, so that the same job is known again; ``is_resumed`` whether
    it is under way already.
    """

    def __init__(self, objects: Objects, location: str, lease: Lease, job: dict[str, Any]) -> None:
        self._objects, self._location, self._lease = objects, location, lease
        self._job = job
        self._manifest: dict[str, Any] = {}
        self._is_new = False
        self._encoder: _Recording | None = None
        self._dimension: int | None = None
        self._cut = ""
        self._place: Place | None = None
        self._gate: Deduplicator | None = None
        self._excluded = 0  # texts in the gate that are not of the index, after its first rows
        self._log: deque[dict[str, Any]] = deque()  # objects of decisions that are still to be read
        self._logged: deque[dict[str, Any]] = deque()  # those of the last one read, not yet taken
        self._expected: bytes | None = None  # the digest behind them
        self._seen = hashlib.sha256()  # the job's texts so far
        self._kept: list[tuple[str, np.ndarray | None]] = []
        self._decisions: list[dict[str, Any]] = []
        self._batches = 0

    @classmethod
    @contextmanager
    def opened(
        cls, location: str, options: IndexOptions, job: dict[str, Any], *, discard: bool = False
    ) -> Iterator[CorpusIndex]:
        """The index there, or a new one.

        ``discard`` gives up the job that is under way, and what it kept. Raises CorpusError where
        the place holds something else, the index is damaged or was made with other options, or
        another job is under way; RunError where another process writes to it.
        """
        objects = open_objects(location)
        objects.check(write=True)
        if next(objects.list(MANIFEST), None) != MANIFEST and not all(
            key.startswith(LEASES) for key in objects.list()
        ):
            raise CorpusError(f"{location} is not empty and not an index; choose another --index")
        with Lease(objects, location) as lease:
            index = cls(objects, location, lease, job)
            index._read(options, discard=discard)
            yield index

    @property
    def is_resumed(self) -> bool:
        """Whether the job has decisions from before."""
        return bool(self._manifest["job"]["decisions"])

    def done(self, texts: Iterable[Sequence[str]]) -> dict[str, Any] | None:
        """What `finish` was told of this job, had it these texts then; None where it is not done.

        ``texts`` are in batches, as `see` and `filter` get them, and read only where needed.
        """
        former = self._manifest.get("done", {}).get(self._job["out"])
        if former is None or former["what"] != _digest(self._job):
            return None
        seen = hashlib.sha256()
        for batch in texts:
            seen.update(_framed(batch))
        counts: dict[str, Any] = former["counts"]
        return counts if seen.hexdigest() == former["texts"] else None

    def __len__(self) -> int:
        """Texts of the index, those that the job has kept so far not included."""
        return sum(part["rows"] for part in self._manifest["parts"])

    def encoder(self, encode: Encoder) -> Encoder:
        """The encoder that the gate has to use: with embeddings as they are stored."""
        self._encoder = _Recording(lambda texts: self.rounded(encode(texts)))
        return self._encoder

    def rounded(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings as they are stored; CorpusError where those of the index have other sizes."""
        if self._dimension not in (None, embeddings.shape[1]):
            raise CorpusError(
                f"the index has embeddings of {self._dimension} numbers, and the embedder gives "
                f"{embeddings.shape[1]}: use the model that it was made with"
            )
        return compact(embeddings)

    def known(self, cut: str) -> Place | None:
        """The last batch of the job that was decided before, of those that are cut like this."""
        self._cut = cut
        job = self._manifest["job"]
        return tuple(job["place"]) if job.get("cut") == cut and job.get("place") else None

    def fill(self, gate: Deduplicator) -> None:
        """Put the texts of the index into an empty gate."""
        self._add(gate, self._manifest["parts"])

    def see(self, texts: Sequence[str]) -> None:
        """Take note of texts of the job, which is known by them, those of --against included."""
        self._seen.update(_framed(texts))

    def begin(self, gate: Deduplicator) -> None:
        """Go on with the job, now that what nothing may resemble is in the gate, too."""
        self._gate = gate
        self._excluded = len(gate) - len(self)
        self._add(gate, self._manifest["job"]["parts"])
        self._log.extend(self._manifest["job"]["decisions"])

    def filter(
        self, texts: Sequence[str], embeddings: np.ndarray | None, place: Place
    ) -> DedupResult:
        """Decide on the batch of the job at this place, as before as far as it was decided before.

        ``embeddings`` of all texts are `rounded`; without them the `encoder` is asked. ``match_id``
        of what is rejected counts the texts of the index; -1 where the match is none of these.
        Raises CorpusError where other texts were decided before.
        """
        known = self._recalled(texts)
        rest = texts[len(known) :]
        self.see(rest)
        decided = _replayed(known)
        if rest:
            vectors = None if embeddings is None else embeddings[len(known) :]
            self._place = place
            decided = _joined(decided, self._decide(rest, vectors), len(known))
        return decided

    def commit(self) -> None:
        """Write what was decided since the last time, then the manifest.

        Raises CorpusError where not all that was decided before has come again.
        """
        if self._logged or self._log:
            raise self._changed()
        if not self._decisions:
            return
        job, number = self._manifest["job"], self._lease.number
        if self._is_new:  # else what comes before its manifest would be found to be no index
            self._write(self._manifest | {"job": None})
            self._is_new = False
        texts = [text for text, _ in self._kept]
        vectors = [vector for _, vector in self._kept if vector is not None]
        no_vectors = pa.nulls(len(texts), EMBEDDING)
        embeddings = embedding_column(np.stack(vectors)) if vectors else no_vectors
        columns = [pa.array(texts, pa.string()), embeddings]
        place = len(self._manifest["parts"]) + len(job["parts"])
        part = write_table(
            self._objects,
            f"parts/part-{place:05d}-{number:05d}.parquet",
            pa.table(columns, schema=_KEPT),
        )
        schema = _DECISIONS.with_metadata({_SEEN: self._seen.hexdigest()})
        decisions = write_table(
            self._objects,
            f"job/decisions-{len(job['decisions']):05d}-{number:05d}.parquet",
            pa.Table.from_pylist(self._decisions, schema),
        )
        self._write(
            self._manifest
            | {
                "job": job
                | {
                    "parts": [*job["parts"], asdict(part)],
                    "decisions": [*job["decisions"], asdict(decisions)],
                    "cut": self._cut,
                    "place": self._place,
                }
            }
        )
        self._kept, self._decisions = [], []

    def finish(self, counts: dict[str, Any]) -> None:
        """What the job has kept, all committed, is part of the index from now on.

        ``counts`` say what it came to, for whoever asks for it again.
        """
        assert not self._decisions, "there are decisions that were not committed"
        former = self._manifest
        kept = [part for part in former["job"]["parts"] if part["rows"]]
        done = {"what": _digest(self._job), "texts": self._seen.hexdigest(), "counts": counts}
        self._write(
            former
            | {
                "parts": former["parts"] + kept,
                "job": None,
                "done": former.get("done", {}) | {self._job["out"]: done},
            }
        )
        self._sweep()

    # Deciding ----------------------------------------------------------------------------------

    def _recalled(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """What was decided before on the first of these texts, as far as there is anything."""
        rows: list[dict[str, Any]] = []
        while len(rows) < len(texts) and (self._logged or self._log):
            if not self._logged:
                table = self._table(self._log.popleft())
                self._logged.extend(table.to_pylist())
                self._expected = (table.schema.metadata or {}).get(_SEEN)
            count = min(len(texts) - len(rows), len(self._logged))
            self.see(texts[len(rows) : len(rows) + count])
            rows += [self._logged.popleft() for _ in range(count)]
            if not self._logged and self._expected not in (None, self._seen.hexdigest().encode()):
                raise self._changed()
        return rows

    def _changed(self) -> CorpusError:
        return CorpusError(
            f"{self._location} has this job unfinished, begun when its files had other texts: put "
            "those back, or add --discard-unfinished to begin anew"
        )

    def _decide(self, texts: Sequence[str], embeddings: np.ndarray | None) -> DedupResult:
        assert self._gate is not None, "the job has not begun"
        result = self._gate.filter(texts, embeddings)
        result = replace(result, rejected=[self._of_index(item) for item in result.rejected])
        asked = {} if self._encoder is None else self._encoder.last
        self._kept += [
            (texts[i], asked.get(texts[i]) if embeddings is None else embeddings[i])
            for i in result.accepted
        ]
        rows: dict[int, dict[str, Any]] = {i: {"is_kept": True} for i in result.accepted}
        for item in result.rejected:
            rows[item.index] = {
                "is_kept": False,
                "reason": item.reason,
                "score": item.score,
                "match": item.match,
                "match_source": item.source,
                "match_id": item.match_id,
            }
        self._decisions += [rows[i] for i in range(len(texts))]
        self._batches += 1
        if self._batches % COMMIT_BATCHES == 0:
            self.commit()
        return result

    def _of_index(self, item: Duplicate) -> Duplicate:
        """With the id of the match in the index."""
        id_, size = item.match_id, len(self)
        if id_ < size:
            return item
        return replace(item, match_id=id_ - self._excluded if id_ >= size + self._excluded else -1)

    # Storage -----------------------------------------------------------------------------------

    def _read(self, options: IndexOptions, *, discard: bool) -> None:
        stored = self._stored()
        self._is_new = stored is None
        manifest = stored or {
            "kind": _KIND,
            "format": _FORMAT,
            "options": asdict(options),
            "parts": [],
            "job": None,
        }
        for name, value in asdict(options).items():
            if (former := manifest["options"][name]) != value:
                raise CorpusError(
                    f"{self._location} was made with --{name} {_said(former)}, not {_said(value)}"
                )
        if discard and manifest["job"]:
            manifest["job"] = None
        if manifest["job"] is None:
            manifest["job"] = {"what": self._job, "parts": [], "decisions": []}
        elif manifest["job"]["what"] != self._job:
            under_way = manifest["job"]["what"]
            raise CorpusError(
                f"{self._location} has an unfinished job ({', '.join(under_way['inputs'])} to "
                f"{under_way['out']}): run that one to its end, or add --discard-unfinished"
            )
        self._manifest = manifest

    def _stored(self) -> dict[str, Any] | None:
        """The manifest, checked; None where there is none."""
        if next(self._objects.list(MANIFEST), None) != MANIFEST:
            return None
        try:
            manifest: dict[str, Any] = json.loads(self._objects.get(MANIFEST))
            if (manifest["kind"], manifest["format"]) != (_KIND, _FORMAT):
                raise ValueError("it is of another kind or version")
            if manifest.pop("sha256") != _digest(manifest):
                raise ValueError("it has other content than its SHA-256 says")
        except StorageError:
            raise  # a store that refuses has damaged nothing
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CorpusError(f"{self._location}/{MANIFEST} is damaged: {error}") from error
        return manifest

    def _write(self, manifest: dict[str, Any]) -> None:
        self._lease.check()
        sealed = manifest | {"sha256": _digest(manifest)}
        self._objects.put(MANIFEST, (json.dumps(sealed, indent=1) + "\n").encode())
        self._manifest = manifest

    def _sweep(self) -> None:
        """Remove what no manifest names any more, and nothing that whoever comes next writes."""
        self._lease.check()
        named = {part["key"] for part in self._manifest["parts"]}
        for folder in ("parts/", "job/"):
            for key in list(self._objects.list(folder)):
                written_by = _FENCED.search(key)
                if key not in named and written_by and int(written_by[1]) <= self._lease.number:
                    self._objects.delete(key)
        self._objects.sweep()

    def _add(self, gate: Deduplicator, parts: Sequence[dict[str, Any]]) -> None:
        for table in read_ahead(self._table, parts, _READERS):
            vectors = embeddings_of(table)
            if vectors is not None:
                self._dimension = vectors.shape[1]
            gate.add(table["text"].to_pylist(), vectors)

    def _table(self, part: dict[str, Any]) -> pa.Table:
        info = ShardInfo(**part)
        return from_parquet(read_named(self._objects, self._location, info, MANIFEST))


class _Recording:
    """An encoder whose ``last`` are the embeddings of its last call, by text."""

    def __init__(self, encode: Encoder) -> None:
        self._encode = encode
        self.last: dict[str, np.ndarray] = {}

    def __call__(self, texts: list[str]) -> np.ndarray:
        embeddings = self._encode(texts)
        # of equal texts the first, which is the one that may be kept
        self.last = dict(zip(reversed(texts), embeddings[::-1], strict=True))
        return embeddings


def _replayed(rows: Sequence[dict[str, Any]]) -> DedupResult:
    """The result that logged decisions say."""
    return DedupResult(
        accepted=[i for i, row in enumerate(rows) if row["is_kept"]],
        rejected=[
            Duplicate(
                i, row["reason"], row["match_id"], row["match"], row["score"], row["match_source"]
            )
            for i, row in enumerate(rows)
            if not row["is_kept"]
        ],
    )


def _joined(first: DedupResult, second: DedupResult, size: int) -> DedupResult:
    """Both results as one; the second is of texts after ``size`` others."""
    return DedupResult(
        accepted=first.accepted + [size + i for i in second.accepted],
        rejected=first.rejected + [replace(d, index=size + d.index) for d in second.rejected],
    )


def _framed(texts: Iterable[str]) -> bytes:
    """Texts as bytes that no other texts have: 255 is no byte of UTF-8."""
    return b"".join(text.encode() + b"\xff" for text in texts)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _said(value: object) -> str:
    return "off" if value is None else str(value)
