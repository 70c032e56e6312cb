#!/usr/bin/env bash
# Makes every run of README.md (MNIST must be prepared; see the main README),
# collects the results and rewrites the table. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
for seed in 0 1 2; do
  go supsup "permuted_lenet_s$seed" --config=configs/supsup_permuted_mnist.py \
    --config.seed=$seed
  go supsup "permuted_fc1024_s$seed" --config=configs/supsup_permuted_mnist.py \
    --config.backbone.model=fc1024 --config.backbone.outputs=500 \
    --config.suite.num_tasks=50 --config.suite.number_width=2 \
    --config.phases.supermasks.tasks="(0, 50)" \
    --config.seed=$seed
  go supsup "rotated_fc1024_s$seed" --config=configs/supsup_rotated_mnist.py \
    --config.seed=$seed
done
go supsup fc1024_250_s0 --config=configs/supsup_permuted_mnist.py \
  --config.backbone.model=fc1024 --config.backbone.outputs=500
# In 12 epochs; ../impresslearn/run.sh goes on in the workdirs of the masks.
for seed in 0 1 2; do
  go supsup "split_short_s$seed" --config=configs/supsup_split_cifar100.py:short \
    --config.seed=$seed
done
go supsup split_short_controls_s0 --config=configs/supsup_split_cifar100.py:short,controls
python experiments/results.py tables
