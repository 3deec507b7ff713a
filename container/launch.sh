#!/bin/sh
# What `validate_site` and `deepcoro` are in a container: the environment of a run that has no network, no home and a file system that
# cannot be written to; then the tool, or for `deepcoro COMMAND ...` any command.
set -eu
root=$(dirname "$(dirname "$(readlink -f "$0")")")
venv=${DEEPCORO_VENV:-$root/.venv}
cache=${DEEPCORO_CACHE:-${TMPDIR:-/tmp}/deepcoro-$(id -u)}
mkdir -p "$cache"
export PATH="$venv/bin:$PATH"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_HUB_DISABLE_TELEMETRY=1 HF_HOME="${HF_HOME:-$cache/huggingface}"
export MPLCONFIGDIR="${MPLCONFIGDIR:-$cache/matplotlib}" TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$cache/triton}"
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$cache/torch_extensions}"
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor}"
if [ "$(basename "$0")" = validate_site ]; then exec python "$root/tools/validate_site.py" "$@"; fi
exec "$@"
