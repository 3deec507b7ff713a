#!/usr/bin/env bash
# tools/run_sweep.sh --base_config clip/base_config --sweep_config sweep_config_single_video --selected_gpus 0,1 --count 20 [--output runs/sweep] [key=value ...]
# The predecessor's flags for tools/sweep.py: one trial at a time on all GPUs named, as there. No file is edited, and nothing goes to W&B.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
  if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=python3; fi
fi
usage="usage: tools/run_sweep.sh --base_config CONFIG --sweep_config SWEEP --selected_gpus 0,1 --count N [--output FOLDER] [key=value or another flag of tools/sweep.py ...]"
refuse() {
  echo "run_sweep: $1; $usage" >&2
  exit 2
}
config='' sweep='' gpus='' count='' output='' rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) echo "$usage"; exit 0 ;;
    --base_config | --sweep_config | --selected_gpus | --count | --output | --master_port)
      [ $# -ge 2 ] || refuse "$1 has no value"
      case $1 in
        --base_config) config=$2 ;;
        --sweep_config) sweep=$2 ;;
        --selected_gpus) gpus=$2 ;;
        --count) count=$2 ;;
        --output) output=$2 ;;
        --master_port) echo "run_sweep: --master_port is not needed: each run finds a free port" >&2 ;;
      esac
      shift 2
      ;;
    *) rest+=("$1"); shift ;;
  esac
done
[ -n "$config" ] || refuse "--base_config is missing"
[ -n "$sweep" ] || refuse "--sweep_config is missing"
[ -n "$gpus" ] || refuse "--selected_gpus is missing"
[ -n "$count" ] || refuse "--count is missing"
name=$(basename "$sweep")
words=("$config" "$sweep" --selected_gpus "$gpus" --count "$count" --output "${output:-runs/sweeps/${name%.y*ml}}")
if [ "$gpus" != none ]; then
  commas=${gpus//[^,]/}
  words+=(--gpus_per_trial $((${#commas} + 1)))
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$root/tools/sweep.py" "${words[@]}" ${rest[@]+"${rest[@]}"}
