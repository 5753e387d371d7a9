# shellcheck shell=bash
# Sourced by the scripts beside it. Moves to the checkout and defines use_venv.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Prints the first Python of version 3.11 or newer.
find_python() {
  local wanted=${SNAPVIDEO_PYTHON:-python3.13 python3.12 python3.11 python3} candidate
  for candidate in $wanted; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python of version 3.11 or newer found (tried: $wanted)." \
    "Install one, or set SNAPVIDEO_PYTHON to the command that starts it." >&2
  return 1
}

# use_venv EXTRAS: activates .venv (or $SNAPVIDEO_VENV), made if needed, with this
# package and EXTRAS ("" or "dev") installed. Installs only after a change of
# setup.py or pyproject.toml, or in a new place.
use_venv() {
  local extras=$1 venv=${SNAPVIDEO_VENV:-.venv} python state
  if [[ ! -x $venv/bin/python ]]; then
    python=$(find_python)
    echo "Making the environment $venv with $("$python" --version)."
    "$python" -m venv "$venv"
  fi
  # shellcheck source=/dev/null
  source "$venv/bin/activate"
  state="$PWD $(cat setup.py pyproject.toml | cksum)"
  if [[ $(cat "$venv/.installed-$extras" 2>/dev/null) == "$state" ]]; then
    return
  fi
  echo "Installing into $venv; the first time takes some minutes."
  python -m pip install --quiet --disable-pip-version-check \
    --editable ".${extras:+[$extras]}"
  echo "$state" >"$venv/.installed-$extras"
}
