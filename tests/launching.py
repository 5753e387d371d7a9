"""Scripts of launch/ as a user runs them, and a fake cloud."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"

WORKDIR = "/mnt/snapvideo/runs/1"
TRAIN = ["--", "train", "--config", "configs/fit.py", "--workdir", WORKDIR]
WHERE = ["--project", "p", "--zone", "z"]
SLICE = ["--topology", "v5p:4x4x8"]
CREATE = [*SLICE, "--capacity", "spot", "--queue-for", "6h", *WHERE]
RUN = [*CREATE, "--storage", "gs://bucket", "--afterwards", "delete", "--restarts", "0"]

GCLOUD = """\
#!/usr/bin/env bash
# A fake gcloud with one pod with one host, which is the folder $WORLD/host. Lines of
# $WORLD/states are what `list` prints, of $WORLD/ends how a training ends: an exit
# code, gone (the host is), or nobody (gcloud finds no host, and ends with 0).
next() { # the first line of a file, and takes it away
  head -n 1 "$WORLD/$1"
  sed -i 1d "$WORLD/$1"
}
echo "$4" >>"$WORLD/verbs"
printf '%s\\n' "$*" >>"$WORLD/commands"
case $4 in
  list)
    state=$(next states)
    [[ $state != error ]] || { echo "ERROR: no permission" >&2; exit 1; }
    echo "$state"
    ;;
  create) exit "$(cat "$WORLD/create" 2>/dev/null || echo 0)" ;;
  scp) mkdir -p "$WORLD/host" && cp "$5" "$WORLD/host" ;;
  ssh)
    [[ $* == *start_host.sh* ]] || exit 0 # setting up a host takes root and the net
    END=$(next ends)
    case $END in
      gone) exit 255 ;;
      nobody) exit 0 ;;
    esac
    cd "$WORLD/host" && tar xzf ./*.tar.gz
    export END HOME=$WORLD/host
    all=$*
    command=${all##*--command=}
    exec bash -c "$command"
    ;;
esac
"""

SNAPVIDEO = """\
#!/usr/bin/env bash
# In place of `snapvideo`, for scripts that only pass on its arguments and how
# it ends. With WAIT it runs until SIGTERM, and ends with 75.
echo "told: $*"
if [[ -n ${WAIT:-} ]]; then
  trap 'exit 75' TERM
  while true; do sleep 0.05; done
fi
exit "${END:-0}"
"""


def call(script, *arguments, cwd=ROOT, **more):
    """The exit code, output and errors of ``launch/SCRIPT``, without a terminal."""
    ran = subprocess.run(
        [cwd / "launch" / script, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return ran.returncode, ran.stdout, ran.stderr


def program(folder, name, text):
    """An executable of a name, and the PATH that finds it first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
