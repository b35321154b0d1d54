"""`ray-si finetune` as a job: takes its arguments, and runs on the cluster it is submitted to.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/finetune.py s3://datasets/mine --model Qwen/Qwen2.5-7B --to s3://models/mine \\
        --workers 8 --set gpu=true --set batch_size=64
"""

from __future__ import annotations

import sys

from ray_si.cli import app

if __name__ == "__main__":
    app(["finetune", "--address", "auto", *sys.argv[1:]])
