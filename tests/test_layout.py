"""Tests are where a module's path says: ray_si/ROOM/MODULE.py has tests/ROOM/test_MODULE.py."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

from tests.syntax import PACKAGE, TREES

TESTS = Path(__file__).parent

THROUGH_ANOTHER = {
    "audit/checkpoint_checks": "audit/test_verify.py",
    "audit/instance_checks": "audit/test_verify.py",
    "audit/score_checks": "scores/test_subset.py",
    "audit/selection_checks": "scores/test_subset.py",
    "audit/finished_run": "audit/test_regate.py",
    "audit/regated_instances": "audit/test_regate.py",
    "audit/stored_round": "audit/test_verify.py",
    "audit/verify_rounds": "audit/test_verify.py",
    "build/answering": "build/test_stages.py",
    "build/bootstrap": "build/test_builder.py",
    "build/phases": "build/test_builder.py",
    "build/sharding/deduplicator": "build/test_gate.py",
    "build/sharding/gpus": "build/test_gate.py",
    "build/sharding/pool": "build/test_gate.py",
    "cli/data": "corpora/test_dedup.py",
    "cli/jobs": "cluster/test_jobs.py",
    "cli/planning_output": "cli/test_planning.py",
    "cli/pushing": "export/test_hub.py",
    "cli/reporting": "cli/test_runs.py",
    "cli/training_output": "experiments/test_loop.py",
    "corpora/options": "corpora/test_dedup.py",
    "corpora/reading": "corpora/test_spread.py",
    "config/scores": "scores/test_compute.py",
    "config/sections/answers": "config/test_schema.py",
    "config/sections/bootstrap": "config/test_schema.py",
    "config/sections/dedup": "config/test_schema.py",
    "config/sections/output": "config/test_schema.py",
    "dedup/batch": "dedup/test_deduplicator.py",
    "dedup/cosine/chunk": "dedup/cosine/test_index.py",
    "dedup/cosine/host": "dedup/cosine/test_index.py",
    "dedup/peers/walk": "dedup/peers/test_batches.py",
    "dedup/pool": "dedup/test_deduplicator.py",
    "dedup/result": "dedup/test_deduplicator.py",
    "dedup/segment": "dedup/test_rouge_index.py",
    "engines/models": "engines/test_registry.py",
    "engines/openai/errors": "engines/openai/test_engine.py",
    "engines/replay/script": "engines/replay/test_engine.py",
    "export/dataset_files": "export/test_hub.py",
    "export/hub_errors": "export/test_hub.py",
    "report/charts": "report/test_page.py",
    "report/files": "report/test_card.py",
    "report/rows": "report/test_statistics.py",
    "run/audit": "audit/test_verify.py",
    "run/manifests": "audit/test_verify.py",
    "run/tokens": "integration/test_budget.py",
    "self_instruct/headings": "self_instruct/test_parsing.py",
    "scores/checks/arithmetic": "scores/checks/test_scorer.py",
    "scores/kinds/function": "scores/test_compute.py",
    "scores/joined": "scores/test_preference.py",
    "scores/kinds/logprob": "scores/test_answers.py",
    "scores/kinds/reward": "build/test_scoring.py",
    "scores/job": "scores/test_compute.py",
    "scores/checks/labels": "scores/checks/test_scorer.py",
    "scores/kinds/length": "scores/test_compute.py",
    "scores/registry": "scores/test_compute.py",
    "scores/rows": "scores/test_compute.py",
    "serving/custodian": "serving/test_custody.py",
    "serving/loads": "serving/test_routing.py",
    "storage/base": "storage/test_objects.py",
    "run/strays": "run/test_run.py",
    "storage/corpus_writer": "storage/test_corpus.py",
    "storage/s3_errors": "storage/test_s3.py",
    "training/job": "experiments/test_finetune.py",
}
"""Modules without a test file of their own -> the file whose tests fail with them."""


def modules_with_logic() -> list[str]:
    """Paths below the package, without their suffix, of modules in which a function does something.

    A function that is a docstring alone, as in a protocol, does nothing.
    """
    return [
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.name.startswith("__")
        and any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _does_something(node)
            for node in ast.walk(TREES[path])
        )
    ]


def _does_something(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(not isinstance(statement, ast.Expr | ast.Pass) for statement in function.body)


def own_tests(module: str) -> Path:
    folder, _, name = module.rpartition("/")
    return TESTS / folder / f"test_{name}.py"


def test_every_module_with_logic_has_its_tests_where_its_path_says():
    missing = [name for name in modules_with_logic() if not own_tests(name).is_file()]
    assert sorted(THROUGH_ANOTHER) == missing, "write its tests, or name the file that has them"


def test_the_files_named_instead_are_there():
    for file in THROUGH_ANOTHER.values():
        assert (TESTS / file).is_file(), file


def test_no_folder_of_tests_is_passed_over(pytestconfig):
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    names = {part for folder in folders for part in folder.parts}
    patterns = pytestconfig.getini("norecursedirs")
    assert "build" in names
    assert not [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
