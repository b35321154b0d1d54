"""The dataset card: README.md with the header that the Hugging Face hub and `datasets` read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from ray_si.report.numbers import Funnel, Lengths, Rejections, Statistics, TokenCounts
from ray_si.report.rows import BrowserRows
from ray_si.report.wording import asset, number, plain
from ray_si.run.audit import section_of
from ray_si.run.manifests import Stats

COLUMNS = {
    "id": "of the row: the instruction's id and the instance's place",
    "instruction": "the task",
    "input": "what it is to be done with; empty where it needs nothing",
    "output": "the answer",
    "is_classification": "whether the task was taken for a classification",
    "instruction_id": "of the instruction, which several rows may share",
    "round": "of the bootstrap in which the instruction was written",
    "demonstrations": "ids of the examples in the prompt that it answers",
    "model": "that wrote the instruction",
    "revision": "of the model, where one was named",
    "request_seed": "of the request that gave the instruction",
    "instance_seed": "of the request that gave input and output",
    "most_similar": "its nearest earlier instructions by ROUGE-L, if these were kept",
    "mean_rouge": "its mean ROUGE-L with all earlier ones, if that was kept",
    "cosine": "its highest cosine similarity with an earlier one, if that was measured",
}
"""Column of a training row -> meaning."""

_IN_STEPS = {
    "answer": "number of the answer to this input that was chosen",
    "output_logprob": "mean log-probability of that answer's tokens as the model wrote them",
}
"""The further ones of a run whose ``instances.method`` is "steps"."""

_THOUGHTS = {"reasoning": "what the model thought before it answered, if it did"}
"""The further one of a run whose ``reasoning.keep`` is set."""

_EXAMPLES = 3
_LONGEST = 600
"""Characters of a text in an example."""

_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}
"""Rows that are too many for a size category of the hub -> the category."""

_TAGS = ("synthetic", "self-instruct")


def card(numbers: Statistics, rows: BrowserRows, stats: Stats, chosen: Mapping[str, Any]) -> bytes:
    """README.md of a finished run, UTF-8, from its statistics and rows; same input, same bytes.

    ``stats`` names the shards. ``chosen`` is the configuration's ``card`` section: what it leaves
    out, the licence above all, is left out here.
    """
    splits = _splits(stats)
    title = _line(chosen.get("title") or f"Self-Instruct run {numbers['run']['fingerprint'][:12]}")
    examples = _examples(rows)
    text: str = (
        _environment()
        .from_string(asset("card.md"))
        .render(
            header=_header(numbers, splits, title, chosen),
            title=title,
            description=chosen.get("description") or "",
            licence=chosen.get("license"),
            rows=number(stats["rows"]),
            with_instance=number(numbers["funnel"]["with_instance"]),
            seeds=number(numbers["run"]["seeds"]),
            ray_si=numbers["ray_si"],
            format="Parquet" if splits and splits[0][1].endswith("parquet") else "JSON lines",
            columns=_columns(numbers["run"]["settings"]).items(),
            examples=number(len(examples)),
            cut=f"; texts are cut at {_LONGEST} characters"
            if any("…" in e for e in examples)
            else "",
            samples=examples,
            settings=_settings(numbers["run"]["settings"]),
            funnel=_funnel(numbers["funnel"], numbers["tokens"]),
            rejected=_rejected(numbers["rejected"], stats.get("left_out", {})),
            lengths=_lengths(numbers["lengths"]),
            similarity=_similarity(numbers),
        )
    )
    return text.encode("utf-8", "replace")


def _columns(settings: Mapping[str, Any]) -> dict[str, str]:
    in_steps = section_of(settings, "instances").get("method") == "steps"
    keeps_thoughts = section_of(settings, "reasoning").get("keep")
    return COLUMNS | (_IN_STEPS if in_steps else {}) | (_THOUGHTS if keeps_thoughts else {})


def _environment() -> Environment:
    # Markdown, not HTML: generated text stands in code blocks only, see `_fenced`
    return Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)


# Header ------------------------------------------------------------------------------------------


def _header(
    numbers: Statistics, splits: list[tuple[str, str]], title: str, chosen: Mapping[str, Any]
) -> str:
    values: dict[str, Any] = {"pretty_name": title}
    if chosen.get("license"):
        values["license"] = chosen["license"]
    if chosen.get("language"):
        values["language"] = list(chosen["language"])
    values["task_categories"] = ["text-generation"]
    values["tags"] = list(dict.fromkeys([*_TAGS, *chosen.get("tags", ())]))
    values["size_categories"] = [_size(numbers["funnel"]["rows"] or 0)]
    if splits:
        files = [{"split": split, "path": path} for split, path in splits]
        values["configs"] = [{"config_name": "default", "data_files": files}]
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def _splits(stats: Stats) -> list[tuple[str, str]]:
    """Names of the splits and the paths of their shards, in Parquet where there are both."""
    suffixes_of: dict[str, set[str]] = {}
    for shard in stats["shards"]:
        if match := re.fullmatch(r"data/(\w+)-\d+-of-\d+\.(\w+)", shard["key"]):
            suffixes_of.setdefault(match[1], set()).add(match[2])
    return [
        (split, f"data/{split}-*.{'parquet' if 'parquet' in suffixes else min(suffixes)}")
        for split, suffixes in suffixes_of.items()
    ]


def _size(rows: int) -> str:
    return next((name for limit, name in _SIZES.items() if rows < limit), "1B<n<10B")


# Body --------------------------------------------------------------------------------------------


def _settings(settings: dict[str, Any]) -> list[tuple[str, str]]:
    generator, dedup = settings["generator"], settings["dedup"]
    if other := settings.get("instance_generator"):
        models = [
            ("model of the instructions", _model(generator)),
            ("model of classes, inputs and outputs", _model(other)),
        ]
    else:
        models = [("model", _model(generator))]
    pairs = [
        *models,
        ("engine", _code(generator["engine"])),
        ("prompts", f"{generator['prompt_style']} style"),
        ("seed", str(settings["seed"])),
        ("ROUGE-L F with every earlier instruction", f"at most {dedup['rouge']}"),
    ]
    if dedup["cosine"] is not None:
        name = "cosine similarity with every earlier instruction"
        pairs.append(
            (name, f"at most {dedup['cosine']}, by {_code(settings['embedder']['model'])}")
        )
    return pairs


def _model(generator: dict[str, Any]) -> str:
    model = generator["model"] or f"none ({generator['engine']} engine)"
    return _code(model) + (f", revision {generator['revision']}" if generator["revision"] else "")


def _funnel(funnel: Funnel, tokens: TokenCounts) -> list[tuple[str, str]]:
    counts = [
        ("prompts for instructions", funnel["completions"]),
        ("candidate instructions", funnel["candidates"]),
        ("accepted", funnel["accepted"]),
        ("of these, classification tasks", funnel["classification"]),
        ("with an instance to keep", funnel["with_instance"]),
        ("rows", funnel["rows"]),
        ("completion tokens a row", tokens["per_row"]),
    ]
    return [(name, number(count)) for name, count in counts]


def _rejected(rejected: Rejections, left_out: Mapping[str, int]) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{_code(r)} {number(n)}" for r, n in reasons.items()))
        for name, reasons in (
            ("Instructions", rejected["instructions"]),
            ("Instances", rejected["instances"]),
            ("Instances that passed, by `output.keep`,", left_out),
        )
        if reasons
    ]


def _lengths(lengths: dict[str, Lengths]) -> list[list[str]]:
    rows = []
    for name, item in lengths.items():
        words = item["words"]
        shown = (words["mean"], words["median"], words["p95"], words["most"])
        rows.append([f"{name}s", *map(number, shown)])
    return rows


def _similarity(numbers: Statistics) -> str:
    nearest, last = numbers["nearest_seed"], numbers["diversity"]["sets"][-1]
    parts = []
    if nearest["mean"] is not None:
        parts.append(
            f"The seed task nearest to an instruction has a ROUGE-L F of {nearest['mean']} with "
            "it, on average."
        )
    if last["vendi"] is not None:
        parts.append(
            f"The Vendi score of the instructions' embeddings (arXiv 2210.02410) is "
            f"{number(last['vendi'])}."
        )
    return "\n".join(parts)


# Generated text ----------------------------------------------------------------------------------


def _examples(rows: BrowserRows) -> list[str]:
    """Code blocks with a row of the first instructions drawn that have one."""
    examples = []
    by_id = {row["id"]: row for row in rows["accepted"]}
    with_rows = [by_id[id_] for id_ in rows["drawn"] if by_id[id_].get("instances")]
    for row in with_rows[:_EXAMPLES]:
        instance = row["instances"][0]
        texts = {
            "instruction": row["text"],
            "input": instance["input"],
            "output": instance["output"],
        }
        cut = {k: t if len(t) <= _LONGEST else t[:_LONGEST] + "…" for k, t in texts.items()}
        examples.append(_fenced(json.dumps(cut, indent=2, ensure_ascii=False), "json"))
    return examples


def _fenced(text: str, language: str) -> str:
    """A code block that no text can end, with what does not print made visible."""
    shown = "\n".join(
        "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
        for line in text.split("\n")
    )
    ticks = max([2, *(len(run) for run in re.findall("`+", shown))]) + 1
    return f"{'`' * ticks}{language}\n{shown}\n{'`' * ticks}"


def _code(text: str) -> str:
    """A name as inline code in a table."""
    return "`" + plain(str(text)).replace("`", "'").replace("|", "\\|") + "`"


def _line(text: str) -> str:
    return " ".join(plain(text.replace("\n", " ")).split())
