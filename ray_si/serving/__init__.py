"""Models on Ray Serve, and getting hold of Ray itself."""

import os

# Set before ray is imported, by every room that imports it. Without this, a pipeline thread that
# outlives an interrupted build would start a Ray of its own.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# Between looks of each client and replica of Serve at its metrics, requests or none, in
# milliseconds. Serve would look every 100; Ray exports what they saw every 10,000.
os.environ.setdefault("RAY_SERVE_METRICS_EXPORT_INTERVAL_MS", "5000")
