"""The plain service: what a reader of the article would write in an afternoon. The race's other side.

    python -m tests.benchmarks.reference_service --bundle model_store/default --port 8001

FastAPI, one request at a time, PyTorch as it comes, everything in memory, `IndexFlatIP.search(k=50)` and a cut at the
threshold. The towers, their preprocessing and the thresholds come from the same bundle as samesku's, so both must give
the same answers: only the service around them differs.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, File, Form, HTTPException, UploadFile

from app.core.product import Floats
from app.encoders.multimodal import load_image_tower, load_title_tower
from app.encoders.preprocess import InputLimits, clean_title, frame, open_image
from app.encoders.title import TitleTokens
from app.model_store import load_bundle

NEIGHBOURS = 50


class PlainMatcher:
    """Towers, an index and three lists."""

    def __init__(self, folder: Path, device: str) -> None:
        """Loads the towers of a bundle that has both."""
        bundle = load_bundle(folder)
        spec = bundle.manifest.spec()
        if spec.image is None or spec.title is None:
            raise SystemExit("the benchmark needs a bundle with an image and a title tower")
        self.device = torch.device(device)
        self.framing, self.limits = spec.image.preprocessing, InputLimits()
        self.image_tower = load_image_tower(spec, folder).eval().to(self.device)
        self.title_tower = load_title_tower(spec, folder).eval().to(self.device)
        self.tokens = TitleTokens(spec.title, folder / spec.title.tokenizer)
        self.weight, self.thresholds = spec.fusion.weight, bundle.manifest.decision()
        self.image_dim, self.title_dim = spec.image.dim, spec.title.dim
        self.index = faiss.IndexFlatIP(self.image_dim + self.title_dim)
        self.ids: list[str] = []
        self.titles: list[str] = []
        self.products: set[str] = set()

    @torch.inference_mode()
    def embed_image(self, data: bytes) -> Floats:
        """Returns `(image_dim,)` float32, a unit vector."""
        pixels = torch.from_numpy(frame(open_image(data, self.limits), self.framing).copy())
        vector: Floats = self.image_tower(pixels.permute(2, 0, 1)[None].to(self.device))[0].cpu().numpy()
        return vector

    @torch.inference_mode()
    def embed_title(self, title: str) -> Floats:
        """Returns `(title_dim,)` float32, a unit vector."""
        batch = self.tokens([clean_title(title, self.limits)]).to(self.device)
        vector: Floats = self.title_tower(batch)[0].cpu().numpy()
        return vector

    def question(self, image: bytes | None, title: str | None) -> tuple[Floats, str]:
        """Returns the `(dim,)` question, scaled so that its inner products are scores, and what it is made of."""
        zeros = np.zeros(self.image_dim, np.float32), np.zeros(self.title_dim, np.float32)
        share = np.sqrt([self.weight, 1 - self.weight]).astype(np.float32)
        if image is None and title is None:
            raise HTTPException(422, "send an image or a title")
        if image is None:
            return np.concatenate([zeros[0], self.embed_title(title or "") / share[1]]), "title"
        if title is None:
            return np.concatenate([self.embed_image(image) / share[0], zeros[1]]), "image"
        return np.concatenate([share[0] * self.embed_image(image), share[1] * self.embed_title(title)]), "fused"

    def add(self, product_id: str, title: str, image: bytes) -> None:
        """Appends a row; a product with several photos has several."""
        vector, _ = self.question(image, title)
        self.index.add(vector[None])
        self.ids.append(product_id)
        self.titles.append(title)
        self.products.add(product_id)

    def add_vectors(self, rows: Floats) -> None:
        """Appends fused `(n, dim)` rows that were made elsewhere."""
        self.index.add(np.ascontiguousarray(rows, np.float32))
        made_up = [f"vector-{number}" for number in range(len(rows))]
        self.ids += made_up
        self.titles += [""] * len(rows)
        self.products.update(made_up)

    def match(self, image: bytes | None, title: str | None, threshold: float | None, limit: int) -> dict[str, Any]:
        """Returns the products among the 50 nearest rows that reach the threshold, best first."""
        vector, modality = self.question(image, title)
        if threshold is None:
            threshold = self.thresholds.at(modality, len(self.products))
        scores, rows = self.index.search(vector[None], NEIGHBOURS)
        best: dict[str, dict[str, Any]] = {}
        for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True):
            if row >= 0 and score >= threshold:
                best.setdefault(self.ids[row], {"id": self.ids[row], "score": score, "title": self.titles[row]})
        return {"matches": list(best.values())[:limit], "threshold": threshold}


def create_app(matcher: PlainMatcher) -> FastAPI:
    """Returns the app. FastAPI runs plain functions in threads; the lock lets one in at a time."""
    app = FastAPI()
    lock = threading.Lock()

    @app.post("/match")
    def match(
        image: Annotated[UploadFile | None, File()] = None,
        title: Annotated[str | None, Form()] = None,
        threshold: Annotated[float | None, Form()] = None,
        limit: Annotated[int, Form()] = 20,
    ) -> dict[str, Any]:
        with lock:
            return matcher.match(None if image is None else image.file.read(), title, threshold, limit)

    @app.post("/catalog", status_code=201)
    def add(id: Annotated[str, Form()], title: Annotated[str, Form()], image: UploadFile) -> dict[str, str]:  # noqa: A002
        with lock:
            matcher.add(id, title, image.file.read())
        return {"id": id}

    @app.get("/readyz")
    def ready() -> dict[str, Any]:
        return {"status": "ready", "rows": len(matcher.ids)}

    return app


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(description="The plain matching service that samesku is measured against.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--vectors", type=Path, help="NumPy file of fused rows to start with, (n, dim) float32.")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if given.device == "auto" else given.device
    matcher = PlainMatcher(given.bundle, device)
    if given.vectors is not None:
        matcher.add_vectors(np.load(given.vectors, allow_pickle=False))
    uvicorn.run(create_app(matcher), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
