"""The same gallery for both services, and the proof that both give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from app.bootstrap import build_encoder
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.core.product import DEFAULT_CATALOG, Embedding, Floats, ProductDraft
from app.model_store import Bundle
from app.settings import Settings
from tests.benchmarks.load import Sample, read_catalog, read_queries
from tests.benchmarks.processes import BenchmarkFailed, Service
from tests.benchmarks.stats import REFERENCE, SAMESKU

FILLER_TITLE = "filler"
LIKE = 0.6
SEED = 20211
PUT_AT_ONCE = 500
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the answers of both services to the sample queries are.

    Attributes:
        queries: how many were asked.
        same_best: for how many the best candidate, whatever its score, is the same product.
        same_matches: for how many the same products reach the bundle's threshold.
        score_difference: largest difference of the best candidate's score.
        differing: ids of the queries with another best candidate or other matches.
    """

    queries: int
    same_best: int
    same_matches: int
    score_difference: float
    differing: tuple[str, ...]


def make_filler(bundle: Bundle, count: int) -> Floats:
    """Returns `(count, image_dim + title_dim)` float32 unit halves, side by side, not yet weighted: what else a shop holds.

    Each is of the kind of one of the sample's products, photo and title more or less like its: their cosines to it are
    drawn from 0 to `LIKE`, the rest is random. Rows with nothing in common would be easy to tell apart and hard to rank.

    Raises:
        BenchmarkFailed: the bundle has only one tower.
    """
    image, title = bundle.manifest.image, bundle.manifest.title
    if image is None or title is None:
        raise BenchmarkFailed("the benchmark needs a bundle with an image and a title tower.")
    encoder, products = build_encoder(Settings(device="cpu"), bundle), read_catalog()
    photos = encoder.embed_photos([encoder.read_photo(photos[0])[1] for _, _, photos in products if photos[0]])
    titles = encoder.embed_titles([encoder.read_title(title) for _, title, photos in products if photos[0]])
    random = np.random.default_rng(SEED)
    kind = random.integers(len(photos), size=count)
    return np.hstack([_around(half[kind], random) for half in (photos, titles)])


def _around(rows: Floats, random: np.random.Generator) -> Floats:
    """Returns a unit row beside each unit row, with a cosine of 0 to `LIKE` to it."""
    apart = random.standard_normal(rows.shape, dtype=np.float32)
    apart -= (apart * rows).sum(1, keepdims=True) * rows
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    like = random.uniform(0, LIKE, (len(rows), 1)).astype(np.float32)
    return (like * rows + np.sqrt(1 - like**2) * apart).astype(np.float32)


def fill_samesku(bundle: Bundle, data: Path, filler: Floats) -> None:
    """Puts the filler into a data folder, as products without photo files, before the service opens it."""
    fusion = bundle.manifest.encoder_fusion()
    cut = fusion.image_dim
    drafts = [
        ProductDraft(f"filler-{n:06d}", FILLER_TITLE, (), {}, Embedding(row[None, :cut], row[cut:]))
        for n, row in enumerate(filler)
    ]
    catalog = LocalCatalog(DataFolder(data), fusion, bundle.fingerprint)
    try:
        for start in range(0, len(drafts), PUT_AT_ONCE):
            catalog.put(DEFAULT_CATALOG, drafts[start : start + PUT_AT_ONCE])
    finally:
        catalog.close()


def fill_reference(bundle: Bundle, file: Path, filler: Floats) -> None:
    """Writes the filler as the fused rows that the reference service reads."""
    weight, cut = bundle.manifest.fusion.weight, bundle.manifest.encoder_fusion().image_dim
    fused = np.hstack([np.sqrt(weight) * filler[:, :cut], np.sqrt(1 - weight) * filler[:, cut:]])
    np.save(file, fused.astype(np.float32), allow_pickle=False)


def index_samples(service: Service, done: Callable[[], None]) -> int:
    """Sends the sample catalog to a service, over its API; returns how many products it has.

    samesku takes all photos of a product in one call, the plain service one photo per call.
    """
    products = read_catalog()
    with httpx.Client(base_url=service.url, timeout=TIMEOUT_S) as client:
        for product, title, photos in products:
            calls = [photos] if service.name == SAMESKU else [[photo] for photo in photos]
            for call in calls:
                files = [("image", ("photo.jpg", photo, "image/jpeg")) for photo in call]
                _checked(service, client.post("/catalog", data={"id": product, "title": title}, files=files))
            done()
    return len(products)


def compare_answers(services: dict[str, Service], done: Callable[[], None]) -> Agreement:
    """Asks both services every sample query: the best candidate, and the matches at the bundle's threshold."""
    queries = read_queries()
    answers: dict[str, list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]] = {}
    for name, service in services.items():
        service.go()
        with httpx.Client(base_url=service.url, timeout=TIMEOUT_S) as client:
            answers[name] = []
            for query in queries:
                best = _ask(service, client, query, {"threshold": "-1", "limit": "1"})
                answers[name].append((best, _ask(service, client, query, {})))
                done()
        service.hold()
    pairs = list(zip(answers[SAMESKU], answers[REFERENCE], strict=True))
    differences = [abs(ours[0][0]["score"] - other[0][0]["score"]) for ours, other in pairs]
    same_best = [bool(ours[0][0]["id"] == other[0][0]["id"]) for ours, other in pairs]
    same_matches = [{m["id"] for m in ours[1]} == {m["id"] for m in other[1]} for ours, other in pairs]
    agreeing = zip(queries, same_best, same_matches, strict=True)
    differing = tuple(query.id for query, best, matches in agreeing if not (best and matches))
    return Agreement(len(queries), sum(same_best), sum(same_matches), max(differences), differing)


def _ask(service: Service, client: httpx.Client, query: Sample, options: dict[str, str]) -> list[dict[str, Any]]:
    fields = options | ({"title": query.title} if query.title else {})
    files = {"image": ("photo.jpg", query.photo, "image/jpeg")} if query.photo else None
    answer = client.post("/match", data=fields, files=files)
    matches: list[dict[str, Any]] = _checked(service, answer)["matches"]
    return matches


def _checked(service: Service, answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code not in (200, 201):
        raise BenchmarkFailed(f"{service.name} answered {answer.status_code}: {answer.text[:300]}")
    body: dict[str, Any] = answer.json()
    return body
