#!/usr/bin/env bash
# Sets up one host of a pod: mounts the shared storage at /mnt/snapvideo, and installs
# the checkout of this script. launch/run_pod.sh runs it on all hosts; completed steps
# are skipped.
#
#   launch/setup_host.sh --storage gs://BUCKET|SERVER:/SHARE [--dry-run]
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

KEY=/usr/share/keyrings/cloud.google.asc
read_options "storage" "dry-run" "$@"
need_storage "gs://BUCKET or SERVER:/SHARE"
storage=${given[storage]}

# Cloud Storage FUSE's page "Install": a package source of Google's, per Ubuntu release.
install_gcsfuse() {
  local site=https://packages.cloud.google.com/apt
  run sudo curl -fsSL "$site/doc/apt-key.gpg" -o "$KEY"
  run sudo bash -c "echo \"deb [signed-by=$KEY] $site gcsfuse-\$(lsb_release -cs) main\" >/etc/apt/sources.list.d/gcsfuse.list"
  run sudo apt-get -qq update
  run sudo apt-get -qq install -y gcsfuse
}

if [[ $storage =~ ^gs://([a-z0-9][-a-z0-9_.]+[a-z0-9])/?$ ]]; then
  # No caches, since processes read files that others wrote. Checkpoints are finished by
  # renaming a folder: atomically in a bucket with a hierarchical namespace, otherwise
  # file by file, which the limit allows.
  install=install_gcsfuse
  program=gcsfuse
  mount=(gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0
    --metadata-cache-negative-ttl-secs=0 --rename-dir-limit=1000000
    "${BASH_REMATCH[1]}" "$STORAGE")
elif [[ $storage =~ ^[A-Za-z0-9.-]+:/[A-Za-z0-9._/-]*$ ]]; then
  install="run sudo apt-get -qq install -y nfs-common"
  program=mount.nfs
  mount=(sudo mount -t nfs -o "hard,noac" "$storage" "$STORAGE")
else
  fail "--storage is '$storage'; wanted gs://BUCKET or SERVER:/SHARE."
fi

if is_dry || ! mountpoint -q "$STORAGE"; then
  if is_dry || ! command -v "$program" >/dev/null; then
    $install
  fi
  run sudo mkdir -p "$STORAGE"
  run sudo chown "$(id -u):$(id -g)" "$STORAGE"
  run "${mount[@]}"
fi
# The images have Python 3.10; uv installs a newer one.
if is_dry || [[ ! -e .venv/.installed ]]; then
  run python3 -m pip install --quiet --user uv
  run python3 -m uv venv --quiet --clear --python 3.12 .venv
  run python3 -m uv pip install --quiet --python .venv/bin/python '.[tpu]'
  run touch .venv/.installed
fi
