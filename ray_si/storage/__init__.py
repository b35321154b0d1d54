"""Where a run lives: objects, shards, the layout of a run, seed tasks; and corpora of others."""
