#!/usr/bin/env bash
# Makes every run of README.md (MNIST, Fashion-MNIST, KMNIST and CMATERdb must
# be prepared; see the main README), collects the results and rewrites tables
# and figure. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
go comparison grid_s0 --config=configs/comparison.py:permuted,grid
for suite in permuted rotated datasets; do
  for seed in 0 1 2; do
    go comparison ${suite}_s$seed --config=configs/comparison.py:$suite \
      --config.seed=$seed
  done
done
python experiments/results.py tables
