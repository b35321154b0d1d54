"""The statistics and rows of a run as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ray_si.report import charts
from ray_si.report.numbers import (
    Bin,
    Diversity,
    Funnel,
    Lengths,
    RoundGroup,
    RunFacts,
    Statistics,
    Verbs,
)
from ray_si.report.reasons import REASONS
from ray_si.report.rows import BrowserRows
from ray_si.report.statistics import COMPARED
from ray_si.report.verbs import MODELS
from ray_si.report.wording import asset, number as _n, plain, share
from ray_si.scores.overview import ScoredRow, ScoreOverview, ScoresOverview

_SECTIONS = (
    ("funnel", "Funnel"),
    ("rejections", "Rejections"),
    ("rounds", "Rounds"),
    ("lengths", "Lengths"),
    ("novelty", "Novelty"),
    ("verbs", "Verbs"),
    ("diversity", "Diversity"),
    ("scores", "Scores"),
    ("rows", "Rows"),
    ("settings", "Settings"),
)


def render(statistics: Statistics, rows: BrowserRows) -> bytes:
    """The page, UTF-8, from what `statistics.collect` returns; the same for the same input.

    Every text is escaped, or JSON that JavaScript enters as text; the page's policy lets run no
    script but its own, and load nothing.
    """
    css, script = asset("page.css"), asset("page.js")
    run, settings = statistics["run"], _flat(statistics["run"]["settings"])
    policy = (
        f"default-src 'none'; style-src '{_digest(css)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    reasons = sorted(
        {row["reason"] for row in rows["rejected"]}
        | {item["reason"] for row in rows["accepted"] for item in row.get("rejected", ())}
    )
    html: str = _template().render(
        title=plain(f"Run {run['fingerprint'][:12]}" if run["fingerprint"] else "A headless run"),
        css=Markup(css),
        script=Markup(script),
        policy=policy,
        run=run | {"problems": [plain(problem) for problem in run["problems"]]},
        facts=_facts(statistics),
        banner=_banner(statistics),
        sections=[s for s in _SECTIONS if s[0] != "scores" or statistics["scores"]],
        scores=_scores(statistics["scores"]),
        figures=_figures(statistics),
        funnel=_funnel(statistics["funnel"]),
        rejections=_rejections(statistics),
        rounds=_rounds(statistics["rounds"]),
        lengths=_lengths(statistics["lengths"]),
        length_rows=_length_rows(statistics["lengths"]),
        novelty=_novelty(statistics),
        verbs=_verbs(statistics["verbs"]),
        diversity=_diversity(statistics["diversity"]),
        compared=f"{COMPARED:,}",
        browser={"note": _browser_note(rows), "reasons": [plain(reason) for reason in reasons]},
        settings=[(plain(key), plain(value)) for key, value in settings],
        settings_note=_settings_note(run),
        ray_si=statistics["ray_si"],
        scored_head=_SCORED_HEAD,
        data=rows | {"reasons": REASONS},
        statistics=statistics,
    )
    return html.encode("utf-8", "replace")  # a lone surrogate in a damaged header


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(asset("page.html"))


def _digest(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# Scores ------------------------------------------------------------------------------------------

_SCORED_HEAD = ("Value", "Instruction", "Input", "Output", "Id")


def _scores(overview: ScoresOverview | None) -> dict[str, Any] | None:
    if overview is None:
        return None
    names = [item["name"] for item in overview["scores"]]
    agreement = [
        (name, *(_n(value) for value in row))
        for name, row in zip(names, overview["agreement"], strict=True)
    ]
    scores = [_score(item) for item in overview["scores"]]
    return {"names": ["Score", *names], "agreement": agreement, "scores": scores}


def _score(item: ScoreOverview) -> dict[str, Any]:
    unscored = ", ".join(f"{plain(r)} {_n(count)}" for r, count in item["unscored"].items())
    by = f", by {item['model']}" if item["model"] else ""
    others = f"; the others: {unscored}" if unscored else ""
    note = (
        f"Kind {item['kind']}{by}. {_n(item['scored'])} of {_n(item['rows'])} rows have a value, "
        f"{_n(item['mean'])} in the mean{others}."
    )
    bins: list[Bin] = [
        {"from": b["start"], "to": b["end"], "count": b["count"]} for b in item["histogram"]
    ]
    return {
        "name": item["name"],
        "note": plain(note),
        "drawn": charts.histogram(bins, title=f"Values of {item['name']}", x="value", y="rows"),
        "rows": [(f"{b['from']:g} to {b['to']:g}", _n(b["count"])) for b in bins],
        "thresholds": [
            (f"{t['at']:g}", _n(t["kept"]), share(t["kept"], item["rows"]))
            for t in item["thresholds"]
        ],
        "ends": [
            (title, [_scored_row(row) for row in rows])
            for title, rows in (("Highest", item["best"]), ("Lowest", item["worst"]))
        ],
    }


def _scored_row(row: ScoredRow) -> tuple[str, ...]:
    texts = (row["instruction"], row["input"], row["output"], row["id"])
    return (f"{row['value']:g}", *map(plain, texts))


# Head --------------------------------------------------------------------------------------------


def _facts(statistics: Statistics) -> str:
    settings = statistics["run"]["settings"]
    generator = settings.get("generator", {}) if isinstance(settings.get("generator"), dict) else {}
    model = generator.get("model") or generator.get("engine") or "unknown model"
    facts = [str(model), f"{_n(statistics['run']['seeds'])} seed tasks"]
    if "seed" in settings:
        facts.append(f"seed {settings['seed']}")
    return plain(", ".join(facts))


def _banner(statistics: Statistics) -> dict[str, str] | None:
    run, funnel = statistics["run"], statistics["funnel"]
    if run["state"] == "finished":
        return None
    target = f" of {_n(run['target'])}" if run["target"] is not None else ""
    progress = (
        f"{_n(funnel['rounds'])} rounds are decided and {_n(funnel['accepted'])}{target} "
        f"instructions accepted; {_n(funnel['instructions_asked'])} have been asked for instances."
    )
    if run["waiting_blocks"]:
        progress += f" {_n(run['waiting_blocks'])} blocks of answers wait for their round."
    if run["state"] == "empty":
        return {
            "title": "Nothing has been generated yet",
            "text": "The run has its configuration and seed tasks, and no answer of the model.",
        }
    if run["state"] == "unfinished":
        text = f"{progress} The numbers are of what is there so far; ray-si build goes on with it."
        return {"title": "This run is not finished", "text": text}
    finished = "" if funnel["rows"] is not None else " It is not finished, or its end is damaged."
    text = f"Not all of it can be read.{finished} Of what can: {progress}"
    return {"title": "This run is damaged", "text": text}


def _figures(statistics: Statistics) -> list[tuple[str, str, str]]:
    funnel, tokens = statistics["funnel"], statistics["tokens"]
    classified = share(funnel["classification"], funnel["instructions_asked"])
    vendi = statistics["diversity"]["sets"][-1]["vendi"]
    rows = funnel["rows"] if funnel["rows"] is not None else funnel["instances"]
    figures = [
        ("Training rows", _n(rows), f"of {_n(funnel['with_instance'])} instructions"),
        (
            "Instructions",
            _n(funnel["accepted"]),
            f"of {_n(funnel['candidates'])} candidates",
        ),
        ("Acceptance", share(funnel["accepted"], funnel["candidates"]), "of all candidates"),
        ("Tokens a row", _n(tokens["per_row"]), "completion tokens, all phases"),
        ("Classification", classified, "of the instructions"),
    ]
    if vendi is not None:
        figures.append(("Vendi score", _n(vendi), "effectively different instructions"))
    return figures


# Funnel and rejections ---------------------------------------------------------------------------


def _funnel(funnel: Funnel) -> list[dict[str, Any]]:
    steps = [
        ("Completions", funnel["completions"], "answers to few-shot prompts", ""),
        ("Candidates", funnel["candidates"], "instructions found in them", "Completions"),
        ("Accepted", funnel["accepted"], "passed the filters and the gate", "Candidates"),
        ("Asked", funnel["instructions_asked"], "classified, and asked for instances", "Accepted"),
        ("With an instance", funnel["with_instance"], "have one to keep", "Asked"),
        ("Instances written", funnel["instances_written"], "found in the answers", "Asked"),
        ("Instances kept", funnel["instances"], "passed the filters", "Instances written"),
        ("Rows", funnel["rows"], "in the training shards", "Instances kept"),
    ]
    counts = {name: count for name, count, _, _ in steps}
    highest = max([1, *(count or 0 for count in counts.values())])
    made = []
    for name, count, note, before in steps:
        ratio = ""
        if count is not None and (whole := counts.get(before)):
            part = count / whole
            words = f"{100 * part:.1f} %" if part <= 1 else f"{part:.2f} for each"
            ratio = f"; {words} of {before.lower()}"
        class_ = "c2" if name in ("Instances written", "Instances kept", "Rows") else "c1"
        made.append(
            {
                "name": name,
                "count": _n(count) if count is not None else "not yet",
                "bar": charts.bar((count or 0) / highest, class_),
                "note": note + ratio,
            }
        )
    return made


def _rejections(statistics: Statistics) -> list[dict[str, Any]]:
    groups = []
    rejected = statistics["rejected"]
    for title, counts, class_ in (
        ("Candidate instructions", rejected["instructions"], "c1"),
        ("Instances", rejected["instances"], "c2"),
    ):
        total = sum(counts.values())
        rows = [
            {
                "reason": plain(reason),
                "meaning": REASONS.get(reason, ""),
                "count": _n(count),
                "share": share(count, total),
                "bar": charts.bar(count / total, class_),
            }
            for reason, count in counts.items()
            if count
        ]
        groups.append({"title": f"{title}: {_n(total)} rejected", "rows": rows})
    if statistics["contaminated"]:
        groups.append(_contaminated(statistics["contaminated"]))
    return groups


def _contaminated(sets: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What resembled each evaluation set; these are among the rejections already."""
    totals = {name: sum(counts.values()) for name, counts in sets.items()}
    total = sum(totals.values())
    rows = [
        {
            "reason": plain(name),
            "meaning": ", ".join(f"{_n(count)} {what}" for what, count in counts.items()),
            "count": _n(totals[name]),
            "share": share(totals[name], total),
            "bar": charts.bar(totals[name] / max(1, total), "c1"),
        }
        for name, counts in sets.items()
    ]
    return {"title": f"Evaluation sets: {_n(total)} of these resemble one", "rows": rows}


# Charts ------------------------------------------------------------------------------------------

_ROUND_COLUMNS = (
    "Rounds", "Candidates", "Accepted", "Rows", "Acceptance", "Tokens an instruction",
    "Tokens a row",
)  # fmt: skip


def _rounds(groups: list[RoundGroup]) -> dict[str, Any]:
    size = groups[0]["last"] - groups[0]["first"] + 1 if groups else 1
    note = "Each point is a round." if size == 1 else f"Each point stands for {_n(size)} rounds."
    acceptance = [
        (g["first"], None if g["acceptance"] is None else 100 * g["acceptance"]) for g in groups
    ]
    tokens = [(g["first"], g["tokens_per_row"]) for g in groups]
    rows = [
        (
            _n(g["first"]) if g["first"] == g["last"] else f"{_n(g['first'])} to {_n(g['last'])}",
            _n(g["candidates"]),
            _n(g["accepted"]),
            _n(g["rows"]),
            share(g["accepted"], g["candidates"]),
            _n(g["tokens_per_accepted"]),
            _n(g["tokens_per_row"]),
        )
        for g in groups
    ]
    return {
        "note": f"{note} Tokens are those of completions, of the round's prompts and of its "
        "instructions' instances.",
        "acceptance": charts.line(
            acceptance,
            title="Acceptance over rounds, in percent",
            x="round",
            y="accepted",
            top=100,
            unit=" %",
        ),
        "tokens": charts.line(
            tokens, title="Tokens a training row over rounds", x="round", y="tokens", class_="c2"
        ),
        "head": _ROUND_COLUMNS,
        "rows": rows,
    }


def _lengths(lengths: dict[str, Lengths]) -> list[dict[str, Any]]:
    return [
        {
            "drawn": charts.histogram(
                item["histogram"],
                title=f"Lengths of {name}s in words",
                x="words",
                y=f"{name}s",
                width=charts.NARROW,
            ),
            "caption": f"{name.capitalize()}s",
            "rows": [(charts.bin_name(b), _n(b["count"])) for b in item["histogram"]],
        }
        for name, item in lengths.items()
    ]


def _length_rows(lengths: dict[str, Lengths]) -> list[tuple[str, ...]]:
    rows = []
    for name, item in lengths.items():
        words, characters = item["words"], item["characters"]
        values = [words[key] for key in ("count", "mean", "median", "p95", "most")]
        values += [characters["mean"], characters["most"]]
        rows.append((f"{name.capitalize()}s", *map(_n, values)))
    return rows


def _novelty(statistics: Statistics) -> dict[str, Any]:
    scores = statistics["nearest_seed"]
    dedup = statistics["run"]["settings"].get("dedup")
    threshold = dedup.get("rouge") if isinstance(dedup, dict) else None
    bins = scores["histogram"] if scores["count"] else []
    note = "There is nothing to compare yet, or no seed tasks to compare with."
    if scores["count"]:
        note = (
            f"Every generated instruction compared with all {_n(scores['seeds'])} seed tasks; the "
            f"nearest scores {scores['mean']} on average, where 1 is the same words in one order."
        )
    mark = (threshold, "the gate") if isinstance(threshold, (int, float)) else None
    return {
        "note": note,
        "drawn": charts.histogram(
            bins,
            title="ROUGE-L with the nearest seed task",
            x="ROUGE-L F with the nearest seed task",
            y="instructions",
            width=charts.WIDE,
            mark=mark,
        ),
        "rows": [(charts.bin_name(b), _n(b["count"])) for b in bins],
    }


def _verbs(parsed: Verbs) -> dict[str, Any]:
    if parsed["parser"] is None:
        note = (
            "This needs an English parser, and none that loads was there when the page was made: "
            f"{parsed['install']} brings spaCy and its small English model "
            f"({' or '.join(MODELS)}); then make the report again."
        )
        return {"note": note, "drawn": "", "rows": []}
    of = f"all {_n(parsed['parsed'])} instructions"
    if parsed["parsed"] < parsed["instructions"]:
        of = f"a sample of {_n(parsed['parsed'])} of {_n(parsed['instructions'])} instructions"
    note = (
        f"Of {of}, {_n(parsed['with_verb'])} have a verb at the root of their sentence and "
        f"{_n(parsed['with_noun'])} a noun as its direct object, in "
        f"{_n(parsed['different_pairs'])} different pairs. Shown are the 20 most frequent verbs "
        "and 4 most frequent nouns of each, as in the paper's figure, by "
        f"{parsed['parser']}, a parser of English."
    )
    verbs = [
        item
        | {
            "verb": plain(item["verb"])[:30],
            "nouns": [n | {"noun": plain(n["noun"])[:30]} for n in item["nouns"]],
        }
        for item in parsed["verbs"]
    ]
    drawn = ""
    if verbs:
        drawn = charts.sunburst(verbs, title="Root verbs and their direct nouns")
    rows = [
        (
            item["verb"],
            ", ".join(f"{n['noun']} {_n(n['count'])}" for n in item["nouns"]) or "none",
            _n(item["count"]),
        )
        for item in verbs
    ]
    return {"note": note, "drawn": drawn, "rows": rows}


def _diversity(diversity: Diversity) -> dict[str, Any]:
    names = {"seeds": "Seed tasks", "sample": "Generated, a sample", "all": "Generated, all"}
    rows = [
        (
            names[item["name"]],
            _n(item["texts"]),
            *(_n(value) for value in item["distinct"]),
            _n(item["self_bleu"]),
            _n(item["vendi"]),
        )
        for item in diversity["sets"]
    ]
    if not diversity["embedded"]:
        vendi = "Not known here: the run stores no embeddings (dedup.cosine is off)."
    else:
        vendi = (
            f"Of {_n(diversity['embedded'])} stored embeddings; it cannot be more than their "
            f"{_n(diversity['dimension'])} dimensions. Seed tasks have none stored."
        )
    return {"rows": rows, "vendi": vendi}


# Rows, settings ----------------------------------------------------------------------------------


def _browser_note(rows: BrowserRows) -> str:
    parts = []
    for shown, total, what in (
        (len(rows["accepted"]), rows["of_accepted"], "accepted instructions"),
        (len(rows["rejected"]), rows["of_rejected"], "rejected candidates"),
    ):
        if shown < total:
            parts.append(f"a sample of {_n(shown)} of {_n(total)} {what}")
        else:
            parts.append(f"all {_n(total)} {what}")
    note = f"This page holds {parts[0]}, with their instances, and {parts[1]}."
    if "sample" in note:
        note += " Samples are drawn by a fixed seed, rejections for each reason apart."
    return note


def _settings_note(run: RunFacts) -> str:
    if not run["settings"]:
        return "The run's header, which held them, cannot be read."
    return (
        f"Fingerprint {plain(run['fingerprint'])}, over these settings and the content of the seed "
        f"tasks, {_n(run['seeds'])} of which {_n(run['seeds_classification'])} are classification."
    )


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and their values as JSON."""
    if not isinstance(values, dict) or (prefix and not values):
        return [(prefix, json.dumps(values, ensure_ascii=False))]
    pairs = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return pairs
