#!/usr/bin/env bash
# Makes every run of README.md (the sets must be prepared; see the main
# README), collects the results and rewrites the tables. Each run resumes by
# itself. Usage: run.sh [FOLDER FOR WORKDIRS]      (default: runs)
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${1:-runs}
learn() {  # NAME CONFIG [FLAGS]
  local name=$1 config=$2
  shift 2
  python -m mtl_jax.main --workdir="$runs/munet_$name" \
    --config="configs/$config" "$@"
  python experiments/results.py collect "$runs/munet_$name" \
    "experiments/munet/results/$name.jsonl"
}
for seed in 0 1 2; do
  learn preliminary_s$seed munet_preliminary.py --config.seed=$seed
done
learn root_s0 munet_root.py
root=$runs/munet_root.npz
python experiments/munet/root.py "$runs/munet_root_s0" "$root"
weights=--config.backbone.options.weights=$root
for seed in 0 1 2; do
  learn characters_s$seed munet_characters.py --config.seed=$seed "$weights"
done
learn leaking_s0 munet_characters.py:leaking "$weights"
python experiments/results.py tables
