# shellcheck shell=bash
# Sourced by the other scripts. Changes to the checkout and defines use_venv.

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

# use_venv EXTRAS: activates .venv (or $SNAPVIDEO_VENV), created if needed, with this
# package and EXTRAS ("" or "dev") installed. Installs only after a change of
# setup.py or pyproject.toml, or of the folder.
use_venv() {
  local extras=$1 venv=${SNAPVIDEO_VENV:-.venv} python state
  if [[ ! -x $venv/bin/python ]]; then
    python=$(find_python)
    echo "Creating the environment $venv with $("$python" --version)."
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

# use_wheel FOLDER: after use_venv. Activates an environment in FOLDER with the wheel of
# the checkout as it is now, over the packages of the environment that was active. That
# one has the checkout itself, which is not visible here: only .pth files lead to it, and
# .pth files in a folder that a .pth file names are not read.
use_wheel() {
  local folder=$1 below=$VIRTUAL_ENV sites
  sites='import sysconfig; print(sysconfig.get_path("purelib"))'
  # Built from a copy: files of earlier builds in the checkout would get into the wheel.
  mkdir "$folder/source"
  tar -c --exclude=__pycache__ --exclude='*.egg-info' snapvideo_jax configs docs/plans \
    setup.py pyproject.toml MANIFEST.in README.md LICENSE | tar -x -C "$folder/source"
  python -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps \
    --no-build-isolation --wheel-dir "$folder/wheel" "$folder/source"
  rm -r "$folder/source"
  python -m venv --without-pip "$folder/venv"
  # shellcheck source=/dev/null
  source "$folder/venv/bin/activate"
  PATH=$folder/venv/bin:$below/bin:$PATH
  "$below/bin/python" -c "$sites" >"$(python -c "$sites")/below.pth"
  python -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
    --ignore-installed "$folder"/wheel/*.whl
}
