#!/usr/bin/env bash
# What a few minutes on one accelerator give, in stages that write their results
# at once. CIFAR-100 and MNIST must be prepared; see the main README.
# Usage: run.sh FOLDER [STAGE...]    (default: all stages, in this order)
#   forms      forms of many tasks' convolutions and of top-k; picks a rule
#   supsup     SplitCIFAR-100, the published recipe, 20 tasks at once, 3 seeds
#   impress    ImpressLearn K = 15 in the same workdirs
#   many       threshold step of 1 to 1,024 tasks, PyTorch's beside it
#   permuted   256 PermutedMNIST tasks at once, whole run
#   tests      the tests of forms that only accelerators take
# FOLDER gets workdirs, logs, and a .jsonl per result. SEEDS (default '0 1 2'),
# and MAIN, COEFFICIENTS, FORMS and MANY (flags of programs) shrink a rehearsal.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,13s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
here=experiments/accelerator
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=${XLA_PYTHON_CLIENT_PREALLOCATE:-false}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2

use_rule() {  # that the stage `forms` found, unless one is given
  if [ -s "$out/rule.txt" ] && [ -z "${MTL_JAX_VMAPPED_CONVOLUTION:-}" ]; then
    MTL_JAX_VMAPPED_CONVOLUTION=$(cat "$out/rule.txt")
    export MTL_JAX_VMAPPED_CONVOLUTION
  fi
}
go() {  # NAME WORKDIR FLAGS...: a run and its results
  local name=$1 workdir=$out/$2
  shift 2
  python -m mtl_jax.main --workdir="$workdir" "$@" ${MAIN:-} \
    >>"$out/$name.log" 2>&1
  python experiments/results.py collect "$workdir" "$out/$name.jsonl"
}
split_cifar() {  # SEED
  go "supsup_split_cifar100_s$1" "split_s$1" \
    --config=configs/supsup_split_cifar100.py --config.seed="$1" \
    --config.phases.supermasks.tasks_at_once=20
}
coefficients() {  # SEED
  go "impresslearn_split_cifar100_s$1" "split_s$1" \
    --config=configs/impresslearn_split_cifar100.py:after_supsup \
    --config.seed="$1" --config.phases.supermasks.tasks_at_once=20 \
    --config.phases.heterogeneous.tasks_at_once=5 \
    --config.phases.hybrid.tasks_at_once=5 ${COEFFICIENTS:-}
}
stage() {
  case $1 in
    forms) python $here/convolution_forms.py --out="$out/forms.jsonl" \
      --rule="$out/rule.txt" ${FORMS:-} >"$out/forms.log" 2>&1 ;;
    supsup) use_rule; for seed in ${SEEDS:-0 1 2}; do split_cifar "$seed"; done ;;
    impress) use_rule; for seed in ${SEEDS:-0 1 2}; do coefficients "$seed"; done ;;
    many) python $here/many_tasks.py --out="$out/many.jsonl" ${MANY:-} \
      >"$out/many.log" 2>&1 ;;
    permuted) go permuted_256_s0 permuted --config=$here/permuted_mnist.py ;;
    tests) python -m pytest -q tests/test_masks.py \
      tests/models/test_batched_convolution.py >"$out/tests.log" 2>&1 ;;
    *) echo "unknown stage $1" >&2; exit 2 ;;
  esac
}
for name in "${@:-forms supsup impress many permuted tests}"; do
  for one in $name; do
    start=$SECONDS
    stage "$one"
    echo "$one: $((SECONDS - start)) s" | tee -a "$out/stages.txt"
  done
done
