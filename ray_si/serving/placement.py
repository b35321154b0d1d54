"""What a generator's replica is given of the cluster."""

from __future__ import annotations

from typing import Any

from ray_si.config import Generator


def placement(generator: Generator) -> dict[str, Any]:
    """Deployment options: the cores and GPUs of a replica.

    A vLLM model over several GPUs has a placement group, as in Ray's own `ray.serve.llm`: a bundle
    for each GPU, close together, of which vLLM's workers take the GPUs and the replica itself, in
    the first, the cores.
    """
    gpus = generator.vllm.tensor_parallel_size * generator.vllm.pipeline_parallel_size
    actor: dict[str, Any] = {"num_cpus": generator.cpus, "num_gpus": generator.gpus}
    kind = generator.accelerator
    if generator.engine != "vllm" or gpus == 1:
        if kind:
            actor["accelerator_type"] = kind
        return {"ray_actor_options": actor}
    bundle = {"GPU": 1.0} | ({f"accelerator_type:{kind}": 0.001} if kind else {})
    first = bundle | {"CPU": generator.cpus}
    return {
        "ray_actor_options": {"num_cpus": generator.cpus},
        "placement_group_bundles": [first] + [bundle] * (gpus - 1),
        "placement_group_strategy": "PACK",
    }
