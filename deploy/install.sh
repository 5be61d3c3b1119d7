#!/bin/sh
# Installs samesku into a virtual environment, at the versions of constraints.txt. `make` and the Dockerfile both run it.
#
#   deploy/install.sh VENV EXTRAS        e.g. deploy/install.sh .venv cpu,dev
#
# Does nothing if the environment was made from the same files and extras before. PYTHON names the interpreter (3.11+).
# TORCH_INDEX may hold the address of an index with other builds of torch (CPU only, or another CUDA).
set -eu

venv=$1
extras=$2
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" "$root/deploy/install.sh" | sha256sum | cut -d' ' -f1)
wanted="$wanted $extras $root"
stamp="$venv/.samesku-installed"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "samesku needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2
    exit 1
fi
echo "Installing into $venv (PyTorch is large: this takes a few minutes the first time) ..."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    --constraint "$root/constraints.txt" --editable "$root[$extras]"
"$venv/bin/python" -c 'import cv2, faiss, lightgbm, timm, torch, transformers'  # a broken wheel shows here, not in the first request
echo "$wanted" > "$stamp"
