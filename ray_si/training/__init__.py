"""Downstream of the shards: fine-tuning on them, and measuring what that did."""
