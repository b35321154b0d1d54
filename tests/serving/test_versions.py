"""Replicas of other versions are refused, since what they write would be other."""

from __future__ import annotations

import pytest
import ray

from ray_si._version import __version__
from ray_si.errors import EngineError
from ray_si.serving import replicas
from ray_si.serving.replicas import GeneratorReplica
from ray_si.serving.usage import Meter
from ray_si.serving.versions import mismatch, versions


def test_versions_are_those_of_this_environment():
    told = versions()
    assert told["ray_si"] == __version__
    assert told["ray"] == ray.__version__
    assert "vllm" not in told or told["vllm"]


def test_what_differs_is_named_and_what_only_one_has_is_no_matter():
    assert mismatch({"a": "1", "b": "2"}, {"a": "1", "c": "3"}, "x has") is None
    message = mismatch({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, "the first replica has")
    assert message == "b 2 (the first replica has 3): give all nodes the same image or packages"


def test_the_meter_holds_replicas_against_the_driver_and_the_first_of_their_engine():
    meter = Meter(expected={"ray_si": "0.2.0"})
    told = {"ray_si": "0.2.0", "transformers": "5.1"}
    assert "the driver has 0.2.0" in (meter.joins("vllm", told | {"ray_si": "0.1.0"}) or "")
    assert meter.joins("vllm", told) is None
    assert meter.joins("vllm", told) is None
    problem = meter.joins("vllm", told | {"transformers": "5.2"})
    assert problem
    assert "transformers 5.2 (the first replica has 5.1)" in problem
    assert meter.joins("openai", told | {"transformers": "5.2"}) is None
    assert meter.versions() == {"vllm": told, "openai": told | {"transformers": "5.2"}}


def test_a_replica_of_another_version_does_not_start(ray_session, monkeypatch):
    meter = ray.remote(num_cpus=0)(Meter).remote()
    GeneratorReplica("replay", None, {}, None, meter)
    monkeypatch.setattr(replicas, "versions", lambda: versions() | {"ray": "2.1.0"})
    with pytest.raises(EngineError, match=r"this replica has ray 2\.1\.0 \(the first replica"):
        GeneratorReplica("replay", None, {}, None, meter)
