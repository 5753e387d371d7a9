#!/usr/bin/env bash
# Lint, format check, and tests of the wheel of this checkout as it is now. With --fast
# without the tests that are marked `slow` or `tpu_compile`: minutes in place of a quarter
# of an hour. Other arguments go to pytest:
#
#   launch/test.sh --fast
#   launch/test.sh -k gif
#   launch/test.sh tests/test_media.py
#
# The tests run in an empty folder elsewhere, where the package can only be the wheel's:
# a file that the wheel lacks is missed. Files of the tests are named from the checkout.
set -euo pipefail
# shellcheck source=launch/_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
use_venv dev
ruff check
ruff format --check

arguments=()
has_tests=false
for argument in "$@"; do
  if [[ $argument == --fast ]]; then
    arguments+=(-m "not slow and not tpu_compile")
    continue
  fi
  if [[ $argument =~ ^(\./)?tests(/|$) && -e ${argument%%::*} ]]; then
    argument=$PWD/${argument#./}
  fi
  if [[ $argument == "$PWD"/tests* ]]; then
    has_tests=true
  fi
  arguments+=("$argument")
done
if ! $has_tests; then
  arguments+=("$PWD/tests")
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
use_wheel "$folder"
# Neither where a command is started nor who starts it may bring the checkout back.
unset PYTHONPATH
export PYTHONSAFEPATH=1
SNAPVIDEO_TESTS_WHEEL=$(echo "$folder"/wheel/*.whl)
export SNAPVIDEO_TESTS_WHEEL
checkout=$PWD
mkdir "$folder/empty"
cd "$folder/empty"
# Two processes; the tests of a file share what they set up, so they stay together, and
# the order is that of tests/conftest.py.
python -m pytest -c "$checkout/pyproject.toml" --rootdir "$checkout" \
  -q -n 2 --dist loadfile --no-loadscope-reorder "${arguments[@]}"
