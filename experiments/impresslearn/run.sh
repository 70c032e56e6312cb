#!/usr/bin/env bash
# Makes every run of README.md (MNIST must be prepared; see the main README),
# collects the results and rewrites the tables. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:-runs}
for seed in 0 1 2; do
  for suite in permuted rotated; do
    name=${suite}_s$seed
    python -m mtl_jax.main --workdir="$runs/impresslearn_$name" \
      --config="configs/impresslearn_${suite}_mnist.py" --config.seed=$seed
    python experiments/results.py collect "$runs/impresslearn_$name" \
      "experiments/impresslearn/results/$name.jsonl"
  done
done
python experiments/results.py tables
