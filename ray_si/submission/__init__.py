"""Builds as jobs of a Ray cluster."""

import ray_si.serving  # noqa: F401 - its settings come before ray
