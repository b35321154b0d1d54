"""A finished run as training rows: shards, training files in other formats, the hub."""
