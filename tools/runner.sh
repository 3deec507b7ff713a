#!/usr/bin/env bash
# tools/runner.sh --base_config clip/base_config --selected_gpus 0,1 --use_wandb false --run_mode train [key=value ...]
# Everything it does is in deepcoro/launching/; --help teaches. PYTHON=... names another interpreter than .venv's.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
  if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=python3; fi
fi
trap '' USR1 # a scheduler's warning that comes before the run listens must not end it
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m deepcoro.launching "$@"
