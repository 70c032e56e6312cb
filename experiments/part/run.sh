#!/usr/bin/env bash
# Makes every run of README.md (MNIST, Fashion-MNIST, KMNIST, cmaterdb/bangla
# and Omniglot must be prepared; see the main README), collects the results and
# rewrites the tables. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
for case in 0 1 2; do
  go part bangla_s$case --config=configs/part_five_tasks.py:$case
  go part bangla_4_s$case --config=configs/part_five_tasks.py:$case,4
done
# One epoch of the CIFAR-100 config at 1/8 of the width, on drawn images.
python experiments/part/stand_in.py --config=configs/part_cifar100.py \
  --workdir="$runs/part_stand_in_cifar100_s0" \
  --config.backbone.options.width=8 --config.phases.part.epochs=1 \
  --config.transparency=0
python experiments/results.py collect "$runs/part_stand_in_cifar100_s0" \
  experiments/part/results/stand_in_cifar100_s0.jsonl
python experiments/results.py tables
