#!/usr/bin/env bash
# Runs a config on a Cloud TPU slice: makes the slice, installs there, runs, and
# after a preemption makes it again and goes on.
#
#   run_tpu.sh [OPTIONS] NAME ZONE CONFIG WORKDIR [--config.FIELD=VALUE ...]
#   run_tpu.sh --delete [--dry_run] NAME ZONE
#
#   NAME, ZONE         of the slice; one that is there already is used
#   CONFIG             name of a shipped config, or a file of this checkout
#   WORKDIR            a bucket (gs://BUCKET/RUN); or a folder that all hosts
#                      share and that outlives the slice (see --setup)
#   --type=TYPE        kind and size of the slice (v6e-8)
#   --runtime=VERSION  of its machines (v2-alpha-tpuv6e)
#   --spot             costs less, and may be preempted
#   --setup=COMMAND    on every host before the run, such as a mount of WORKDIR
#   --delete           deletes the slice, and nothing else
#   --dry_run          prints each step and does none
#
# The slice costs until it is deleted, whether a run goes on there or not.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,19s/^# \{0,1\}//p' experiments/run_tpu.sh
}

refuse() {
  usage >&2
  exit 2
}

type=v6e-8 runtime=v2-alpha-tpuv6e setup='' spot='' delete='' dry=''
while [[ ${1:-} == -* ]]; do
  case $1 in
    --type=?*) type=${1#*=} ;;
    --runtime=?*) runtime=${1#*=} ;;
    --setup=?*) setup=${1#*=} ;;
    --spot) spot=1 ;;
    --delete) delete=1 ;;
    --dry_run) dry=1 ;;
    --help | -h)
      usage
      exit
      ;;
    *)
      echo "error: run_tpu.sh has no option $1" >&2
      refuse
      ;;
  esac
  shift
done
if [ -n "$delete" ]; then [ $# -eq 2 ] || refuse; else [ $# -ge 4 ] || refuse; fi
name=$1 zone=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Prints a step and, unless --dry_run, does it.
step() {
  printf '+'
  printf ' %q' "$@"
  echo
  [ -n "$dry" ] || "$@"
}

queued() { # VERB [FLAG ...]
  step gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" \
    "${@:2}"
}

on_hosts() { # COMMAND
  step gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="$1"
}

# ABSENT, ACTIVE, SUSPENDED (after a preemption), FAILED, ...
state() {
  if ! gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
    '--format=value(state.state)' 2>"$scratch/said"; then
    if ! grep -qi 'not.found' "$scratch/said"; then
      cat "$scratch/said" >&2
      return 1
    fi
    echo ABSENT
  fi
}

create() {
  queued create --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$runtime" ${spot:+--spot}
}

# A slice that was preempted or failed never comes back: it is made again.
make_slice() {
  local now
  if [ -n "$dry" ]; then
    create
    echo '# wait until it is ACTIVE'
    return
  fi
  while now=$(state); do
    echo "# $name is $now"
    case $now in
      ACTIVE) return ;;
      ABSENT) create ;;
      FAILED | SUSPENDED) queued delete --force --quiet ;;
      *) sleep 30 ;;
    esac
  done
  return 1
}

# The files that git knows, as they lie here, and a Python of their own.
install() {
  local package=./mtl_jax packed=$scratch/mtl_jax.tar.gz
  [[ $1 != *://* ]] || package+='[remote]'
  step bash -c "git ls-files -z | tar --null -T - -czf $packed"
  step gcloud compute tpus tpu-vm scp "$packed" "$name:mtl_jax.tar.gz" \
    --zone="$zone" --worker=all
  on_hosts "mkdir -p mtl_jax && tar -xzf mtl_jax.tar.gz -C mtl_jax &&\
 python3 -m pip install -q --user uv &&\
 python3 -m uv venv -q --allow-existing --python=3.12 mtl_jax/.venv &&\
 python3 -m uv pip install -q --python=mtl_jax/.venv -e '$package' 'jax[tpu]'"
  [ -z "$setup" ] || on_hosts "$setup"
}

# A slice that is paid for must not find out that the config is not there.
require_config() { # CONFIG
  local file=${1%%:*} found
  for found in "$file" "configs/$file" "configs/$file.py"; do
    [[ -f $found && $found != /* ]] || continue
    ! git ls-files --others --error-unmatch "$found" >"$scratch/said" 2>&1 ||
      { echo "error: git does not know $found, and takes only what it knows\
 to the slice; call git add $found" >&2; exit 2; }
    return 0
  done
  echo "error: CONFIG is $1; give the name of a file in configs/, or the path\
 of a config from the top of this checkout ($PWD)" >&2
  exit 2
}

# Whether the slice is gone; its state says so a while after its hosts.
was_preempted() {
  local now
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    now=$(state) || return 1
    [ "$now" = ACTIVE ] || return 0
    sleep 30
  done
  return 1
}

if [ -n "$delete" ]; then
  queued delete --force --quiet
  exit
fi
require_config "$3"
run="cd mtl_jax && .venv/bin/python -m mtl_jax run --coordinator=auto"
run+=" --config=$(printf %q "$3") --workdir=$(printf %q "$4")"
[ $# -eq 4 ] || run+=$(printf ' %q' "${@:5}")
while :; do
  make_slice
  install "$4"
  code=0
  on_hosts "$run" || code=$?
  [ "$code" -ne 0 ] || break
  # 255: the hosts no longer answer. 143: they were told to end.
  if [[ $code != 255 && $code != 143 ]] || ! was_preempted; then
    echo "error: the run ended with $code, and $name is still there" >&2
    exit "$code"
  fi
  echo "# $name was preempted: it is made again, and the run goes on"
done
if [ -n "$dry" ]; then
  echo '# after a preemption: this, and all steps again'
  queued delete --force --quiet
  exit
fi
echo "# done; to delete the slice: experiments/run_tpu.sh --delete $name $zone"
