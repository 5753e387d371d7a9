#!/usr/bin/env bash
# Requests TPU slices from Google Cloud as a queued resource. They cost from when they are
# granted until launch/delete_pod.sh.
#
#   launch/create_pod.sh NAME --topology v5p:4x4x8 --capacity spot --queue-for 6h \
#     --project PROJECT --zone ZONE [--dry-run]
#
#   --topology CHIP:SHAPE     of a slice, in the notation of `snapvideo plan`
#   --slices N                number of slices, joined by the data-centre network (1)
#   --capacity KIND           spot (cheap, can be preempted), reserved or on-demand
#   --queue-for DURATION      give up if no slice is granted in this time, as 6h or 2d
#   --project, --zone         where; gcloud's own settings are ignored
#   --service-account EMAIL   of the machines (Compute Engine's default)
#   --network, --subnetwork   (default)
#   --internal-ips            no public addresses; installing then needs Cloud NAT
#   --runtime-version NAME    of the machines' image (the one for the chip)
#   --dry-run                 print the commands without running them
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "topology slices capacity queue-for project zone service-account network \
subnetwork runtime-version" "internal-ips dry-run" "$@"
need_name pod
need project "the id of the project that pays"
need zone "one that has these TPUs, as us-east5-a"
need_slices
need capacity "spot, reserved or on-demand; they differ in price"
need queue-for "how long the request may wait, as 6h; TPUs cost from when they are granted"
if [[ ! ${given[queue-for]} =~ ^[1-9][0-9]*[smhd]$ ]]; then
  fail "--queue-for is '${given[queue-for]}'; wanted a duration as 30m, 6h or 2d."
fi

# Flags: gcloud compute tpus queued-resources create --help
create=(gcloud compute tpus queued-resources create "${names[0]}"
  "--project=${given[project]}" "--zone=${given[zone]}"
  "--accelerator-type=$accelerator_type"
  "--runtime-version=${given[runtime-version]:-$runtime}"
  "--valid-until-duration=${given[queue-for]}")
if ((given[slices] > 1)); then
  create+=("--node-count=${given[slices]}" "--node-prefix=${names[0]}")
else
  create+=("--node-id=${names[0]}")
fi
case ${given[capacity]} in
  spot | reserved) create+=("--${given[capacity]}") ;;
  on-demand) ;;
  *) fail "--capacity is '${given[capacity]}'; wanted spot, reserved or on-demand." ;;
esac
for option in service-account network subnetwork; do
  if [[ -n ${given[$option]:-} ]]; then
    create+=("--$option=${given[$option]}")
  fi
done
if [[ -n ${given[internal-ips]:-} ]]; then
  create+=(--internal-ips)
fi

echo "${given[slices]} x ${given[topology]}: $accelerator_type, each $chips chips in" \
  "$vm_hosts hosts, ${given[capacity]}."
run "${create[@]}"
