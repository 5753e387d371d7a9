#!/usr/bin/env bash
# Runs one command of snapvideo in several processes on this machine, joined like the
# hosts of a pod.
#
#   launch/local.sh --processes 2 [--devices 4] [--dry-run] \
#     -- train --config configs/demo.py --workdir runs/two
#
#   --processes N   number of processes
#   --devices N     CPU devices of each process (those of the machine)
#   --dry-run       print the commands without running them
#
# `train` goes through launch/train_pod.sh, as on a pod. SIGTERM and Ctrl-C are sent
# to all processes. Ends with the exit code of process 0, or of the first that failed.
set -euo pipefail
here=$PWD
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "processes devices" "dry-run" "$@"
((${#names[@]} == 0)) || fail "'${names[0]}' is not an option; ${0##*/} --help lists all options."
need_number processes 1 "the number of processes"
((${#rest[@]})) || fail "The command after -- is missing; wanted -- train --config FILE --workdir DIR."
if [[ -n ${given[devices]:-} ]]; then
  need_number devices 1 "the number of CPU devices of each process"
fi
entry=(snapvideo "${rest[@]}")
if [[ ${rest[0]} == train ]]; then
  entry=("$PWD/launch/train_pod.sh" "${rest[@]:1}")
fi
cd "$here" # paths of the command are those of the caller

port=PORT
if ! is_dry; then
  port=$(python3 -c 'import socket
with socket.socket() as found:
    found.bind(("localhost", 0))
    print(found.getsockname()[1])')
fi
common=("SNAPVIDEO_COORDINATOR=localhost:$port" "SNAPVIDEO_PROCESS_COUNT=${given[processes]}")
if [[ -n ${given[devices]:-} ]]; then
  common+=(JAX_PLATFORMS=cpu "XLA_FLAGS=--xla_force_host_platform_device_count=${given[devices]} ${XLA_FLAGS:-}")
fi

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((index = 0; index < given[processes]; index++)); do
  command=(env "${common[@]}" "SNAPVIDEO_PROCESS_INDEX=$index" "${entry[@]}")
  echo "+ $(quoted "${command[@]}") &"
  if ! is_dry; then
    "${command[@]}" &
    pids+=("$!")
  fi
done
code=0
for index in "${!pids[@]}"; do
  ended=0
  wait "${pids[index]}" || ended=$?
  # A trapped signal ends `wait` early, with a code above 128, while the process goes on.
  while ((ended > 128)) && kill -0 "${pids[index]}" 2>/dev/null; do
    ended=0
    wait "${pids[index]}" || ended=$?
  done
  if ((index == 0 || code == 0)); then
    code=$ended
  fi
done
exit "$code"
