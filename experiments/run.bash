# For the run.sh of a folder to source: goes to the repository's root and has
#   go FOLDER NAME FLAGS...    one run, and its results in FOLDER/results
# with workdirs below $runs, the script's first argument (default: runs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=${1:-runs}
go() {
  local folder=$1 name=$2
  shift 2
  python -m mtl_jax.main --workdir="$runs/${folder}_$name" "$@"
  python experiments/results.py collect "$runs/${folder}_$name" \
    "experiments/$folder/results/$name.jsonl"
}
