#!/usr/bin/env bash
# Deletes slices, granted or still queued; they cost nothing after that.
#
#   launch/delete_pod.sh NAME --project PROJECT --zone ZONE [--dry-run]
#
# Files on the shared storage stay.
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "project zone" "dry-run" "$@"
need_name pod
need project "the id of the project that pays"
need zone "the one it was created in"
# --force also deletes the nodes; without it the request cannot be deleted.
run gcloud compute tpus queued-resources delete "${names[0]}" \
  "--project=${given[project]}" "--zone=${given[zone]}" --force --quiet
