"""``python -m ray_si`` is the command line."""

from ray_si.cli import app

app()
