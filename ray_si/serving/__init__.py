"""Models on Ray Serve, and getting hold of Ray itself."""

import os

# Set before ray is imported, by every room that imports it. Without this, a pipeline thread that
# outlives an interrupted build would start a Ray of its own.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
