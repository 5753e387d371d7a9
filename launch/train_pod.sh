#!/usr/bin/env bash
# Trains on a TPU pod; to be run on every host of it, with the same arguments:
#
#   gcloud compute tpus tpu-vm ssh POD --worker=all --command \
#     "cd snapvideo_jax && launch/train_pod.sh --config ... --workdir gs-mount/runs/1"
#
# `snapvideo train` finds the other hosts by itself; the same command resumes. Flags of
# the compiler are those that `snapvideo plan` plans with, unless LIBTPU_INIT_ARGS is set.
set -euo pipefail
# shellcheck source=launch/libtpu_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/libtpu_flags.sh"
exec snapvideo train "$@"
