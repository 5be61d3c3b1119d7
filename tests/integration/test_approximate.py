"""An approximate search says so, and leaves out what it is told to."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.rows import IndexOptions
from app.core.product import Embedding, ProductDraft, Query
from tests.fakes import FINGERPRINT, FUSION
from tests.integration.test_search_oracle import directions

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
    random = np.random.default_rng(1)
    images, titles = directions(150, FUSION.image_dim, 3), directions(150, FUSION.title_dim, 4)
    drafts = [ProductDraft(f"p{n}", None, (), {}, Embedding(images[n][None], titles[n])) for n in range(150)]
    asked = drafts[random.integers(150)]
    for options in (IndexOptions(), APPROXIMATE, IndexOptions(search="flat")):
        with closing(LocalCatalog(DataFolder(tmp_path), FUSION, FINGERPRINT, options)) as catalog:
            if not catalog.size("default"):
                catalog.put("default", drafts)
            (answer,) = catalog.search("default", [Query(asked.embedding, 0.9999, 10)])
            assert [match.product.id for match in answer.matches] == [asked.id]
            assert answer.exact == (options is not APPROXIMATE)
