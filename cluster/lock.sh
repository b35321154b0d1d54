#!/bin/sh
# Writes the locks from which images are built, for Python 3.11 on linux/amd64: everything that
# pyproject.toml and the constraints leave open, resolved. Needs uv. From the root of a checkout:
#   sh cluster/lock.sh
set -e
lock() {   # constraints, then what is asked for
  constraints=$1; shift
  printf '%s\n' "$@" | uv pip compile --quiet --no-header --no-annotate \
    --python-platform x86_64-manylinux_2_28 --python-version 3.11 -c "$constraints" - | grep -v '^\.$'
}
CUDA='^(torch|triton|cuda-|nvidia-)'
lock constraints.txt '.[bundled,openai,train,export,hub]' torch > cluster/all.txt
grep -Ev "$CUDA" cluster/all.txt > cluster/requirements.txt
grep -E "$CUDA" cluster/all.txt > cluster/requirements-cuda.txt
lock constraints-vllm.txt '.[bundled,openai,export,hub]' vllm > cluster/requirements-vllm.txt
rm cluster/all.txt
