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
# Blocks and own head masks, over random masks.
go impresslearn blocks_grid_s0 \
  --config=configs/impresslearn_permuted_mnist.py:blocks,grid
for seed in 0 1 2; do
  go impresslearn blocks_s$seed \
    --config=configs/impresslearn_permuted_mnist.py:blocks --config.seed=$seed
done
# Up to 200 masks; `many` has the rates that `many,grid` found.
go impresslearn many_grid_s0 \
  --config=configs/impresslearn_permuted_mnist.py:many,grid
for seed in 0 1 2; do
  go impresslearn many_s$seed \
    --config=configs/impresslearn_permuted_mnist.py:many --config.seed=$seed
done
# The learning rate for each K; `chosen` has what `grid` found.
go impresslearn grid_s0 --config=configs/impresslearn_rotated_mnist.py:grid
for seed in 0 1 2; do
  go impresslearn chosen_s$seed \
    --config=configs/impresslearn_rotated_mnist.py:chosen --config.seed=$seed
done
# SplitCIFAR-100 in few epochs, in the workdir of ../supsup/run.sh.
for seed in 0 1 2; do
  python -m mtl_jax.main --workdir="$runs/supsup_split_short_s$seed" \
    --config=configs/impresslearn_split_cifar100.py:after_supsup,short \
    --config.seed=$seed
  python experiments/results.py collect "$runs/supsup_split_short_s$seed" \
    "experiments/impresslearn/results/split_short_s$seed.jsonl"
done
python experiments/results.py tables
