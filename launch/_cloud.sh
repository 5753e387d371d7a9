# shellcheck shell=bash
# Sourced by the scripts that start runs elsewhere: options, slices, dry runs.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

STORAGE=/mnt/snapvideo # mount point of the shared file system on every machine
DOUBLING_2D="2x2 2x4 4x4 4x8 8x8 8x16 16x16"
DOUBLING_3D="2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16"

declare -A given=() # options by name
names=()            # positional arguments
rest=()             # arguments after --

# fail LINE: ends the script with the exit code of a wrong command line.
fail() {
  echo "$1" >&2
  exit 2
}

# read_options "OPTION..." "SWITCH..." ARGUMENT...: fills given, names and rest.
read_options() {
  local options=" $1 " switches=" $2 " key
  shift 2
  while (($#)); do
    case $1 in
      --help)
        awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "launch/${0##*/}"
        exit
        ;;
      --)
        rest=("${@:2}")
        break
        ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
      --*)
        key=${1#--}
        if [[ $switches == *" $key "* ]]; then
          given[$key]=yes
          shift
        elif [[ $options != *" $key "* ]]; then
          fail "Unknown option '$1'; ${0##*/} --help lists all options."
        elif [[ -z ${2:-} || $2 == --* ]]; then
          fail "$1 has no value; ${0##*/} --help lists the values."
        else
          given[$key]=$2
          shift 2
        fi
        ;;
      *)
        names+=("$1")
        shift
        ;;
    esac
  done
}

# need OPTION WHAT: requires an option.
need() {
  [[ -n ${given[$1]:-} ]] || fail "--$1 is missing; give $2."
}

# need_number OPTION LEAST WHAT: requires an option that is a whole number.
need_number() {
  need "$1" "$3"
  if [[ ! ${given[$1]} =~ ^(0|[1-9][0-9]{0,5})$ ]] || ((${given[$1]} < $2)); then
    fail "--$1 is '${given[$1]}'; wanted a whole number of at least $2: $3."
  fi
}

# need_name WHAT: requires exactly one positional argument, a valid name of a resource.
need_name() {
  ((${#names[@]} == 1)) || fail "Wanted one name, of the $1; got ${#names[@]}: '${names[*]}'."
  if [[ ! ${names[0]} =~ ^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$ ]]; then
    fail "'${names[0]}' cannot name the $1; use up to 32 of a-z, 0-9 and -, a letter first."
  fi
}

# quoted COMMAND...: quoted for a shell.
quoted() {
  local text
  printf -v text ' %q' "$@"
  echo "${text:1}"
}

is_dry() {
  [[ -n ${given[dry-run]:-} ]]
}

# run COMMAND...: prints a command, and runs it unless this is a dry run.
run() {
  echo "+ $(quoted "$@")"
  is_dry || "$@"
}

# find_slice CHIP:SHAPE, in the notation of `snapvideo plan`: sets its names on the
# platforms, chips and hosts. Names and versions: cloud.google.com/tpu/docs/v5p (v5e, v6e,
# v4), cloud.google.com/tpu/docs/runtimes, and GKE's page "Plan TPUs".
# shellcheck disable=SC2034  # used by the scripts that source this
find_slice() {
  local chip=${1%%:*} shape=${1#*:} shapes cores prefix
  case $chip in
    v4) prefix=v4 cores=2 shapes=$DOUBLING_3D runtime=tpu-ubuntu2204-base gke=tpu-v4-podslice ;;
    v5e) prefix=v5litepod cores=1 shapes=$DOUBLING_2D runtime=v2-alpha-tpuv5-lite gke=tpu-v5-lite-podslice ;;
    v5p) prefix=v5p cores=2 shapes=$DOUBLING_3D runtime=v2-alpha-tpuv5 gke=tpu-v5p-slice ;;
    v6e) prefix=v6e cores=1 shapes=$DOUBLING_2D runtime=v2-alpha-tpuv6e gke=tpu-v6e-slice ;;
    *) fail "--topology=$1: chip '$chip' is unknown; use CHIP:SHAPE with a chip of v4, v5e, v5p, v6e, as v5p:4x4x8." ;;
  esac
  if [[ " $shapes " != *" $shape "* ]]; then
    fail "--topology=$1 does not exist; use $chip: with a shape of ${shapes// /, }."
  fi
  slice_shape=$shape
  chips=$((${shape//x/*}))
  accelerator_type=$prefix-$((chips * cores)) # counts cores, of which v4 and v5p have two
  hosts=$((chips / 4))
  # One machine has all eight chips of a v5litepod-8 or v6e-8; GKE's have four.
  vm_hosts=$hosts
  if ((cores == 1 && chips == 8)); then
    vm_hosts=1
  fi
}

# need_slices: --topology, and --slices if it is given.
need_slices() {
  need topology "the planned slice, as v5p:4x4x8"
  find_slice "${given[topology]}"
  given[slices]=${given[slices]:-1}
  need_number slices 1 "the number of slices"
}

# need_storage "KIND or KIND": the file system that all machines share.
need_storage() {
  need storage "$1: all machines must share the folder of --workdir"
}

# need_train: requires a training in a folder of the shared storage after --.
need_train() {
  local index workdir="" usage="-- train --config FILE --workdir $STORAGE/FOLDER"
  [[ ${rest[0]:-} == train ]] || fail "The command after -- is '${rest[0]:-}'; wanted $usage."
  for index in "${!rest[@]}"; do
    case ${rest[index]} in
      --workdir) workdir=${rest[index + 1]:-} ;;
      --workdir=*) workdir=${rest[index]#*=} ;;
    esac
  done
  case $workdir in
    "") fail "--workdir is missing after --; wanted $usage." ;;
    *://*) fail "--workdir=$workdir is not a folder; give --storage ${workdir%"${workdir#*://*/}"} and a --workdir below $STORAGE." ;;
    "$STORAGE"/?*) ;;
    *) fail "--workdir=$workdir is not on the shared storage, and would be lost with its machine; use a folder below $STORAGE." ;;
  esac
}
