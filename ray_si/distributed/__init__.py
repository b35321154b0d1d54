"""The only room that imports ray: serving, the phases as Ray Data pipelines, the builder."""

import os

# Without this, a pipeline thread that outlives an interrupted build would start a Ray of its own.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
