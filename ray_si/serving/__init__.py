"""Models on Ray Serve, and getting hold of Ray itself."""

import os

# Set before ray is imported, by every room that imports it. Without this, a pipeline thread that
# outlives an interrupted build would start a Ray of its own.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# Every client and replica of Serve works through its metrics as often as this, where there are no
# requests, too: ten times a second, if nobody says otherwise. Ray exports them every 10 s.
os.environ.setdefault("RAY_SERVE_METRICS_EXPORT_INTERVAL_MS", "5000")
