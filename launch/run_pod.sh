#!/usr/bin/env bash
# Trains on TPU slices from a laptop: creates them where there are none, installs this
# commit on every host, starts the same command on all, and follows the log. The same
# command goes on after a preemption, and follows again after a lost connection.
#
#   launch/run_pod.sh NAME --topology v5p:4x4x8 --capacity spot --queue-for 6h \
#     --project PROJECT --zone ZONE --storage gs://BUCKET --afterwards delete \
#     --restarts 0 [--dry-run] \
#     -- train --config configs/fit.py:size=3p9b,pod=v5p:4x4x8 --workdir /mnt/snapvideo/runs/1
#
#   --storage PLACE           gs://BUCKET or SERVER:/SHARE (NFS), mounted on every host
#   --afterwards delete|keep  the pod, once the run has ended for good, well or not
#   --restarts N              so often a pod that was taken away is asked for again
#   --dry-run                 print what would be done, and do nothing
#
# The other options are those of launch/create_pod.sh. Exit codes are those of
# `snapvideo train` (docs/launch.md); 75: the same command goes on.
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
need_number restarts 0 "how often a pod that was taken away is asked for again"
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
# Refuses a wrong option before anything is done.
"${create[@]}" --dry-run >/dev/null || exit 2

where=("--project=${given[project]:-}" "--zone=${given[zone]:-}")
delete=(launch/delete_pod.sh "$name" "${where[@]}")
# By default 64 hosts at a time: the others would wait for ones that wait for them.
all=("${where[@]}" --node=all --worker=all --batch-size=all)
if [[ -n ${given[internal-ips]:-} ]]; then
  all+=(--tunnel-through-iap)
fi
list=(gcloud compute tpus queued-resources list "${where[@]}"
  "--filter=name~/$name\$" "--format=value(state.state)")

commit=$(git rev-parse --short=12 HEAD) || fail "This is no git checkout; clone it, for the commit names what runs."
folder=snapvideo_jax-$commit
archive=${TMPDIR:-/tmp}/$folder.tar.gz

# Waits until the pod is there; asks for it where it is not. 1: it was not granted.
wait_for_pod() {
  local state asked=""
  while true; do
    if ! state=$("${list[@]}"); then
      echo "gcloud cannot tell the state of $name; why is above." >&2
      return 1
    fi
    case $state in
      ACTIVE) return ;;
      "")
        [[ -z $asked ]] || return 1
        "${create[@]}" || exit # gcloud said why; nothing is there that costs
        asked=yes
        ;;
      FAILED | SUSPENDED)
        [[ -z $asked ]] || return 1
        echo "$(date +%H:%M:%S) $name is $state; it is deleted, and asked for again."
        "${delete[@]}" || return 1
        ;;
      *)
        echo "$(date +%H:%M:%S) $name is $state."
        sleep "$POLL_SECONDS"
        ;;
    esac
  done
}

# follow COMMAND...: runs it and shows its output. 0 only where a host says that the
# training ended with 0: gcloud's own is 0 too where it reached no host at all.
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
  echo "# Where '$(quoted "${list[@]}")' prints nothing:"
  "${create[@]}" --dry-run
  echo "# Where it prints FAILED or SUSPENDED, this first:"
  "${delete[@]}" --dry-run
  echo "# Once it prints ACTIVE, asked every $POLL_SECONDS s:"
  train
  echo "# A pod that was taken away is asked for again ${given[restarts]} times."
  if [[ ${given[afterwards]} == delete ]]; then
    echo "# When the run has ended for good:"
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
    # ssh ends with 255 where a host is gone, and where only the connection is. What
    # fails while a pod is being taken away, says little of the run.
    if ((code == 255)) || { ((code != 0)) && [[ $("${list[@]}") != ACTIVE ]]; }; then
      code=75
    fi
  fi
  if ((code != 75)) || ((left == 0)); then
    break
  fi
  echo "$(date +%H:%M:%S) The run stopped before its end; $left restarts are left."
  sleep "$POLL_SECONDS"
done
if ((code == 75)); then
  echo "The run has not ended; the same command goes on. The pod costs while it is there:" \
    "$(quoted "${delete[@]}")"
elif [[ ${given[afterwards]} == delete ]]; then
  "${delete[@]}"
else
  echo "The pod is kept and costs until: $(quoted "${delete[@]}")"
fi
exit "$code"
