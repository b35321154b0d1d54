"""The files that make a cluster, rendered from one small file of values; nothing is started."""
