"""Corpora that no run of ours built."""

import ray_si.serving  # noqa: F401 - its settings come before ray
