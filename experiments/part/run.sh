#!/usr/bin/env bash
# Makes every run of README.md (MNIST, Fashion-MNIST, KMNIST, cmaterdb/bangla
# and Omniglot must be prepared; see the main README), collects the results and
# rewrites the tables. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:-runs}
for case in 0 1 2; do
  python -m mtl_jax.main --workdir="$runs/part_five_tasks_s$case" \
    --config=configs/part_five_tasks.py:$case
  python experiments/results.py collect "$runs/part_five_tasks_s$case" \
    "experiments/part/results/five_tasks_s$case.jsonl"
done
python experiments/results.py tables
