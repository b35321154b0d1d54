"""Published benchmarks, asked and scored as published."""

from ray_si.training.benchmarks.registry import BENCHMARKS, Benchmark

__all__ = ["BENCHMARKS", "Benchmark"]
