"""Send a build as a job to a Ray cluster: here a head that is started on this machine.

On a cluster that is there already, the two commands are all, with its dashboard's address.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from ray.cluster_utils import Cluster

ADDRESS = "http://127.0.0.1:8270"
RAY_SI = [sys.executable, "-m", "ray_si"]
CONFIG = {
    "target_instructions": 20,
    "generator": {"engine": "replay", "model": None, "cpus": 0.5},
    "bootstrap": {"prompts_per_round": 8},
    "dedup": {"cosine": None},
}

if __name__ == "__main__":
    # jobs run the nodes' "python", which has to be the one with ray_si
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with open("job.yaml", "w") as file:
        yaml.safe_dump(CONFIG, file)
    head = {"num_cpus": 4, "include_dashboard": True, "dashboard_port": 8270}
    head |= {"dashboard_agent_listen_port": 8271}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        # the run lies where all nodes reach it: here a folder, on a real cluster s3://bucket/prefix
        run = sys.argv[1] if len(sys.argv) > 1 else "/tmp/ray_si_example/run"
        submit = [*RAY_SI, "submit", "job.yaml", "--out", run, "--address", ADDRESS]
        subprocess.run(submit, check=True, stdout=subprocess.DEVNULL)  # the job's log
        jobs = subprocess.check_output([*RAY_SI, "jobs", "--address", ADDRESS], text=True)
        print(jobs.count("SUCCEEDED"), "job succeeded")
    finally:
        cluster.shutdown()
    status = json.loads(subprocess.check_output([*RAY_SI, "status", run, "--json"]))
    print(status["rows"], "rows of", status["accepted"], "instructions")
