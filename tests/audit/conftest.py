"""Rounds of a run that was bootstrapped in this process."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ray_si.audit.candidate_checks import check_requests
from ray_si.audit.stored_round import StoredRound
from ray_si.config.file import parse_config
from ray_si.run.audit import Audit, Check
from ray_si.run.seeds import load_seeds
from tests.bootstrapped import bootstrapped
from tests.builds import replay_values

SEEDS = load_seeds("bundled")[0]


def encode(texts):
    """Vectors in which texts that begin with the same words lie close."""
    vectors = []
    for text in texts:
        words = text.lower().split()
        seeds = [int(hashlib.sha256(w.encode()).hexdigest()[:8], 16) for w in words]
        parts = [np.random.default_rng(seed).standard_normal(16) for seed in seeds]
        weighted = [part / (place + 1) for place, part in enumerate(parts)]
        vectors.append(np.sum(weighted, axis=0))
    return np.asarray(vectors, np.float32)


@pytest.fixture(scope="session")
def rounds(tmp_path_factory):
    """Configuration, audit, and each stored round with its raw rows; some refused by each gate."""
    return _rounds(tmp_path_factory, "Flat")


@pytest.fixture(scope="session")
def rounds_of_exact_index(tmp_path_factory):
    """The same, with the index that knows no cosines below the threshold."""
    return _rounds(tmp_path_factory, "exact")


def _rounds(tmp_path_factory, index):
    values = replay_values() | {"target_instructions": 57}
    values["dedup"] = {"rouge": 0.6, "cosine": 0.9, "most_similar": 2, "embedding_index": index}
    run = bootstrapped(tmp_path_factory.mktemp("rounds") / "run", values, encode)
    config, audit, check = parse_config(values), Audit(run), Check("reading")
    assert audit.check_manifests().ok
    stored = [
        (
            StoredRound.read(audit, round_, check),
            check_requests(check, config, audit, round_),
        )
        for round_ in range(len(audit.rounds))
    ]
    assert check.ok
    assert len(stored) > 2
    reasons = {row["reason"] for one, _ in stored for row in one.rejected}
    assert reasons > {"rouge", "cosine", "target_reached"}
    return config, audit, stored
