#!/bin/bash
# One build on the nodes of a Slurm allocation:
#   sbatch --nodes 4 --gpus-per-node 8 --time 24:00:00 cluster/slurm.sh CONFIG RUN
# RUN is s3://bucket/prefix, or a folder that all nodes share; so is the environment, ENVIRONMENT.
#SBATCH --job-name=ray-si
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@300
#SBATCH --output=ray-si-%j.log
set -euo pipefail
config=$1 run=$2
environment=${ENVIRONMENT:-$HOME/ray_si/.venv}

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes 1 --ntasks 1 --nodelist "$head" hostname --ip-address | awk '{print $1}'):6379

trap 'kill -TERM $!' TERM  # five minutes before the time is up: what is finished is kept
# on every node: the first becomes the head, waits for the others, runs the build, and ends Ray
srun --nodes "$SLURM_JOB_NUM_NODES" --ntasks "$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 \
  "$environment/bin/ray" symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "${SLURM_CPUS_ON_NODE:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
  -- "$environment/bin/ray-si" build "$config" --out "$run" --address "$address" --keep-log &
while kill -0 $! 2>/dev/null; do wait $! || true; done  # a signal ends the wait, not the build
wait $!
