"""A build on Ray: the phases as Ray Data pipelines, the gate, and what watches over them."""

import ray_si.serving  # noqa: F401 - its settings come before ray
