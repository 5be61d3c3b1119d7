"""Builds the tables that the *default* recipe of docs/training.md trains on, fits to and reports on.

    python docs/recipes/default_tables.py D OUT --annotations FOLDER

D is the folder of the data, FOLDER the unpacked package `cldr-annotations-full` (Unicode-3.0: names of things in many
languages). OUT gets

    titles.csv, parallel.csv           train the title tower
    photos.parquet                     trains the photo tower
    calibration.parquet                thresholds are fitted to it
    heldout.parquet                    thresholds are measured on it

No product, family of colours, or fashion listing is in two of the last three. The products of samples/catalog.csv, with
their colour siblings, and the shop `opencart-demo` are in heldout.parquet only. The titles of the Web Data Commons pairs
in the last two are those that the recipe's folds keep away from the title tower.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from app.labelled.folds import fold_of
from app.labelled.listings import read_labelled
from app.labelled.pairs import read_pairs
from app.listings import Columns
from app.training.augment.photo import PhotoAugmentation, augment
from app.training.augment.title import TitleAugmentation, augment_title
from app.training.run import apart

Row = dict[str, Any]

FOLDS = 8  # of products with photos; 0: heldout, 1: calibration, the others train
PAIR_FOLDS = 10  # of titles, likewise
NEVER_TRAINED = "opencart-demo"
FASHION_TITLES = 7000
FASHION_PHOTOS = 3000
LONE = 1200  # fashion listings that match nothing, in calibration and in heldout
COPIES = 75  # fashion listings with an edited copy, likewise
PHONE_PHOTOS = 12  # of a grocery product, in calibration and in heldout
SAMPLE_SOURCES = {
    "GroceryStoreDataset": "grocery",
    "Magento Luma sample data": "magento-luma",
    "Amazon Picking Challenge items": "apc-items",
}

NAMES = 6  # languages beside English in which a thing is named
COMPOSED, COMPOSED_NAMES = 3200, 3
# how often a language is drawn, in any unit; those of the marketplaces that the bundle is for more often
LANGUAGES: Mapping[str, float] = {
    "id": 4, "vi": 4, "th": 4, "zh": 4, "ms": 2, "zh-Hant": 1.5, "fil": 1.5, "de": 1.5, "fr": 1.5, "es": 1.5, "pt": 1.5,
    "ru": 1.5, "ja": 1.5, "ko": 1.5, "it": 1, "tr": 1, "ar": 1, "hi": 1, "nl": 0.7, "pl": 0.7, "uk": 0.5,
}  # fmt: skip
SIZES = ("500 g", "1 kg", "250ml", "1L", "2 pcs", "12 pcs", "XL", "M", "size 42", "128GB", "20 cm", "", "", "", "")


def main() -> None:
    """Writes all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--annotations", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    fashion = pq.read_table(options.data / "fashion.parquet", columns=["id", "title", "image"]).to_pylist()
    write_csv(options.out / "parallel.csv", parallel_titles(options.annotations / "annotations", random))
    titles = fashion_titles(fashion, random)
    write_csv(options.out / "titles.csv", titles)
    for name, rows in photo_tables(options.data, fashion, {row["title"] for row in titles}, random).items():
        pq.write_table(pa.Table.from_pylist(rows), options.out / f"{name}.parquet")
        print(f"{name}.parquet: {len(rows):,} listings, {len({row['group'] for row in rows}):,} groups")


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """Writes rows of equal keys, and says how many."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{file.name}: {len(rows):,} titles")


# titles


def parallel_titles(folder: Path, random: np.random.Generator) -> list[Row]:
    """Returns names of single things, and made-up titles of several, in English and other languages; a group each."""
    names = {language: _names(folder / language) for language in ("en", *LANGUAGES)}
    things = sorted({name: sign for sign, name in sorted(names["en"].items())}.values())
    rows: list[Row] = []
    for number, sign in enumerate(things):
        for language in ("en", *_drawn(names, [sign], NAMES, random)):
            rows.append(_named(rows, f"thing-{number}", names[language][sign]))
    for number in range(COMPOSED):
        chosen = [things[n] for n in random.choice(len(things), int(random.choice([1, 2, 2, 3])), replace=False)]
        size = SIZES[int(random.integers(len(SIZES)))]
        model = f"LX-{random.integers(10, 999)}" if random.random() < 0.4 else ""
        for language in ("en", *_drawn(names, chosen, COMPOSED_NAMES, random)):
            words = [names[language][sign] for sign in chosen]
            if language != "en":
                random.shuffle(words)
            between = "" if language.startswith(("zh", "ja", "th")) else " "
            rows.append(_named(rows, f"composed-{number}", f"{model} {between.join(words)} {size}".strip()))
    return rows


def _named(rows: Sequence[Row], group: str, title: str) -> Row:
    return {"id": f"p{len(rows)}", "group": group, "title": title}


def _names(folder: Path) -> dict[str, str]:
    """Returns the names of pictures of things, by their sign."""
    found = json.loads((folder / "annotations.json").read_text("utf-8"))["annotations"]["annotations"]
    return {sign: entry["tts"][0] for sign, entry in found.items() if entry.get("tts") and _is_picture(sign)}


def _is_picture(sign: str) -> bool:
    if len(sign) != 1:
        return False
    point = ord(sign)
    return (0x1F300 <= point <= 0x1FAFF or 0x2600 <= point <= 0x27BF) and not 0x1F3FB <= point <= 0x1F3FF  # skin tones


def _drawn(
    names: Mapping[str, Mapping[str, str]], signs: Sequence[str], count: int, random: np.random.Generator
) -> list[str]:
    """Returns languages other than English that have a name for every sign."""
    able = [language for language in LANGUAGES if all(sign in names[language] for sign in signs)]
    weights = np.array([LANGUAGES[language] for language in able])
    return [str(one) for one in random.choice(able, min(count, len(able)), replace=False, p=weights / weights.sum())]


def fashion_titles(fashion: Sequence[Row], random: np.random.Generator) -> list[Row]:
    """Returns distinct titles; the same title names many products, so equal ones must not be different groups."""
    distinct = sorted({row["title"]: str(row["id"]) for row in fashion if row["title"]}.items())
    chosen = random.choice(len(distinct), min(FASHION_TITLES, len(distinct) // 2), replace=False)
    return [{"id": distinct[n][1], "title": distinct[n][0]} for n in sorted(chosen)]


# photos


def photo_tables(data: Path, fashion: Sequence[Row], known: set[str], random: np.random.Generator) -> dict[str, list[Row]]:
    """Returns the listings of photos, calibration and heldout; `known` are the titles that train the title tower."""
    tables: dict[str, list[Row]] = {"photos": [], "calibration": [], "heldout": []}
    for row, part in _dealt(data):
        if part == "photos" or _wanted(row, tables[part]):
            tables[part].append(row)
    order = [fashion[n] for n in random.permutation(len(fashion))]
    tables["photos"] += [_listing(row, f"fashion-{row['id']}") for row in order[:FASHION_PHOTOS]]
    rest, titled = (row for row in order[FASHION_PHOTOS:] if row["title"] not in known), pair_titles(data)
    for part in ("calibration", "heldout"):
        rows = [_reworded(row, random) for row in tables[part]]
        rows += [_listing(row, f"lone-{row['id']}") for row, _ in zip(rest, range(LONE), strict=False)]
        for _, row in zip(range(COPIES), rest, strict=False):
            rows += _with_copy(row, random)
        tables[part] = rows + titled[part]
    # photos of one grocery product may share an id
    return {name: [{**row, "id": f"{name}-{n}"} for n, row in enumerate(rows)] for name, rows in tables.items()}


def pair_titles(data: Path) -> dict[str, list[Row]]:
    """Returns the titles in the folds that `train --test-fold 0/10 --calibration-fold 1/10` keeps apart."""
    files = sorted((data / "title-pairs").glob("wdc-*.csv.gz"))
    items = apart(read_pairs(files, strict=False).items, "pairs", True)
    folds = fold_of(items, PAIR_FOLDS)
    return {
        part: [
            {"group": item.group, "title": item.title, "source": "wdc"}
            for item, one in zip(items, folds.tolist(), strict=True)
            if one == fold
        ]
        for fold, part in enumerate(("heldout", "calibration"))
    }


def _dealt(data: Path) -> Iterator[tuple[Row, str]]:
    """Yields the listings of groceries and shops, and the table that each belongs to."""
    with (Path(__file__).parents[2] / "samples" / "catalog.csv").open(encoding="utf-8") as stream:
        sample = list(csv.DictReader(stream))
    known = [(SAMPLE_SOURCES[one["source"]], _words(one["title"])) for one in sample]
    for name in ("grocery", "shops"):
        file = data / f"{name}.parquet"
        rows = pq.read_table(file).to_pylist()
        families = {row["id"]: _family(row) for row in rows}
        items = read_labelled(file, Columns(), strict=False).items
        items = [replace(item, family=families[item.id]) for item in items]
        folds = {families[item.id]: fold for item, fold in zip(items, fold_of(items, FOLDS).tolist(), strict=True)}
        shown = {families[row["id"]] for row in rows if _in_sample(row, name, known)}
        for row in rows:
            family = families[row["id"]]
            held = family in shown or row.get("source") == NEVER_TRAINED or folds.get(family, 0) == 0
            part = "heldout" if held else "calibration" if folds[family] == 1 else "photos"
            listing = {**_listing(row, row["group"]), "source": row.get("source", name), "view": row["view"]}
            yield listing, part


def _family(row: Row) -> str:
    """The colours of one garment; the items of the Picking Challenge are all of one "family", the year."""
    family = row.get("family") if row.get("source") != "apc-items" else None
    return str(family or row["group"])


def _in_sample(row: Row, name: str, known: Sequence[tuple[str, frozenset[str]]]) -> bool:
    """Whether it is in the sample, from the same source: titles were put in order there, and some made longer."""
    source = row.get("source", name)
    ours = (_words(row["title"]), _words(row["group"].rpartition(":")[2]))
    return any(source == other and any(_alike(words, theirs) for words in ours) for other, theirs in known)


def _alike(words: frozenset[str], theirs: frozenset[str]) -> bool:
    return words <= theirs or len(words & theirs) * 3 >= 2 * len(words | theirs)


def _words(title: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", title.lower().replace("'", "")))


def _wanted(row: Row, chosen: Sequence[Row]) -> bool:
    """Of the many phone photos of a grocery product a few are enough to fit to."""
    already = [one for one in chosen if one["group"] == row["group"]]
    return row["view"] != "natural" or len(already) <= PHONE_PHOTOS


def _listing(row: Row, group: str) -> Row:
    return {"id": str(row["id"]), "group": group, "title": row["title"], "image": row["image"]}


def _reworded(row: Row, random: np.random.Generator) -> Row:
    """All photos of these products carry the same title, which would decide everything: sellers word it differently."""
    return {**row, "title": augment_title(row["title"], TitleAugmentation(), random)}


def _with_copy(row: Row, random: np.random.Generator) -> list[Row]:
    group = f"copy-{row['id']}"
    photo = augment(Image.open(io.BytesIO(row["image"])).convert("RGB"), PhotoAugmentation(), random)
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=90)
    copy = {**_listing(row, group), "image": stream.getvalue()}
    return [_listing(row, group), _reworded(copy, random)]


if __name__ == "__main__":
    main()
