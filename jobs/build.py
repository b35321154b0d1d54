"""`ray-si build` as the entry point of a Ray job; arguments and exit statuses are the same.

ray job submit --working-dir . -- python jobs/build.py --help
"""

import sys

from ray_si.cli import app

if __name__ == "__main__":
    app(["build", *sys.argv[1:]], prog_name="ray-si")
