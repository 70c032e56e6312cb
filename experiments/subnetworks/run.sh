#!/usr/bin/env bash
# Makes every run of README.md (MNIST, Fashion-MNIST, KMNIST and CMATERdb must
# be prepared; see the main README), collects the results and rewrites the
# tables. Each run resumes by itself.
# Usage: run.sh [FOLDER FOR WORKDIRS] [BOSTON HOUSING TABLE]
#        (default: runs boston_housing.data)
source "$(dirname "$0")/../run.bash"
table=${2:-boston_housing.data}
for seed in 0 1 2; do
  go subnetworks "mnist_fashion_s$seed" --config=configs/subnetworks_mnist_fashion.py \
    --config.seed=$seed
  go subnetworks "boston_s$seed" --config="configs/subnetworks_boston.py:$table" \
    --config.seed=$seed
  go subnetworks "controls_s$seed" --config=configs/subnetworks_mnist_fashion.py:controls \
    --config.seed=$seed
  go subnetworks "four_datasets_s$seed" --config=configs/subnetworks_four_datasets.py \
    --config.seed=$seed
  for kind in split ensemble; do
    go subnetworks "fashion_${kind}_small_s$seed" \
      --config="configs/subnetworks_fashion.py:$kind,small" --config.seed=$seed
  done
done
go subnetworks mnist_fashion_conv_strided_s0 \
  --config=configs/subnetworks_mnist_fashion.py:conv,strided
# These want an accelerator: on 2 CPU cores (--cpu_devices=2) an epoch takes, as estimated
# from a step, 10 minutes of E2, half of that of E6, and 25 of E7.
for seed in 0 1 2; do
  go subnetworks "mnist_fashion_conv_s$seed" \
    --config=configs/subnetworks_mnist_fashion.py:conv --config.seed=$seed
  go subnetworks "fashion_split_s$seed" --config=configs/subnetworks_fashion.py:split \
    --config.seed=$seed
  go subnetworks "fashion_ensemble_s$seed" \
    --config=configs/subnetworks_fashion.py:ensemble --config.seed=$seed
done
for seed in 0 1 2; do
  for images in 1000 5000 10000 55000; do
    go subnetworks "less_data_${images}_s$seed" \
      --config="configs/subnetworks_less_data.py:$images" --config.seed=$seed
  done
done
for tasks in 13 16 20 25 33; do
  go subnetworks "capacity_${tasks}_s0" --config="configs/subnetworks_capacity.py:$tasks"
done
# 50 minutes of a CPU core.
go subnetworks capacity_50_s0 --config=configs/subnetworks_capacity.py:50 \
  --config.phases.subnetworks.epochs=8
python experiments/results.py tables
