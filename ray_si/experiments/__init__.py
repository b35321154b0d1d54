"""Models trained on a run, evaluated, and compared."""

import ray_si.serving  # noqa: F401 - its settings come before ray
