#!/usr/bin/env bash
# Starts a training on one host of a pod, detached from the connection, and shows its log
# until it ends; if the same training is running, only shows its log. launch/run_pod.sh
# runs it on all hosts. Exits with the exit code of the training, printed in a last line.
#
#   launch/start_host.sh [--dry-run] -- train --config FILE --workdir DIR
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "" "dry-run" "$@"
[[ ${rest[0]:-} == train ]] ||
  fail "The command after -- is '${rest[0]:-}'; wanted -- train --config FILE --workdir DIR."
state=${SNAPVIDEO_HOST_STATE:-$HOME/.snapvideo}
command=(launch/train_pod.sh "${rest[@]:1}")
if [[ -e .venv/bin/activate ]]; then
  # shellcheck source=/dev/null
  source .venv/bin/activate
fi
if is_dry; then
  echo "# Unless the process of $state/pid runs, with its output in $state/log:"
  run setsid nohup "${command[@]}"
  exit
fi

mkdir -p "$state"
exec 9>"$state/lock" # one start at a time
flock 9
touch "$state/log"
if pid=$(cat "$state/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null; then
  if [[ $(quoted "${rest[@]}") != $(cat "$state/command") ]]; then
    fail "Another training runs here, process $pid: $(cat "$state/command"); wait for it, or send it SIGTERM."
  fi
  echo "A training runs already, started by process $pid; this is the end of its log."
  shown=20
else
  rm -f "$state/code"
  shown=+$(($(wc -l <"$state/log") + 1))
  quoted "${rest[@]}" >"$state/command"
  # The shell in between only records the exit code; it ignores SIGTERM.
  # shellcheck disable=SC2016  # expanded by that shell
  setsid nohup bash -c 'trap : TERM; "${@:2}"; echo $? >"$1"' - "$state/code" \
    "${command[@]}" >>"$state/log" 2>&1 </dev/null 9>&- &
  pid=$!
  echo "$pid" >"$state/pid"
fi
flock -u 9
tail --pid="$pid" -n "$shown" -f "$state/log"
# Without a code the training was killed, for example with its host: it can resume.
code=$(cat "$state/code" 2>/dev/null || echo 75)
echo "The training ended with code $code."
exit "$code"
