#!/usr/bin/env bash
# Trains the demo model, samples prompts, and prints the share of samples that match them.
#
#   launch/demo.sh            the demo
#   launch/demo.sh --quick    a short run that only shows that everything works
#   launch/demo.sh --seed 3   another seed, in a separate folder
#
# Run the same command to resume; after a finished run it is quick.
set -euo pipefail

options=""
seed=""
while (($#)); do
  case $1 in
    --quick)
      options=":quick=True"
      shift
      ;;
    --seed)
      if [[ ! ${2:-} =~ ^[0-9]+$ ]]; then
        echo "--seed is '${2:-}'; wanted a whole number; use --seed 1." >&2
        exit 2
      fi
      seed=$2
      shift 2
      ;;
    *)
      echo "Unknown option '$1'; wanted --quick or --seed N." >&2
      exit 2
      ;;
  esac
done
workdir=runs/demo${options:+-quick}${seed:+-seed$seed}
train=(snapvideo train --config "configs/demo.py$options" --workdir "$workdir")
if [[ -n $seed ]]; then
  train+=("--config.seed=$seed")
fi

# shellcheck source=launch/_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
use_venv ""
SECONDS=0
"${train[@]}"
snapvideo judge --workdir "$workdir" --out "$workdir/judged"
echo "The sheet of clips is $PWD/$workdir/judged/sheet.gif"
echo "That took $((SECONDS / 60)) minutes and $((SECONDS % 60)) seconds."
