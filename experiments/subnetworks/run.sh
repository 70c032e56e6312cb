#!/usr/bin/env bash
# Makes every run of README.md (MNIST, Fashion-MNIST, KMNIST and CMATERdb must
# be prepared; see the main README), collects the results and rewrites the
# tables. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS] [BOSTON HOUSING TABLE]
#        (default: runs housing.data)
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:-runs}
table=${2:-housing.data}
go() {
  name=$1
  shift
  python -m mtl_jax.main --workdir="$runs/subnetworks_$name" "$@"
  python experiments/results.py collect "$runs/subnetworks_$name" \
    "experiments/subnetworks/results/$name.jsonl"
}
for seed in 0 1 2; do
  go "mnist_fashion_s$seed" --config=configs/subnetworks_mnist_fashion.py \
    --config.seed=$seed
  go "boston_s$seed" --config="configs/subnetworks_boston.py:$table" \
    --config.seed=$seed
  go "controls_s$seed" --config=configs/subnetworks_mnist_fashion.py:controls \
    --config.seed=$seed
  go "four_datasets_s$seed" --config=configs/subnetworks_four_datasets.py \
    --config.seed=$seed
done
# These want an accelerator: some hours each on 2 CPU cores.
for seed in 0 1 2; do
  go "mnist_fashion_conv_s$seed" \
    --config=configs/subnetworks_mnist_fashion.py:conv --config.seed=$seed
  go "fashion_split_s$seed" --config=configs/subnetworks_fashion.py:split \
    --config.seed=$seed
  go "fashion_ensemble_s$seed" \
    --config=configs/subnetworks_fashion.py:ensemble --config.seed=$seed
done
for tasks in 10 12 13 14 16; do
  go "capacity_${tasks}_s0" --config="configs/subnetworks_capacity.py:$tasks"
done
python experiments/results.py tables
