#!/usr/bin/env bash
# Makes every run of README.md (the sets must be prepared; see the main
# README), collects the results and rewrites the tables. Each run resumes by
# itself. Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
config=configs/piggyback_mnist_family.py
cifar=configs/piggyback_split_cifar100.py
for seed in 0 1 2; do
  go piggyback root_s$seed --config=$config:root --config.seed=$seed
  # The same name for every seed: the folder alone tells them apart.
  mkdir -p "$runs/piggyback_network_s$seed"
  weights=$(realpath "$runs/piggyback_network_s$seed")/mnist.safetensors
  python -m mtl_jax export --workdir="$runs/piggyback_root_s$seed" \
    --task=mnist --network --output="$weights"
  go piggyback pretrained_s$seed --config=$config --config.seed=$seed \
    --config.backbone.weights="$weights"
  go piggyback random_s$seed --config=$config:random --config.seed=$seed
  go piggyback cifar_root_s$seed --config=$cifar:root --config.seed=$seed
  weights=$(realpath "$runs/piggyback_network_s$seed")/cifar.safetensors
  python -m mtl_jax export --workdir="$runs/piggyback_cifar_root_s$seed" \
    --task=split-00 --network --output="$weights"
  go piggyback cifar_pretrained_s$seed --config=$cifar --config.seed=$seed \
    --config.backbone.weights="$weights"
  go piggyback cifar_random_s$seed --config=$cifar:random --config.seed=$seed
  go piggyback cifar_grid_s$seed --config=$cifar:grid --config.seed=$seed \
    --config.backbone.weights="$weights"
done
python experiments/results.py tables
