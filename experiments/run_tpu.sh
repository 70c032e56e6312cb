#!/usr/bin/env bash
# Starts a config on every host of a Cloud TPU VM slice, one line per host.
# Usage: run_tpu.sh TPU_NAME ZONE CONFIG WORKDIR [--config.field=value ...]
# WORKDIR must be a folder that all hosts share (a network disk, or a bucket
# mounted as one).
# Run it again after a preemption: it continues where it stopped.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
tpu=$1 zone=$2 config=$3 workdir=$4
shift 4
command="cd mtl_jax && python -m mtl_jax.main --coordinator=auto"
command+=" --config=$(printf %q "$config") --workdir=$(printf %q "$workdir")"
[ $# -eq 0 ] || command+=$(printf ' %q' "$@")
gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all \
  --command="$command"
