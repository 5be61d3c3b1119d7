"""An approximate search says so, and leaves out what it is told to."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog import snapshot
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.rows import IndexOptions
from app.core.product import Embedding, ProductDraft, Query
from tests.fakes import FINGERPRINT, FUSION
from tests.integration.test_search_oracle import directions
from tests.power_cuts import flip

APPROXIMATE = IndexOptions(search="approximate", lists_from=100)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_answers_of_lists_are_not_exact_and_leave_out_what_they_should(tmp_path: Path, precision: str) -> None:
    images, titles = directions(200, FUSION.image_dim, 3), directions(200, FUSION.title_dim, 4)
    options = IndexOptions("float16" if precision == "float16" else "float32", "approximate", lists_from=100)
    drafts = [
        ProductDraft(f"p{n}", None, (), {"even": n % 2 == 0}, Embedding(images[n // 2][None], titles[n // 2]))
        for n in range(200)
    ]
    asked = Embedding(images[20][None], titles[20])  # p40 and p41
    with closing(LocalCatalog(DataFolder(tmp_path), FUSION, FINGERPRINT, options)) as catalog:
        catalog.put("default", drafts[:90])
        (answer,) = catalog.search("default", [Query(asked, 0.999, 10)])
        assert (answer.exact, answer.total) == (True, 2)
        catalog.put("default", drafts[90:])

    with closing(LocalCatalog(DataFolder(tmp_path), FUSION, FINGERPRINT, options)) as catalog:  # the lists are made anew

        def found(**rest: object) -> list[str]:
            (answer,) = catalog.search("default", [Query(asked, 0.999, 10, context=5, **rest)])  # type: ignore[arg-type]
            assert not answer.exact
            return [match.product.id for match in answer.matches]

        assert found() == ["p40", "p41"]
        assert found(where={"even": (True,)}) == ["p40"]
        assert found(exclude="p40") == ["p41"]
        catalog.delete("default", "p41")
        assert found() == ["p40"]
        catalog.put("default", [ProductDraft("p7", None, (), {}, asked)])
        assert found() == ["p7", "p40"]


def test_a_snapshot_serves_any_search(tmp_path: Path) -> None:
    asked = stocked(tmp_path)[np.random.default_rng(1).integers(150)]
    for options in (IndexOptions(), APPROXIMATE, IndexOptions(search="flat")):
        with closing(LocalCatalog(DataFolder(tmp_path), FUSION, FINGERPRINT, options)) as catalog:
            (answer,) = catalog.search("default", [Query(asked.embedding, 0.9999, 10)])
            assert [match.product.id for match in answer.matches] == [asked.id]
            assert answer.exact == (options is not APPROXIMATE)


def stocked(folder: Path, options: IndexOptions = APPROXIMATE) -> list[ProductDraft]:
    """Stops a catalog cleanly that holds 150 products, which are returned."""
    images, titles = directions(150, FUSION.image_dim, 3), directions(150, FUSION.title_dim, 4)
    drafts = [ProductDraft(f"p{n}", None, (), {}, Embedding(images[n][None], titles[n])) for n in range(150)]
    with closing(LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT, options)) as catalog:
        catalog.put("default", drafts)
    return drafts


def starts(folder: Path, asked: ProductDraft) -> None:
    """Starts, finds a product by its own photo and title, and stops."""
    with closing(LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT, APPROXIMATE)) as catalog:
        (answer,) = catalog.search("default", [Query(asked.embedding, 0.9999, 10)])
        assert ([match.product.id for match in answer.matches], answer.exact) == ([asked.id], False)


def test_a_start_takes_the_lists_from_the_snapshot(tmp_path: Path, lists_made: list[int]) -> None:
    drafts = stocked(tmp_path)
    once = list(lists_made)
    assert once  # one for each part that questions may be about
    starts(tmp_path, drafts[7])
    with closing(LocalCatalog(DataFolder(tmp_path), FUSION, FINGERPRINT, APPROXIMATE)) as catalog:
        catalog.delete("default", "p7")
        catalog.put("default", [ProductDraft("q", None, (), {}, drafts[7].embedding)])
    starts(tmp_path, ProductDraft("q", None, (), {}, drafts[7].embedding))
    assert lists_made == once


def test_lists_are_kept_once_they_were_wanted(tmp_path: Path, lists_made: list[int]) -> None:
    drafts = stocked(tmp_path, IndexOptions())
    assert lists_made == []
    starts(tmp_path, drafts[3])
    once = list(lists_made)
    assert once
    starts(tmp_path, drafts[3])
    assert lists_made == once


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / snapshot.MANIFEST).read_text("utf-8"))
    change(manifest["auxiliary"])
    (folder / snapshot.MANIFEST).write_text(json.dumps(manifest), "utf-8")


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: flip(folder / "auxiliary_0"),
    "cut short": lambda folder: (folder / "auxiliary_0").write_bytes(b"lists"),
    "empty": lambda folder: (folder / "auxiliary_1").write_bytes(b""),
    "not there": lambda folder: (folder / "auxiliary_1").unlink(),
    "for other rows": lambda folder: edited(folder, lambda kept: [one.update(flags=1) for one in kept["files"]]),
    "one too few": lambda folder: edited(folder, lambda kept: kept["files"].pop()),
    "of another version": lambda folder: edited(folder, lambda kept: kept.update(layout="lists of FAISS 0.1, 1")),
    "said otherwise": lambda folder: edited(folder, lambda kept: kept.update(files="lists")),
}


@pytest.mark.parametrize("damage", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_lists_that_prove_nothing_are_made_anew(
    tmp_path: Path, lists_made: list[int], damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    drafts = stocked(tmp_path)
    once = list(lists_made)
    (folder,) = (tmp_path / "snapshots").iterdir()
    damage(folder)
    caplog.clear()
    with caplog.at_level(logging.INFO, "app.catalog.shelf"):
        starts(tmp_path, drafts[9])
    assert lists_made == once + once
    said = [record for record in caplog.records if record.name == "app.catalog.shelf"]
    assert [record.getMessage() for record in said] == ["codes or lists are made anew", "catalog open"]
    assert said[-1].__dict__["source"] == "snapshot"
    starts(tmp_path, drafts[9])  # and have been kept
    assert lists_made == once + once
