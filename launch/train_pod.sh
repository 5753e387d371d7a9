#!/usr/bin/env bash
# Trains on a TPU pod; run it on every host, with the same arguments:
#
#   gcloud compute tpus tpu-vm ssh POD --worker=all --command \
#     "cd snapvideo_jax && launch/train_pod.sh --config ... --workdir gs-mount/runs/1"
#
# `snapvideo train` finds the other hosts; the same command resumes. The compiler flags
# are those of `snapvideo plan`, unless LIBTPU_INIT_ARGS is set.
set -euo pipefail
# shellcheck source=launch/libtpu_flags.sh
source "$(dirname "${BASH_SOURCE[0]}")/libtpu_flags.sh"
exec snapvideo train "$@"
