#!/usr/bin/env bash
# The steps of both recipes (Dockerfile, container/deepcoro.def), so that a machine without an engine can exercise them
# (tests/test_container.py runs dependencies, place and check; system and user change the machine and are run by the engines alone).
#
#   container/install.sh STEP [--venv FOLDER] [--extras LIST] [--prefix FOLDER]
#
#   system         Debian packages: Python, and the compiler with which Triton builds its launchers
#   dependencies   a virtual environment with what pyproject.toml asks for, at the versions of requirements.txt
#   place          the code found by that Python, the commands `validate_site` and `deepcoro` on the path
#   user           a user without rights, for engines that start as root
#   check          the demo in miniature and validate_site over it, without a network; leaves nothing behind
set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
venv=$root/.venv
extras=""
prefix=/usr/local

system() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # tesseract looks for names burnt into films where a site asks for it
    apt-get install -y -qq --no-install-recommends \
        ca-certificates g++ git make procps python3 python3-dev python3-venv tesseract-ocr util-linux
    rm -rf /var/lib/apt/lists/*
}

# One requirement a line: those of the project, then those of the extras asked for.
requirements() {
    "$venv/bin/python" - "$root/pyproject.toml" "$extras" <<'PYTHON'
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
offered = project["optional-dependencies"]
asked = sys.argv[2].replace(",", " ").split()
unknown = [name for name in asked if name not in offered]
if unknown:
    sys.exit(f"install.sh: no extra is called {unknown}; there are {sorted(offered)}")
print("\n".join([*project["dependencies"], *(line for name in asked for line in offered[name])]))
PYTHON
}

dependencies() {
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    local asked
    asked=$(requirements)
    "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
        -c "$root/requirements.txt" -r <(echo "$asked")
}

place() {
    "$venv/bin/python" -c 'import pathlib, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "deepcoro.pth").write_text(sys.argv[1] + "\n")' "$root"
    mkdir -p "$prefix/bin"
    for name in deepcoro validate_site; do ln -sf "$root/container/launch.sh" "$prefix/bin/$name"; done
}

# Not 1000, which the base image gives to a user of its own.
user() {
    useradd --uid 10001 --create-home --shell /bin/bash deepcoro
}

has_network() {
    [ "$(wc -l < /proc/self/net/route)" -gt 1 ] && return 0
    [ -r /proc/self/net/ipv6_route ] && awk '$NF != "lo" { found = 1 } END { exit !found }' /proc/self/net/ipv6_route
}

check() {
    if has_network; then
        echo "install.sh: there is a network here: going on in a namespace without one" >&2
        exec unshare --map-current-user --net "$0" check --venv "$venv" --prefix "$prefix"
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$root"
    export PATH=$prefix/bin:$PATH DEEPCORO_CACHE=$work/cache DEEPCORO_VENV=$venv
    deepcoro python tools/make_demo_data.py "$work/data" --preset tiny --patients 10
    deepcoro python tools/shard_dataset.py --csv "$work/data/dataset.csv" --output "$work/shards" \
        --report_scope side --key_file "$work/data/demo.key" --workers 1
    deepcoro python train.py demo/tiny data.shards="$work/shards" run_dir="$work/run" max_steps=1 checkpoint.every_steps=1
    # not the key of training: to a site that does not have it these are other patients
    (umask 077 && head -c 16 /dev/urandom | od -An -tx1 | tr -d ' ' > "$work/site.key")
    validate_site "$work/data/dataset.csv" --checkpoint "$work/run" --load last --output "$work/site.json" \
        --device cpu --workers 1 --report_scope side --key_file "$work/site.key"
    [ -s "$work/site.json" ]
    echo "install.sh: checked without a network, as user $(id -u)"
}

step=${1:-}
[ $# -gt 0 ] && shift
while [ $# -gt 0 ]; do
    case $1 in
        --venv) venv=$2 ;;
        --extras) extras=$2 ;;
        --prefix) prefix=$2 ;;
        *) echo "install.sh: unknown option $1; see the head of this file" >&2; exit 2 ;;
    esac
    shift 2
done
case $step in
    system | dependencies | place | user | check) "$step" ;;
    *) echo "install.sh: step '$step' is none of system, dependencies, place, user, check" >&2; exit 2 ;;
esac
