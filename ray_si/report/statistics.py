"""What a run came to, in one pass over what can be read of it."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from ray_si._version import __version__
from ray_si.dedup.rouge_index import RougeIndex
from ray_si.dedup.tokens import TOKENIZERS, Tokenizer
from ray_si.dedup.vocabulary import Encoded, Vocabulary
from ray_si.records import StepListener
from ray_si.report.contents import RunContents
from ray_si.report.distribution import Distribution, Scores
from ray_si.report.diversity import Vendi, distinct, self_bleu
from ray_si.report.numbers import (
    Diversity,
    DiversityOfSet,
    Funnel,
    RoundGroup,
    RunFacts,
    Statistics,
    TokenCounts,
    Verbs,
)
from ray_si.report.rows import BrowserRows, Rows
from ray_si.report.sample import draw, taken
from ray_si.report.verbs import INSTALL, root_verbs
from ray_si.run.schemas import embeddings_of

PARSED = 20_000
"""Most instructions that the parser is asked about; of more, a sample."""

COMPARED = 1000
"""Instructions in the samples whose diversity is comparable between runs."""

COUNTED = 2_000_000
"""Most instructions whose n-grams are counted, about 2 kB each of 20 words; of more, a sample."""

_GROUPS = 150
"""Most points of the charts over rounds."""

_ANY = 1e-6
"""A threshold that every two texts with a token in common exceed, however long."""


def collect(
    contents: RunContents, listen: StepListener = lambda what, done, total: None
) -> tuple[Statistics, BrowserRows]:
    """The statistics and the browser's rows (see `Rows.result`), both as JSON has them.

    Numbers are of everything that can be read, but where a key says sample. Memory grows with the
    texts of the accepted instructions, some 200 bytes each; see `COUNTED` for what comes on top.
    """
    collector = _Collector(contents)
    total = len(contents.rounds)
    for done, (round_, accepted, rejected) in enumerate(contents.decisions()):
        listen("rounds", done, total)
        collector.take_round(round_, accepted, rejected)
    blocks, size = contents.instance_blocks
    done = 0
    for table in contents.instances():
        listen("instances", min(done // size, blocks), blocks)
        collector.take_instances(table)
        done += table.num_rows
    return collector.result(listen)


class _Collector:
    def __init__(self, contents: RunContents) -> None:
        self._contents = contents
        dedup = contents.identity.get("dedup")
        tokenizer = dedup.get("tokenizer") if isinstance(dedup, dict) else None
        self._tokenizer: Tokenizer = tokenizer if tokenizer in TOKENIZERS else "reference"
        self._seeds = [row["instruction"] for row in contents.seeds]
        self._nearest = RougeIndex(_ANY, self._tokenizer)
        self._nearest.add(self._seeds)
        self._words = Vocabulary(self._tokenizer)
        self._encoded: list[Encoded] = []
        self._texts: list[pa.Array] = []
        self._scores = Scores()
        self._lengths = {name: Distribution() for name in ("instruction", "input", "output")}
        self._characters = {name: Distribution() for name in self._lengths}
        self._vendi = Vendi()
        self._rows = Rows(contents)
        self._by_round: dict[int, Counter[str]] = {}
        self._read = 0
        self._instances: Counter[str] = Counter()
        self._instances_rejected: Counter[str] = Counter()

    # Taking ------------------------------------------------------------------------------------

    def take_round(self, round_: int, accepted: pa.Table | None, rejected: pa.Table | None) -> None:
        manifest = self._contents.rounds[round_]
        self._by_round[round_] = Counter(
            requests=manifest["requests"],
            candidates=manifest["candidates"],
            accepted=manifest["accepted"],
            prompt_tokens=manifest["prompt_tokens"],
            completion_tokens=manifest["completion_tokens"],
        )
        if accepted is not None and accepted.num_rows:
            self._take_accepted(accepted)
        if rejected is not None and rejected.num_rows:
            self._rows.add_rejected(round_, rejected)

    def _take_accepted(self, accepted: pa.Table) -> None:
        texts = accepted["instruction"].to_pylist()
        self._read += len(texts)
        self._measure("instruction", texts)
        self._encoded.append(self._words.encode(texts, grow=True))
        self._texts.append(accepted["instruction"].combine_chunks())
        scores, ids = self._nearest.search(texts)
        if self._seeds:
            self._scores.add(scores)
        vectors = embeddings_of(accepted)
        if vectors is not None and self._vendi.dimension in (0, vectors.shape[1]):
            self._vendi.add(vectors)
        self._rows.add_accepted(accepted, scores, ids)

    def take_instances(self, table: pa.Table) -> None:
        """Some thousand instance rows."""
        instances = table["instances"].combine_chunks()
        ids, is_row = table["id"].to_pylist(), table["is_row"].combine_chunks()
        rows = [sum(of_one) for of_one in is_row.to_pylist()]  # of the dataset, by instruction
        fields = instances.flatten().filter(is_row.flatten())
        classification = table["is_classification"].to_pylist()
        self._instances["instructions"] += table.num_rows
        self._instances["classification"] += sum(map(bool, classification))
        self._instances["with_instance"] += sum(count > 0 for count in rows)
        self._instances["instances"] += len(instances.flatten())
        self._instances["rows"] += sum(rows)
        classified = table["classification_completion_tokens"]
        tokens = pc.add(table["completion_tokens"], classified).to_pylist()
        self._instances["completion_tokens"] += sum(tokens)
        for id_, count, spent in zip(ids, rows, tokens, strict=True):
            of_round = self._by_round.get(_round_of(id_))
            if of_round is not None:
                of_round["rows"] += count
                of_round["instance_tokens"] += spent
        self._measure("input", [text for text in fields.field("input").to_pylist() if text])
        self._measure("output", fields.field("output").to_pylist())
        reasons = table["rejected"].combine_chunks().flatten().field("reason")
        self._instances_rejected.update(reasons.to_pylist())
        self._rows.add_instances(table)

    def _measure(self, name: str, texts: list[str]) -> None:
        self._lengths[name].add([len(text.split()) for text in texts])
        self._characters[name].add([len(text) for text in texts])

    # Result ------------------------------------------------------------------------------------

    def result(self, listen: StepListener) -> tuple[Statistics, BrowserRows]:
        """What `collect` returns."""
        listen("diversity", 0, 1)
        diversity = self._diversity()
        verbs = self._verbs(listen)
        listen("rows", 0, 1)
        rows, stats = self._rows.result(), self._contents.stats
        return {
            "ray_si": __version__,
            "run": self._run(),
            "funnel": self._funnel(),
            "rejected": {
                "instructions": _sorted(self._rejected()),
                "instances": _sorted(self._instances_rejected),
            },
            "contaminated": stats.get("contaminated", {}) if stats else {},
            "tokens": self._tokens(),
            "rounds": self._rounds(),
            "lengths": {
                name: {
                    "words": words.summary(),
                    "characters": self._characters[name].summary(),
                    "histogram": words.histogram(),
                }
                for name, words in self._lengths.items()
            },
            "nearest_seed": {**self._scores.summary(), "seeds": len(self._seeds)},
            "verbs": verbs,
            "diversity": diversity,
            "scores": None,
        }, rows

    def _run(self) -> RunFacts:
        contents = self._contents
        return {
            "state": contents.state,
            "problems": contents.problems,
            "fingerprint": contents.fingerprint,
            "target": contents.target,
            "settings": contents.identity,
            "seeds": len(self._seeds),
            "seeds_classification": sum(bool(s["is_classification"]) for s in contents.seeds),
            "waiting_blocks": contents.waiting_blocks,
            "instructions_read": self._read,
        }

    def _sum(self, name: str) -> int:
        return sum(of_round[name] for of_round in self._by_round.values())

    def _funnel(self) -> Funnel:
        stats = self._contents.stats
        counts = self._instances
        return {
            "rounds": len(self._by_round),
            "completions": self._sum("requests"),
            "candidates": self._sum("candidates"),
            "accepted": self._sum("accepted"),
            "instructions_asked": counts["instructions"],
            "classification": counts["classification"],
            "with_instance": counts["with_instance"],
            "instances_written": counts["instances"] + _written(self._instances_rejected),
            "instances": counts["instances"],
            "rows": stats["rows"] if stats else None,
        }

    def _rejected(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for manifest in self._contents.rounds.values():
            total.update(manifest["rejected"])
        return total

    def _tokens(self) -> TokenCounts:
        bootstrap, instances = self._sum("completion_tokens"), self._instances["completion_tokens"]
        accepted, rows = self._sum("accepted"), self._instances["rows"]
        return {
            "bootstrap_prompt": self._sum("prompt_tokens"),
            "bootstrap_completion": bootstrap,
            "instance_completion": instances,
            "per_accepted_instruction": _ratio(bootstrap, accepted),
            "per_row": _ratio(bootstrap + instances, rows),
        }

    def _rounds(self) -> list[RoundGroup]:
        """Rounds, grouped where there are many: exact sums, and the ratios of these."""
        numbers = sorted(self._by_round)
        size = -(-len(numbers) // _GROUPS) or 1
        groups: list[RoundGroup] = []
        for start in range(0, len(numbers), size):
            group = numbers[start : start + size]
            total: Counter[str] = sum((self._by_round[n] for n in group), Counter())
            tokens = total["completion_tokens"] + total["instance_tokens"]
            groups.append(
                {
                    "first": group[0],
                    "last": group[-1],
                    "candidates": total["candidates"],
                    "accepted": total["accepted"],
                    "rows": total["rows"],
                    "acceptance": _ratio(total["accepted"], total["candidates"], 4),
                    "tokens_per_accepted": _ratio(total["completion_tokens"], total["accepted"]),
                    "tokens_per_row": _ratio(tokens, total["rows"]),
                }
            )
        return groups

    def _diversity(self) -> Diversity:
        """The same measures of the seeds and of samples as large, of fixed sizes, and of all."""
        seeds = self._words.encode(self._seeds, grow=True)
        sets: list[DiversityOfSet] = []
        if len(seeds):
            with_bleu = len(seeds) <= COMPARED
            sets.append(_measures("seeds", seeds, with_bleu=with_bleu, vendi=None))
        for size in sorted({len(seeds), COMPARED, COUNTED} - {0}):
            if size < self._read:
                vendi = Vendi()
                vectors = self._rows.embeddings(size)
                if vectors is not None:
                    vendi.add(vectors)
                drawn = Encoded.concatenate(taken(self._encoded, draw(self._read, size)))
                with_bleu = size <= COMPARED
                sets.append(_measures("sample", drawn, with_bleu=with_bleu, vendi=vendi.score()))
        sets.append(self._all())
        return {
            "sets": sets,
            "embedded": self._vendi.count,
            "dimension": self._vendi.dimension,
            "tokenizer": self._tokenizer,
        }

    def _all(self) -> DiversityOfSet:
        """Of every instruction, what is measured of so many."""
        vendi = self._vendi.score()
        if self._read <= COUNTED:
            everything = Encoded.concatenate(self._encoded)
            return _measures("all", everything, with_bleu=self._read <= COMPARED, vendi=vendi)
        return {
            "name": "all",
            "texts": self._read,
            "distinct": [None, None, None],
            "self_bleu": None,
            "vendi": vendi,
        }

    def _verbs(self, listen: StepListener) -> Verbs:
        chosen = draw(self._read, PARSED)
        listen("verbs", 0, len(chosen))
        sample = [text for part in taken(self._texts, chosen) for text in part.to_pylist()]
        verbs = root_verbs(sample, lambda done: listen("verbs", done, len(chosen)))
        if verbs is None:
            unparsed: dict[str, object] = {"parser": None, "install": INSTALL, "verbs": []}
            return cast(Verbs, {"instructions": self._read, **unparsed})
        return cast(Verbs, {"instructions": self._read, **verbs})


def _measures(name: str, texts: Encoded, *, with_bleu: bool, vendi: float | None) -> DiversityOfSet:
    bounds = zip(texts.offsets[:-1].tolist(), texts.offsets[1:].tolist(), strict=True)
    bleu = None
    if with_bleu:
        bleu = self_bleu([texts.tokens[start:end].tolist() for start, end in bounds])
    return {
        "name": name,
        "texts": len(texts),
        "distinct": distinct(texts),
        "self_bleu": bleu,
        "vendi": vendi,
    }


def _round_of(id_: str) -> int:
    """The round in an instruction's id; -1 where it has none."""
    number = id_.partition("-")[0][1:]
    return int(number) if number.isascii() and number.isdigit() else -1


def _written(rejected: Counter[str]) -> int:
    """Rejected instances that the model did write."""
    absent = ("no_instance", "engine_error", "refused", "not_asked")
    return rejected.total() - sum(rejected[reason] for reason in absent)


def _ratio(part: int, whole: int, digits: int = 1) -> float | None:
    return round(part / whole, digits) if whole else None


def _sorted(reasons: Counter[str]) -> dict[str, int]:
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
