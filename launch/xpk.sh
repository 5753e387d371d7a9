#!/usr/bin/env bash
# Trains on a GKE cluster of xpk, which must be installed. Mount the storage at
# /mnt/snapvideo with `xpk storage attach`.
#
#   launch/xpk.sh NAME --topology v5e:16x16 --slices 2 --image IMAGE --cluster CLUSTER \
#     --project PROJECT --zone ZONE --restarts 3 [--dry-run] \
#     -- train --config configs/fit.py:size=3p9b,pod=v5e:16x16 --config.mesh.replica=2 \
#     --workdir /mnt/snapvideo/runs/1
#
#   --image IMAGE    built from launch/Dockerfile
#   --restarts N     number of restarts, including those after preemptions
#   --dry-run        print the command without running it
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "topology slices image cluster project zone restarts" "dry-run" "$@"
need_name workload
need_slices
need image "one built from launch/Dockerfile, as REGION-docker.pkg.dev/PROJECT/REPOSITORY/snapvideo:1"
need cluster "the name of the cluster"
need project "the id of the project that pays"
need zone "the one of the cluster"
need_number restarts 0 "the number of restarts, including those after preemptions"
need_train
# Flags: src/xpk/parser/workload.py of xpk.
run xpk workload create "--workload=${names[0]}" "--cluster=${given[cluster]}" \
  "--project=${given[project]}" "--zone=${given[zone]}" \
  "--tpu-type=$accelerator_type" "--num-slices=${given[slices]}" \
  "--docker-image=${given[image]}" "--max-restarts=${given[restarts]}" \
  --restart-on-user-code-failure --termination-grace-period-seconds=60 \
  "--command=exec $(quoted launch/train_pod.sh "${rest[@]:1}")"
