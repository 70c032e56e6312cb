#!/usr/bin/env bash
# Makes every run of README.md (MNIST must be prepared; see the main README),
# collects the results and rewrites the tables. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
for seed in 0 1 2; do
  for suite in permuted rotated; do
    go impresslearn ${suite}_s$seed \
      --config="configs/impresslearn_${suite}_mnist.py" --config.seed=$seed
  done
done
python experiments/results.py tables
