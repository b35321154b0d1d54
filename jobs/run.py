"""`ray-si` as the entry point of a Ray job; arguments and exit statuses are the same.

ray job submit --working-dir . -- python jobs/run.py build --help
"""

from ray_si.cli import app

if __name__ == "__main__":
    app(prog_name="ray-si")
