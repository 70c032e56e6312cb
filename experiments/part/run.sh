#!/usr/bin/env bash
# Makes every run of README.md (MNIST, Fashion-MNIST, KMNIST, cmaterdb/bangla
# and Omniglot must be prepared; see the main README), collects the results and
# rewrites the tables. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
source "$(dirname "$0")/../run.bash"
for case in 0 1 2; do
  go part five_tasks_s$case --config=configs/part_five_tasks.py:$case
done
python experiments/results.py tables
