#!/usr/bin/env bash
# Prepares a data set on Dataflow: `snapvideo prepare` with Beam's options for it. Run
# the same command to resume: finished shards are skipped.
#
#   launch/prepare_dataflow.sh --config configs/prepare.py --source gs://BUCKET/clips \
#     --out gs://BUCKET/prepared --project PROJECT --region REGION --image IMAGE \
#     --max-workers 200 [--dry-run] [-- --config.video_shards=4096 ...]
#
#   --source, --out          gs:// folders of captions.jsonl and of the shards
#   --image IMAGE            built from launch/Dockerfile with --target beam
#   --max-workers N          largest number of machines
#   --machine-type TYPE      (Dataflow's default)
#   --service-account EMAIL  of the workers (Compute Engine's default)
#   --network, --subnetwork  (default)
#   --dry-run                print the command without running it
#
# Arguments after -- change the config. This machine needs
# pip install 'apache-beam[gcp]>=2.77,<2.78', and waits for the end.
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "config source out project region image max-workers machine-type \
service-account network subnetwork" "dry-run" "$@"
((${#names[@]} == 0)) || fail "'${names[0]}' is not an option; ${0##*/} --help lists all options."
need config "the config of the data set, as configs/prepare.py"
need source "the gs:// folder of captions.jsonl"
need out "the gs:// folder of the shards"
need project "the id of the project that pays"
need region "where the workers are, that of the bucket, as us-east5"
need image "one built from launch/Dockerfile with --target beam"
need_number max-workers 1 "the largest number of machines"
for option in source out; do
  [[ ${given[$option]} == gs://?* ]] ||
    fail "--$option is '${given[$option]}', which the workers cannot reach; give gs://BUCKET/FOLDER."
done

# Options: cloud.google.com/dataflow/docs/reference/pipeline-options (Python).
beam=(--runner=DataflowRunner "--project=${given[project]}" "--region=${given[region]}"
  "--temp_location=${given[out]%/}/dataflow" "--sdk_container_image=${given[image]}"
  --sdk_location=container "--max_num_workers=${given[max-workers]}")
declare -A called=([machine-type]=machine_type [service-account]=service_account_email
  [network]=network [subnetwork]=subnetwork)
for option in machine-type service-account network subnetwork; do
  if [[ -n ${given[$option]:-} ]]; then
    beam+=("--${called[$option]}=${given[$option]}")
  fi
done
run snapvideo prepare --config "${given[config]}" "--config.source=${given[source]}" \
  --out "${given[out]}" ${rest[@]+"${rest[@]}"} -- "${beam[@]}"
