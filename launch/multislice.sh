#!/usr/bin/env bash
# An example of several slices: FIT 3.9B on two of v5e:16x16, 512 chips, as planned in
# docs/plans.md. Each slice has a replica of the state (config.mesh.replica=2), so only
# gradients cross the data-centre network.
#
#   launch/multislice.sh NAME --capacity spot --queue-for 6h --project PROJECT --zone ZONE \
#     --storage gs://BUCKET --afterwards delete --restarts 0 [--dry-run] \
#     [-- --config.data.source=records --config.data.root=/mnt/snapvideo/data/base]
#
# Options are those of launch/run_pod.sh; arguments after -- change the config.
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

if [[ " $* " == *" --help "* ]]; then
  read_options "" "" --help
fi
options=()
while (($#)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done
exec launch/run_pod.sh ${options[@]+"${options[@]}"} --topology v5e:16x16 --slices 2 -- \
  train --config configs/fit.py:size=3p9b,pod=v5e:16x16 --config.mesh.replica=2 \
  --workdir "$STORAGE/runs/fit-3p9b-2x256" "${@:2}"
