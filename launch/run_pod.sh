#!/usr/bin/env bash
# Trains on TPU slices from a laptop: creates them if needed, installs this commit on
# every host, starts the same command on all, and follows the log. Run the same command
# to resume after a preemption, and to follow again after a lost connection.
#
#   launch/run_pod.sh NAME --topology v5p:4x4x8 --capacity spot --queue-for 6h \
#     --project PROJECT --zone ZONE --storage gs://BUCKET --afterwards delete \
#     --restarts 0 [--dry-run] \
#     -- train --config configs/fit.py:size=3p9b,pod=v5p:4x4x8 --workdir /mnt/snapvideo/runs/1
#
#   --storage PLACE           gs://BUCKET or SERVER:/SHARE (NFS), mounted on every host
#   --afterwards delete|keep  the pod, after the run has succeeded or failed
#   --restarts N              number of requests for a new pod after preemptions
#   --dry-run                 print the commands without running them
#
# The other options are those of launch/create_pod.sh. Exit codes are those of
# `snapvideo train` (docs/launch.md); 75: run the same command to resume.
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

POLL_SECONDS=${SNAPVIDEO_POLL_SECONDS:-60}
read_options "topology slices capacity queue-for project zone service-account network \
subnetwork runtime-version storage afterwards restarts" "internal-ips dry-run" "$@"
need_name pod
need_storage "gs://BUCKET or SERVER:/SHARE"
need_train
need afterwards "delete or keep; a pod that is kept costs"
need_number restarts 0 "the number of requests for a new pod after preemptions"
[[ ${given[afterwards]} == delete || ${given[afterwards]} == keep ]] ||
  fail "--afterwards is '${given[afterwards]}'; wanted delete or keep."
launch/setup_host.sh --storage "${given[storage]}" --dry-run >/dev/null || exit 2

name=${names[0]}
create=(launch/create_pod.sh "$name")
for option in topology slices capacity queue-for project zone service-account network \
  subnetwork runtime-version; do
  if [[ -n ${given[$option]:-} ]]; then
    create+=("--$option" "${given[$option]}")
  fi
done
if [[ -n ${given[internal-ips]:-} ]]; then
  create+=(--internal-ips)
fi
# Checks the options before anything is done.
"${create[@]}" --dry-run >/dev/null || exit 2

where=("--project=${given[project]:-}" "--zone=${given[zone]:-}")
delete=(launch/delete_pod.sh "$name" "${where[@]}")
# The default is 64 hosts at a time, which would wait for hosts that are not started.
all=("${where[@]}" --node=all --worker=all --batch-size=all)
if [[ -n ${given[internal-ips]:-} ]]; then
  all+=(--tunnel-through-iap)
fi
list=(gcloud compute tpus queued-resources list "${where[@]}"
  "--filter=name~/$name\$" "--format=value(state.state)")

commit=$(git rev-parse --short=12 HEAD) || fail "This is not a git checkout; clone the repository, since hosts get its commit."
folder=snapvideo_jax-$commit
archive=${TMPDIR:-/tmp}/$folder.tar.gz

# Waits until the pod is active; requests it if it is missing. 1: it was not granted.
wait_for_pod() {
  local state asked=""
  while true; do
    if ! state=$("${list[@]}"); then
      echo "gcloud cannot read the state of $name; see its error above." >&2
      return 1
    fi
    case $state in
      ACTIVE) return ;;
      "")
        [[ -z $asked ]] || return 1
        "${create[@]}" || exit # gcloud printed the reason; nothing costs
        asked=yes
        ;;
      FAILED | SUSPENDED)
        [[ -z $asked ]] || return 1
        echo "$(date +%H:%M:%S) $name is $state; it is deleted, and requested again."
        "${delete[@]}" || return 1
        ;;
      *)
        echo "$(date +%H:%M:%S) $name is $state."
        sleep "$POLL_SECONDS"
        ;;
    esac
  done
}

# follow COMMAND...: runs it and shows its output. 0 only if a host prints that the
# training ended with 0: gcloud itself also returns 0 if it reaches no host.
follow() {
  local codes
  if is_dry; then
    run "$@"
    return
  fi
  run "$@" | awk '{ print; fflush() } /^The training ended with code 0\.$/ { ended = 1 }
    END { exit !ended }'
  codes=("${PIPESTATUS[@]}")
  ((codes[0] == 0)) || return "${codes[0]}"
  ((codes[1] == 0)) || return 75
}

# Installs this commit on every host, and follows the run to its end.
train() {
  run git archive --format=tar.gz "--prefix=$folder/" -o "$archive" HEAD &&
    run gcloud compute tpus queued-resources scp "$archive" "$name:" "${all[@]}" &&
    run gcloud compute tpus queued-resources ssh "$name" "${all[@]}" \
      --command="tar xzf $folder.tar.gz && $(quoted "$folder/launch/setup_host.sh" --storage "${given[storage]}")" &&
    follow gcloud compute tpus queued-resources ssh "$name" "${all[@]}" \
      --command="$(quoted "$folder/launch/start_host.sh" -- "${rest[@]}")"
}

if is_dry; then
  echo "# If '$(quoted "${list[@]}")' prints nothing:"
  "${create[@]}" --dry-run
  echo "# If it prints FAILED or SUSPENDED, first:"
  "${delete[@]}" --dry-run
  echo "# When it prints ACTIVE, polled every $POLL_SECONDS s:"
  train
  echo "# A preempted pod is requested again up to ${given[restarts]} times."
  if [[ ${given[afterwards]} == delete ]]; then
    echo "# After the run has ended:"
    "${delete[@]}" --dry-run
  fi
  exit
fi

[[ -z $(git status --porcelain --untracked-files=no) ]] ||
  fail "Files differ from commit $commit, which is what the hosts would get; commit them."
for ((left = given[restarts]; ; left--)); do
  code=75
  if wait_for_pod; then
    code=0
    train || code=$?
    # ssh exits with 255 if a host or only the connection is lost. A failure while the
    # pod is being preempted is not one of the run.
    if ((code == 255)) || { ((code != 0)) && [[ $("${list[@]}") != ACTIVE ]]; }; then
      code=75
    fi
  fi
  if ((code != 75)) || ((left == 0)); then
    break
  fi
  echo "$(date +%H:%M:%S) The run was interrupted; $left restarts are left."
  sleep "$POLL_SECONDS"
done
if ((code == 75)); then
  echo "The run has not ended; run the same command to resume. The pod costs until:" \
    "$(quoted "${delete[@]}")"
elif [[ ${given[afterwards]} == delete ]]; then
  "${delete[@]}"
else
  echo "The pod is not deleted and costs until: $(quoted "${delete[@]}")"
fi
exit "$code"
