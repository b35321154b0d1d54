"""Rows for the page's browser, accepted and rejected, each with where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2.utils import htmlsafe_json_dumps

from ray_si.report.contents import RunContents
from ray_si.report.sample import Sample, priorities
from ray_si.run.ids import instruction_id
from ray_si.run.schemas import (
    AcceptedRow,
    InstanceText,
    RawRow,
    RejectedInstance,
    RejectedRow,
)

MOST_ACCEPTED, MOST_REJECTED_EACH = 1500, 100
"""Most accepted instructions shown, and most rejected candidates of each reason."""

ACCEPTED_BYTES, REJECTED_BYTES, TEXTS_BYTES = 3_500_000, 1_500_000, 2_500_000
"""What they and their demonstrations may take; what does not fit is left out, last drawn first."""

MOST_CHARACTERS = 2000
"""Characters shown of a text."""

LEFT_OUT = "left_out"
"""Reason of an instance that ``output.keep`` made no row."""

_NEIGHBOURS = 3


R = TypeVar("R", bound=Mapping[str, Any])


class _Accepted(AcceptedRow):
    """An accepted row, and its nearest seed task: ROUGE-L F and index (-1: none)."""

    seed_score: float
    seed_index: int


class _Rejected(RejectedRow):
    """A rejected row, and its round."""

    round: int


class _Instances(TypedDict):
    """Of an instance row, what is shown."""

    id: str
    is_classification: bool
    instances: list[InstanceText]
    is_row: list[bool]
    rejected: list[RejectedInstance]


class ShownRow(TypedDict):
    """A candidate as the page shows it, texts shortened.

    ``seed`` is the request's, as text, since JavaScript's numbers end at 2**53.
    """

    id: str
    text: str
    round: int
    seed: str | None
    demonstrations: list[str]


class _OfInstances(TypedDict, total=False):
    nearest_seed: ShownNeighbour
    classification: bool
    instances: list[InstanceText]
    rejected: list[ShownRejectedInstance]


class ShownNeighbour(TypedDict):
    """An earlier instruction by its id or text, and its ROUGE-L F."""

    id: str
    rouge: float | None


class ShownRejectedInstance(InstanceText):
    """A rejected instance, and why."""

    reason: str


class ShownAccepted(ShownRow, _OfInstances):
    """An accepted instruction; its nearest seed and its instances where there are any."""

    model: str
    revision: str | None
    cosine: float | None
    mean_rouge: float | None
    nearest: list[ShownText]


class ShownText(TypedDict):
    """A neighbour's text."""

    text: str
    rouge: float | None


class ShownRejected(ShownRow):
    """A rejected candidate, and why."""

    reason: str
    match: str | None
    score: float | None


class BrowserRows(TypedDict):
    """What the page's browser holds.

    Of ``of_accepted`` and ``of_rejected`` rows there are; ``texts`` are those of demonstrations and
    seeds by id, ``drawn`` the ids of the accepted as they were drawn.
    """

    accepted: list[ShownAccepted]
    rejected: list[ShownRejected]
    drawn: list[str]
    of_accepted: int
    of_rejected: int
    texts: dict[str, str]


class Rows:
    """Draws the samples while the statistics pass by, and completes them at the end.

    Instances that are no rows of the dataset are shown as left out.
    """

    def __init__(self, contents: RunContents) -> None:
        self._contents = contents
        self._accepted = Sample[_Accepted](MOST_ACCEPTED)
        self._rejected: dict[str, Sample[_Rejected]] = {}
        self._wanted: pa.Array | None = None
        self._instances: dict[str, _Instances] = {}
        self._ids: list[pa.Array] = []
        self._texts: list[pa.Array] = []
        self._seen_rejected = 0

    def add_accepted(self, table: pa.Table, scores: np.ndarray, seeds: np.ndarray) -> None:
        """Offer accepted rows; ``scores`` and ``seeds`` are of each one's nearest seed, or -1."""
        self._ids.append(table["id"].combine_chunks())
        self._texts.append(table["instruction"].combine_chunks())

        def take(chosen: np.ndarray) -> list[_Accepted]:
            rows: list[_Accepted] = table.take(pa.array(chosen)).to_pylist()
            for row, k in zip(rows, chosen.tolist(), strict=True):
                row["seed_score"], row["seed_index"] = float(scores[k]), int(seeds[k])
            return rows

        self._accepted.add(priorities(self._accepted.seen, table.num_rows), take)

    def add_rejected(self, round_: int, table: pa.Table) -> None:
        """Offer rejected rows, which are drawn for each reason apart."""
        lots = priorities(self._seen_rejected, table.num_rows)
        self._seen_rejected += table.num_rows
        reasons = table["reason"].combine_chunks()
        for reason in reasons.unique().to_pylist():
            places = np.flatnonzero(pc.equal(reasons, reason).to_numpy(zero_copy_only=False))
            sample = self._rejected.setdefault(reason, Sample(MOST_REJECTED_EACH))

            def take(chosen: np.ndarray, places: np.ndarray = places) -> list[_Rejected]:
                rows: list[RejectedRow] = table.take(pa.array(places[chosen])).to_pylist()
                return [{**row, "round": round_} for row in rows]

            sample.add(lots[places], take)

    def embeddings(self, size: int) -> np.ndarray | None:
        """Embeddings of the first ``size`` drawn, (size, d); None where one has none."""
        vectors = [row["embedding"] for row in self._accepted.items()[:size]]
        widths = {len(vector) for vector in vectors if vector is not None}
        if len(vectors) < size or None in vectors or len(widths) != 1:
            return None
        return np.array(vectors, np.float32)

    def add_instances(self, table: pa.Table) -> None:
        """Take the instances of instructions that were drawn; all rounds have been offered."""
        if self._wanted is None:
            self._wanted = pa.array([row["id"] for row in self._accepted.items()], pa.string())
        columns = table.select(["id", "is_classification", "instances", "is_row", "rejected"])
        chosen = columns.filter(pc.is_in(columns["id"], self._wanted))
        self._instances |= {row["id"]: row for row in chosen.to_pylist()}

    # Result ------------------------------------------------------------------------------------

    def result(self) -> BrowserRows:
        """The samples, completed."""
        accepted = _fitting((self._shown(row) for row in self._accepted.items()), ACCEPTED_BYTES)
        drawn = [sample.items() for _, sample in sorted(self._rejected.items())]
        requests = self._contents.requests(row["request_id"] for rows in drawn for row in rows)
        bytes_each = REJECTED_BYTES // max(1, len(drawn))
        rejected: list[ShownRejected] = []
        for rows in drawn:
            rejected += _fitting((_shown_rejected(row, requests) for row in rows), bytes_each)
        return {
            "accepted": sorted(accepted, key=lambda row: row["id"]),
            "rejected": sorted(rejected, key=lambda row: row["id"]),
            "drawn": [row["id"] for row in accepted],
            "of_accepted": self._accepted.seen,
            "of_rejected": self._seen_rejected,
            "texts": self._demonstrations(accepted, rejected),
        }

    def _shown(self, row: _Accepted) -> ShownAccepted:
        instances = self._instances.get(row["id"])
        nearest = row["most_similar"] or []
        shown: ShownAccepted = {
            "id": row["id"],
            "text": shortened(row["instruction"]),
            "round": row["round"],
            "model": row["model"],
            "revision": row["revision"],
            "seed": str(row["request_seed"]),  # JavaScript's numbers end at 2**53
            "demonstrations": row["demonstrations"] or [],
            "cosine": _rounded(row["cosine"]),
            "mean_rouge": _rounded(row["mean_rouge"]),
            "nearest": [
                {"text": shortened(item["instruction"]), "rouge": _rounded(item["rouge"])}
                for item in nearest[:_NEIGHBOURS]
            ],
        }
        if row["seed_index"] >= 0:
            seed = self._contents.seeds[row["seed_index"]]
            shown["nearest_seed"] = {"id": seed["id"], "rouge": _rounded(row["seed_score"])}
        if instances:
            shown["classification"] = instances["is_classification"]
            shown["instances"], shown["rejected"] = [], []
            for item, is_row in zip(instances["instances"], instances["is_row"], strict=True):
                if is_row:
                    shown["instances"].append(_pair(item))
                else:
                    shown["rejected"].append({**_pair(item), "reason": LEFT_OUT})
            for refused in instances["rejected"]:
                shown["rejected"].append({**_pair(refused), "reason": refused["reason"]})
        return shown

    def _demonstrations(
        self, accepted: list[ShownAccepted], rejected: list[ShownRejected]
    ) -> dict[str, str]:
        """Texts of all ids that the rows name, of seeds and of accepted instructions."""
        rows: list[ShownRow] = [*accepted, *rejected]
        wanted = {id_ for row in rows for id_ in row["demonstrations"]}
        wanted |= {row["nearest_seed"]["id"] for row in accepted if "nearest_seed" in row}
        of_seeds = {s["id"]: s["instruction"] for s in self._contents.seeds if s["id"] in wanted}
        ids = pa.array(sorted(wanted - of_seeds.keys()), pa.string())
        generated: dict[str, str] = {}
        for known, texts in zip(self._ids, self._texts, strict=True):
            present = pc.is_in(known, ids)
            pairs = zip(known.filter(present), texts.filter(present), strict=True)
            generated |= {id_.as_py(): text.as_py() for id_, text in pairs}
        texts_by_id = [*of_seeds.items(), *sorted(generated.items())]  # as far as there is room
        fitting = _fitting(({i: shortened(t, 300)} for i, t in texts_by_id), TEXTS_BYTES)
        return {id_: text for item in fitting for id_, text in item.items()}


def shortened(text: str, limit: int = MOST_CHARACTERS) -> str:
    """The text, or its beginning and how much more there is."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit:,} more characters are not shown]"


def _shown_rejected(row: _Rejected, requests: Mapping[str, RawRow]) -> ShownRejected:
    request = requests.get(row["request_id"])
    return {
        "id": instruction_id(row["request_id"], row["position"]),
        "text": shortened(row["text"]),
        "round": row["round"],
        "reason": row["reason"],
        "match": row["match"] and shortened(row["match"]),
        "score": _rounded(row["score"]),
        "seed": str(request["seed"]) if request else None,
        "demonstrations": (request["demonstrations"] if request else None) or [],
    }


def _pair(instance: InstanceText) -> InstanceText:
    return {"input": shortened(instance["input"]), "output": shortened(instance["output"])}


def _fitting(rows: Iterable[R], budget: int) -> list[R]:
    """The first rows that fit a number of bytes as the page has them."""
    fitting: list[R] = []
    for row in rows:
        budget -= len(htmlsafe_json_dumps(row))
        if budget < 0:
            break
        fitting.append(row)
    return fitting


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)
