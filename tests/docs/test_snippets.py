"""Fenced blocks of the pages: each is run or read as its reader would.

Shell commands are parsed by what they call, configurations by the configuration, Python compiled
and its cheap blocks run. Texts that show output or files are held by the tests named in `HELD`.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex

import numpy as np
import pytest
import typer
import yaml

from ray_si.cli import app
from ray_si.config import RunConfig
from ray_si.config.file import parse_config, read_values
from ray_si.config.scores import scores_of
from ray_si.config.sections.base import Section
from ray_si.run.seeds import load_seeds
from tests.pages import ROOT, blocks, command_lines, commands, parse

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMAND = typer.main.get_command(app)
MAKEFILE = (ROOT / "Makefile").read_text()
REFERENCE = (ROOT / "docs" / "configuration.md").read_text()
WRITTEN = {"docs/commands.md"}
"""By `make docs`: their console blocks are usages, not commands."""

HELD = {
    "README.md": ("pages", "the_readme_shows_what_the_demo_printed"),
    "examples/README.md": ("examples", "the_page_shows_the_output_of_every_example"),
    "docs/architecture.md": ("snippets", "the_operators_shown_are_those_of_the_code"),
    "docs/finetuning.md": ("snippets", "files_of_a_fine_tuning_are_named_in_its_code"),
    "docs/runs.md": ("examples", "a_run_has_the_files_that_its_page_names"),
    "docs/scores.md": ("examples", "scores_have_the_files_that_their_page_names"),
}
"""Page with blocks of text -> module and name of the test that holds them."""


def named(page):
    return str(page.relative_to(ROOT))


def of_kind(*kinds):
    """Pages with blocks of these kinds, each page once for `pytest.mark.parametrize`."""
    return [page for page in PAGES if {kind for kind, _ in blocks(page.read_text())} & {*kinds}]


def shell_lines(page):
    text = page.read_text()
    console = [] if named(page) in WRITTEN else command_lines(text, "console")
    return [line for line in command_lines(text) + console if line.strip()]


def test_every_block_is_of_a_kind_that_a_test_looks_at():
    found = {(kind, named(page)) for page in PAGES for kind, _ in blocks(page.read_text())}
    assert {kind for kind, _ in found} == {"sh", "console", "yaml", "json", "python", "text"}
    assert {page for kind, page in found if kind == "text"} == set(HELD)
    for module, name in HELD.values():
        assert f"def test_{name}(" in (ROOT / f"tests/docs/test_{module}.py").read_text()


# Shell ----------------------------------------------------------------------------------------


def check_make(words):
    for word in words[1:]:
        name, is_variable, _ = word.partition("=")
        assert re.search(rf"^{name} \?= " if is_variable else rf"^{name}:", MAKEFILE, re.M), word


def check_python(words):
    if words[1:] == ["-m", "build"]:
        return
    assert words[1].startswith(("examples/", "benchmarks/"))
    compile((ROOT / words[1]).read_text(), words[1], "exec")


def check_pip(words):
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    assert words[1] == "install"
    assert {word for word in words if word.startswith("-")} <= {"-c", "--no-deps"}
    for word in words[2:]:
        if match := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(match[1].split(",")) <= set(extras)
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file()
        elif not word.startswith("-"):
            assert word == "build" or word in MAKEFILE


def check_export(words):
    assert re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[1])


CHECKS = {
    "ray-si": lambda words: parse(COMMAND, words),
    "make": check_make,
    "python": check_python,
    ".venv/bin/python": check_python,
    "pip": check_pip,
    "export": check_export,
}


@pytest.mark.parametrize("page", of_kind("sh", "console"), ids=named)
def test_commands_take_the_arguments_given(page):
    for line in shell_lines(page):
        words = shlex.split(line, comments=True)
        assert words[0] in CHECKS, f"nobody checks: {line}"
        CHECKS[words[0]](words)


@pytest.mark.parametrize("page", of_kind("sh"), ids=named)
def test_overrides_in_commands_name_keys_that_there_are(page):
    for words in commands(shell_lines(page), "ray-si"):
        overrides = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
        if words[1] == "score":
            values = read_values(None, [f"scores.{override}" for override in overrides])
            scores_of(values.get("scores", {}))
            continue
        if words[1] == "cluster":
            continue  # keys of the values; tests/cluster looks at those
        for override in overrides:
            key = override.partition("=")[0]
            if words[1] == "loop":
                key = key.removeprefix("training.").removeprefix("evaluation.")
            assert f"`{key}`" in REFERENCE or "prices" in override, override
        read_values(None, overrides)


@pytest.mark.parametrize("page", of_kind("sh"), ids=named)
def test_files_that_commands_name_are_there(page):
    for line in shell_lines(page):
        for word in re.findall(r"\b(?:configs|jobs|benchmarks|examples|cluster)/[\w./-]+\w", line):
            assert (ROOT / word).exists(), f"{word} in: {line}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_within_sentences_name_verbs_and_options_that_there_are(page):
    verbs = vars(COMMAND)["commands"]
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for words in re.findall(r"`ray-si ((?:[^`])+)`", text):
        verb, *rest = words.split()
        if verb in ("VERB", "--help"):
            continue
        assert verb in verbs, words
        inner = verbs[verb]
        if rest and hasattr(inner, "commands"):
            inner = inner.commands[rest[0]]
        options = {option for each in inner.params for option in each.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= options, words


def sections():
    """Names of the sections of a run's configuration."""
    fields = RunConfig.model_fields.items()
    return [
        name
        for name, field in fields
        if any(
            isinstance(kind, type) and issubclass(kind, Section)
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
        )
    ]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_keys_within_sentences_are_keys_that_there_are(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    start = "|".join(sections())
    for key in re.findall(rf"`((?:{start})\.[a-z_.]+)(?:[:=][^`]*)?`", text):
        same = key.replace("instance_generator.", "generator.")
        parent = same.rpartition(".")[0]
        assert any(f"`{name}`" in REFERENCE for name in (same, parent) if "." in name), key


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", of_kind("yaml"), ids=named)
def test_configurations_are_taken_as_they_stand(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openings.txt").write_text("".join(f"Give {n} tips for\n" for n in range(16)))
    for kind, block in blocks(page.read_text()):
        if kind != "yaml":
            continue
        values = yaml.safe_load(block)
        if "applications" in values:
            from ray.serve.schema import ServeDeploySchema

            ServeDeploySchema.parse_obj(values)
            continue
        values.setdefault("generator", {"engine": "replay", "model": None})
        values["generator"].setdefault("model", "smollm2-135m-instruct")
        parse_config(values)


@pytest.mark.parametrize("page", of_kind("json"), ids=named)
def test_rows_of_json_are_read(page, tmp_path):
    lines = [
        line
        for kind, text in blocks(page.read_text())
        if kind == "json"
        for line in text.split("\n")
    ]
    rows = [json.loads(line) for line in lines if line]
    if named(page) == "docs/building.md":
        (tmp_path / "seeds.jsonl").write_text("\n".join(lines))
        (task,), _ = load_seeds(str(tmp_path / "seeds.jsonl"))
        assert task.instruction == rows[0]["instruction"]


def test_files_of_a_fine_tuning_are_named_in_its_code():
    (tree,) = [
        text for kind, text in blocks((ROOT / "docs/finetuning.md").read_text()) if kind == "text"
    ]
    names = set(re.findall(r"(\w+)/|(\w+\.\w+)", tree))
    names = {folder or file for folder, file in names} - {"NAME"}
    rooms = ("experiments", "training")
    code = "".join(
        path.read_text() for room in rooms for path in (ROOT / "ray_si" / room).rglob("*.py")
    )
    assert len(names) > 8
    for name in names:
        assert re.search(rf"[\"/]{re.escape(name)}[\"/]", code), name


def test_the_operators_shown_are_those_of_the_code():
    from ray_si.build import stages

    (plan,) = [
        text for kind, text in blocks((ROOT / "docs/architecture.md").read_text()) if kind == "text"
    ]
    chain, _, executed = plan.partition("\n\n")
    operators = list(stages._CORES)
    assert all(callable(getattr(stages, name)) for name in operators)
    assert re.findall(r"MapBatches\((\w+)\)", chain) == operators
    assert re.findall(r"MapBatches\((\w+)\)", executed) == operators


# Python ---------------------------------------------------------------------------------------


def python_blocks(page):
    return [text for kind, text in blocks(page.read_text()) if kind == "python"]


@pytest.mark.parametrize("page", of_kind("python"), ids=named)
def test_python_compiles_and_imports_what_there_is(page):
    for block in python_blocks(page):
        body = ast.parse(block).body
        imports = [item for item in body if isinstance(item, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), str(page), "exec"), {})


def test_the_gate_as_a_library_runs_as_its_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    class Model:
        @staticmethod
        def encode(texts):
            return rng.standard_normal((len(texts), 8)).astype(np.float32)

    names = {
        "model": Model,
        "test_questions": ["Name the longest river of Egypt."],
        "candidates": ["Write a poem about rain.", "Write a poem about the rain."],
        "embeddings": rng.standard_normal((3, 384)).astype(np.float32),
        "others": rng.standard_normal((2, 384)).astype(np.float32),
    }
    run = [block for block in python_blocks(ROOT / "docs" / "dedup.md") if "ray_si" in block]
    for block in run:
        exec(compile(block, "dedup.md", "exec"), names)
    assert names["result"].accepted == [0]
    assert names["result"].rejected[0].reason == "rouge"
    assert list(names["ids"]) == [-1, -1]
    assert {path.name for path in tmp_path.iterdir()} == {"pool.index", "pool.cosine"}
