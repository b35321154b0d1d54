"""What the texts of batches to come do to each other, found as they come in."""

from ray_si.dedup.peers.batches import Peers

__all__ = ["Peers"]
