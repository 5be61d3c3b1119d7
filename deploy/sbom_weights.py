"""Adds the weights of a bundle to a CycloneDX list, as a machine-learning model with a digest of each file.

python deploy/sbom_weights.py PACKAGES BUNDLE FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from app.model_store import Manifest, load_bundle

ROOT = Path(__file__).parent.parent


def model(folder: Path) -> dict[str, Any]:
    """Returns the component of a bundle whose checksums are right. Raises BundleError."""
    bundle = load_bundle(folder)
    parts = [_file(name, entry.sha256, entry.size_bytes) for name, entry in sorted(bundle.manifest.files.items())]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"bundle-{bundle.fingerprint}",
        "name": bundle.manifest.name,
        "version": bundle.fingerprint,
        "description": f"The bundle {bundle.label}: weights, tokenizer, pair model; see its model card README.md.",
        "licenses": [{"license": {"id": "Apache-2.0"}}],  # of this repository, of which it is part
        "modelCard": {"modelParameters": _parameters(bundle.manifest)},
        "components": parts,
    }


def _parameters(manifest: Manifest) -> dict[str, Any]:
    inputs = [{"format": name} for name, tower in (("image", manifest.image), ("title", manifest.title)) if tower]
    return {"task": "product matching", "inputs": inputs, "outputs": [{"format": "unit vector"}]}


def _file(name: str, sha256: str, size_bytes: int) -> dict[str, Any]:
    return {
        "type": "file",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        "properties": [{"name": "samesku:size_bytes", "value": str(size_bytes)}],
    }


def main(packages: Path, bundle: Path, file: Path) -> None:
    """Reads the list of packages, adds the bundle, writes the whole."""
    found = json.loads(packages.read_text("utf-8"))
    found["components"].append(model(bundle))
    file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
