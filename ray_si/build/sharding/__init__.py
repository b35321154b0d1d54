"""The gate's pool over actors, on processors or GPUs, with the decisions of one process."""

from ray_si.build.sharding.deduplicator import ShardedDeduplicator
from ray_si.build.sharding.gpus import reserved_gpus
from ray_si.build.sharding.pool import ShardedPool

__all__ = ["ShardedDeduplicator", "ShardedPool", "reserved_gpus"]
