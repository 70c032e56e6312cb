#!/usr/bin/env bash
# Makes every run of README.md (the sets must be prepared; see the main
# README), collects the results and rewrites the tables. Each run resumes by
# itself. Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
for seed in 0 1 2; do
  go munet preliminary_s$seed --config=configs/munet_preliminary.py --config.seed=$seed
  go munet one_block_s$seed --config=configs/munet_preliminary.py:one_block \
    --config.seed=$seed
done
go munet root_s0 --config=configs/munet_root.py
root=$runs/munet_root.safetensors
python -m mtl_jax export --workdir="$runs/munet_root_s0" --task=omniglot \
  --network --output="$root"
weights=--config.backbone.weights=$root
for seed in 0 1 2; do
  go munet characters_s$seed --config=configs/munet_characters.py --config.seed=$seed "$weights"
  go munet leaking_s$seed --config=configs/munet_characters.py:leaking --config.seed=$seed \
    "$weights"
done
python experiments/results.py tables
