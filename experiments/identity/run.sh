#!/usr/bin/env bash
# Makes the runs of README.md that experiments/supsup/run.sh does not (MNIST
# must be prepared; see the main README), collects the results and rewrites
# tables and figure. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
go identity supsup_2500_s0 --config=configs/supsup_2500_tasks.py --cpu_devices=2
for seed in 0 1 2; do
  for outputs in 25 200; do
    go identity "outputs_${outputs}_s$seed" --config=configs/supsup_permuted_mnist.py \
      --config.backbone.outputs=$outputs --config.seed=$seed
  done
  go identity "nameless_s$seed" --config=configs/supsup_nameless_permuted_mnist.py \
    --config.seed=$seed
  go identity "nameless_250_s$seed" \
    --config=configs/supsup_nameless_permuted_mnist.py \
    --config.suite.num_tasks=250 --config.phases.stream.tasks="(0, 250)" \
    --config.seed=$seed
  go identity "impresslearn_rotated_s$seed" \
    --config=configs/impresslearn_nameless_rotated_mnist.py \
    --config.seed=$seed
done
python experiments/results.py tables
