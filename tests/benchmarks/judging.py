"""What the pair model adds to a request: evidence, probability and reasons for 50 candidates, on one core.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.judging [BUNDLE]

The candidates are the products of samples/catalog.csv with random vectors around the query's: the time depends on titles and
sizes, not on which vectors they are. What the catalog's titles say is remembered, as it is in a service, and every request
asks with a title that was never seen before. The first round, when no title is known, is reported apart. Prints milliseconds
per request: median, fastest, and tenth to ninetieth percentile; on a machine that others use, compare the fastest.
"""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from app.bootstrap import build_judge
from app.core.answer import Answer, Candidate, Match
from app.core.fusion import HAS_BOTH
from app.core.product import Embedding, Floats, Photo, Product, Query
from app.judge import Judge, Rule
from app.model_store import load_bundle

ROOT = Path(__file__).parent.parent.parent
CANDIDATES = 50
SHOWN = 20  # matches: reasons are for what is shown
ROUNDS = 300


def main() -> None:
    """Measures and prints."""
    bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "model_store" / "default"
    judge = build_judge(load_bundle(bundle))
    query, answer = asked(judge)
    cold = milliseconds(judge, query, answer)
    warm = np.array([milliseconds(judge, replace(query, title=f"{query.title} {n}"), answer) for n in range(ROUNDS)])
    low, middle, high = np.percentile(warm, [10, 50, 90])
    sys.stdout.write(
        f"{CANDIDATES} candidates: {middle:.2f} ms, fastest {warm.min():.2f} ({low:.2f} to {high:.2f}), "
        f"the first time {cold:.1f} ms\n"
    )


def milliseconds(judge: Judge, query: Query, answer: Answer) -> float:
    """Judges one answer."""
    started = time.perf_counter()
    judge.judge(query, answer, Rule())
    return (time.perf_counter() - started) * 1000


def asked(judge: Judge, candidates: int = CANDIDATES, seed: int = 0) -> tuple[Query, Answer]:
    """Returns a query, and an answer with that many candidates, the best of them matches."""
    random = np.random.default_rng(seed)
    with (ROOT / "samples" / "catalog.csv").open(encoding="utf-8", newline="") as stream:
        titles = [row["title"] for row in csv.DictReader(stream)]
    fusion = judge.fusion
    image, title = near(random, None, fusion.image_dim), near(random, None, fusion.title_dim)
    embedding = Embedding(image[None], title)
    now = datetime.now(UTC)
    found = []
    for n in range(candidates):
        other = Embedding(near(random, image, fusion.image_dim)[None], near(random, title, fusion.title_dim))
        score = float(fusion.fuse(embedding)[0][0] @ fusion.fuse(other)[0][0])
        photo = Photo("0" * 64, "image/jpeg", 300, 300, int(random.integers(1 << 63)))
        product = Product(f"p{n}", titles[n % len(titles)], (photo,), {}, now, now)
        found.append(Candidate(Match(product, score, score, score), fusion.fuse(other)[0][0], HAS_BOTH))
    found.sort(key=lambda one: -one.match.score)
    query = Query(embedding, -1.0, SHOWN, context=judge.context, title=titles[0], phash=1)
    return query, Answer(tuple(one.match for one in found[:SHOWN]), -1.0, candidates, 100_000, candidates=tuple(found))


def near(random: np.random.Generator, centre: Floats | None, dim: int) -> Floats:
    """Returns a random unit vector, with a centre one whose cosine to it is about .7."""
    row = random.normal(size=dim) / np.sqrt(dim)
    row = row if centre is None else row + centre
    unit: Floats = (row / np.linalg.norm(row)).astype(np.float32)
    return unit


if __name__ == "__main__":
    main()
