#!/usr/bin/env bash
# Trains on a GKE cluster that xpk made: the command for it. xpk has to be installed;
# it mounts storage by its own `xpk storage attach`, at /mnt/snapvideo.
#
#   launch/xpk.sh NAME --topology v5e:16x16 --slices 2 --image IMAGE --cluster CLUSTER \
#     --project PROJECT --zone ZONE --restarts 3 [--dry-run] \
#     -- train --config configs/fit.py:size=3p9b,pod=v5e:16x16 --config.mesh.replica=2 \
#     --workdir /mnt/snapvideo/runs/1
#
#   --image IMAGE    made from launch/Dockerfile
#   --restarts N     so often the run begins again, preemptions included
#   --dry-run        print the command, and do nothing
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "topology slices image cluster project zone restarts" "dry-run" "$@"
need_name workload
need_slices
need image "what launch/Dockerfile made, as REGION-docker.pkg.dev/PROJECT/REPOSITORY/snapvideo:1"
need cluster "the name of the cluster"
need project "the id of the project that pays"
need zone "the one of the cluster"
need_number restarts 0 "how often the run begins again, preemptions included"
need_train
# Flags: src/xpk/parser/workload.py of xpk.
run xpk workload create "--workload=${names[0]}" "--cluster=${given[cluster]}" \
  "--project=${given[project]}" "--zone=${given[zone]}" \
  "--tpu-type=$accelerator_type" "--num-slices=${given[slices]}" \
  "--docker-image=${given[image]}" "--max-restarts=${given[restarts]}" \
  --restart-on-user-code-failure --termination-grace-period-seconds=60 \
  "--command=exec $(quoted launch/train_pod.sh "${rest[@]:1}")"
