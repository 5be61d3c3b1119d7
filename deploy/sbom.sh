#!/bin/sh
# Writes what an environment holds, and the weights beside it, as a CycloneDX list. `make sbom` and the Dockerfile both run it.
#
#   deploy/sbom.sh VENV BUNDLE FILE     e.g. deploy/sbom.sh .venv model_store/default sbom.cdx.json
#
# The tool that reads the environment is taken from it if it is there (extra dev), else from one that is thrown away.
set -eu

venv=$1
bundle=$2
file=$3
root=$(cd "$(dirname "$0")/.." && pwd)
tool="$venv/bin/cyclonedx-py"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ ! -x "$tool" ]; then
    "$venv/bin/python" -m venv "$scratch/venv"
    "$scratch/venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" cyclonedx-bom
    tool="$scratch/venv/bin/cyclonedx-py"
fi
"$tool" environment --pyproject "$root/pyproject.toml" --mc-type application --output-reproducible --output-format JSON \
    --output-file "$scratch/packages.json" "$venv/bin/python"
PYTHONPATH="$root" "$venv/bin/python" "$root/deploy/sbom_weights.py" "$scratch/packages.json" "$bundle" "$file"
