#!/usr/bin/env bash
# Makes every result of README.md (MNIST must be prepared; see the main
# README) and rewrites its tables. Each training run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
results=experiments/hopsupsup/results
try() {
  name=$1
  seed=$2
  shift 2
  python experiments/hopsupsup/evaluate.py \
    --workdir="$runs/hopsupsup_train_s$seed" \
    --out="$results/${name}_s$seed.jsonl" \
    "$@"
}
for seed in 0 1 2; do
  go hopsupsup train_s$seed --config=configs/hopsupsup_split_mnist.py \
    --config.seed=$seed
  try grid $seed --grid --orders=2
  try valid $seed --split=valid
done
for seed in 0 1 2; do
  for count in 2 5 10 20 50; do
    try "decoys_$count" $seed --split=valid --decoys=$count
  done
  try hebb $seed --split=valid --rule=hebb
done
for seed in 0 1 2; do
  try test $seed --split=test --orders=5
  try chosen $seed --split=test --orders=5 --learning_rate=5000 \
    --gamma=0.015
done
python experiments/results.py tables
