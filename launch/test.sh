#!/usr/bin/env bash
# Lint, format check and tests. Arguments go to pytest: launch/test.sh -k gif
set -euo pipefail
# shellcheck source=launch/_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
use_venv dev
ruff check
ruff format --check
# Two processes; the tests of a file share what they set up, so they stay together.
exec python -m pytest -q -n 2 --dist loadfile "$@"
