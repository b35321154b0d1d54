"""Labels of Ray's nodes that mean something here."""

PRICE = "ray-si/dollars-per-hour"
"""What a node costs an hour, as a cluster's values have it: see `ray_si.provision`."""
