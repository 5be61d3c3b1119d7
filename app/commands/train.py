"""`python -m app train`: labelled listings and pretrained towers in, a bundle out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from app.commands.common import (
    FamilyColumn,
    GroupColumn,
    IdColumn,
    ImageColumn,
    Images,
    PhashColumn,
    TitleColumn,
    columns,
    console,
    progress,
    show_bad_rows,
)
from app.errors import InvalidInput
from app.listings import Columns

if TYPE_CHECKING:
    from app.labelled.listings import Item
    from app.training.checkpoint import Progress
    from app.training.config import TrainingConfig
    from app.training.start import Towers


def train(
    out: Annotated[Path, typer.Option(help="Folder of the new bundle. The run's own files go to OUT.run beside it.")],
    listings: Annotated[list[Path] | None, typer.Option(help="Labelled listings; may be given several times.")] = None,
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Labelled pairs (left_title, right_title, label); may be given several times.")
    ] = None,
    image_encoder: Annotated[str | None, typer.Option(help="timm name, timm folder, or NAME.safetensors.")] = None,
    title_encoder: Annotated[str | None, typer.Option(help="Hugging Face name or local folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of the same command.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
    ungrouped: Annotated[
        Literal["skip", "own"], typer.Option(help="Rows without a group: leave them out, or make each a group of its own.")
    ] = "skip",
    test_fold: Annotated[str | None, typer.Option(help="K/N: kept apart, for the figures of the card only.")] = None,
    calibration_fold: Annotated[str | None, typer.Option(help="K/N: kept apart, to fit thresholds to.")] = "1/10",
    criterion: Annotated[
        Literal["decision", "f1"], typer.Option(help="What thresholds are best for: see docs/training.md.")
    ] = "decision",
    device: Annotated[Literal["auto", "cuda", "cpu"], typer.Option(help="Where to train.")] = "auto",
    # the towers
    image_dim: Annotated[int, typer.Option(help="Dimensions of the photo's vector.")] = 512,
    title_dim: Annotated[int, typer.Option(help="Dimensions of the transformer's part of the title's vector.")] = 384,
    ngram_dim: Annotated[int, typer.Option(help="Dimensions of its character n-grams' part; 0 for none.")] = 512,
    ngram_share: Annotated[float, typer.Option(help="Share of the n-grams in the title's cosine.")] = 0.5,
    weight: Annotated[float, typer.Option(help="w: share of the photo in the fused cosine.")] = 0.5,
    pooling: Annotated[Literal["avg", "gem"], typer.Option(help="How the image tower's maps are pooled.")] = "gem",
    colours: Annotated[bool, typer.Option("--colours", help="A histogram of colours joins the pooled maps.")] = False,
    framing: Annotated[Literal["crop", "pad", "stretch"], typer.Option(help="How a photo becomes a square.")] = "crop",
    image_size: Annotated[int | None, typer.Option(help="Input side in pixels; default: the backbone's own.")] = None,
    prefix: Annotated[str, typer.Option(help='Put before every title; the E5 family wants "query: ".')] = "",
    teacher_prefix: Annotated[
        str | None,
        typer.Option(
            help="With --distil: the prefix that the pretrained tower wants, where the trained one has another, or none."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longer titles are cut.")] = 64,
    lower_case: Annotated[bool, typer.Option("--lower-case", help="The transformer reads titles in lower case.")] = False,
    title_layers: Annotated[str, typer.Option(help="Keep only these layers of the transformer, e.g. 1,3,5,7,9,11.")] = "",
    vocabulary: Annotated[int | None, typer.Option(help="Keep only so many pieces of a Unigram vocabulary.")] = None,
    scripts: Annotated[str, typer.Option(help="With --vocabulary: keep words of these, e.g. latin,cjk,thai.")] = "",
    int8_words: Annotated[bool, typer.Option("--int8-words", help="Store word embeddings in 8 bits.")] = False,
    storage: Annotated[
        Literal["fp16", "fp32", "int8"], typer.Option(help="How weights are stored; int8: with a scale per output.")
    ] = "fp16",
    # the run; what is not given has the default of app.training.config.TrainingConfig
    epochs: Annotated[int | None, typer.Option(help="Passes over the listings. Default: 15.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Listings per step and process. Default: 64.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Steps per update. Default: 1.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the backbones. Default: 5e-5.")] = None,
    head_rate: Annotated[float | None, typer.Option(help="Of heads and projections. Default: 5e-4.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of matrices. Default: 0.01.")] = None,
    warm_up: Annotated[float | None, typer.Option(help="Share of the run in which rates rise. Default: 0.05.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient. Default: 5.")] = None,
    head: Annotated[str | None, typer.Option(help="arcface, subcenter or curricular. Default: arcface.")] = None,
    margin: Annotated[float | None, typer.Option(help="In radians, at the end of the ramp. Default: 0.5.")] = None,
    margin_start: Annotated[float | None, typer.Option(help="In radians, at its start. Default: 0.1.")] = None,
    margin_fall: Annotated[float | None, typer.Option(help="How far it falls for large groups. Default: 0.")] = None,
    margin_ramp: Annotated[float | None, typer.Option(help="Share of the run in which it rises. Default: 0.6.")] = None,
    scale: Annotated[float | None, typer.Option(help="s. Default: 30.")] = None,
    centres: Annotated[int | None, typer.Option(help="Per group, for subcenter. Default: 3.")] = None,
    fusion: Annotated[str | None, typer.Option(help="norm-concat or concat-norm. Default: norm-concat.")] = None,
    modality_dropout: Annotated[float | None, typer.Option(help="How often one half is hidden. Default: 0.2.")] = None,
    max_per_group: Annotated[int | None, typer.Option(help="Listings of a group per epoch. Default: 10.")] = None,
    augment_photos: Annotated[float | None, typer.Option(help="Strength, 0 for none. Default: 1.")] = None,
    augment_titles: Annotated[float | None, typer.Option(help="Strength, 0 for none. Default: 1.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the title tower's transformer. Default: its own.")] = None,
    freeze_words: Annotated[bool | None, typer.Option("--freeze-words", help="Leave word embeddings as they are.")] = None,
    freeze_title_layers: Annotated[int | None, typer.Option(help="Leave so many first layers as they are.")] = None,
    freeze_image_stages: Annotated[int | None, typer.Option(help="Leave so many first stages as they are.")] = None,
    freeze_projections: Annotated[
        bool | None, typer.Option("--freeze-projections", help="Leave the projections as they begin; only backbones learn.")
    ] = None,
    distil: Annotated[float | None, typer.Option(help="Weight of staying close to the pretrained towers.")] = None,
    keep: Annotated[float | None, typer.Option(help="Share of the pretrained weights blended back in.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. Default: fp32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random. Default: 0.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode and augment. Default: 0.")] = None,
    checkpoint_minutes: Annotated[float | None, typer.Option(help="How often to save. Default: 10.")] = None,
    images: Images = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    image_column: ImageColumn = None,
    group_column: GroupColumn = None,
    phash_column: PhashColumn = None,
    family_column: FamilyColumn = None,
) -> None:
    """Train a multimodal ArcFace model on labelled listings and write a complete bundle.

    Ctrl-C leaves a checkpoint; the same command with --resume goes on exactly where it stopped. On several GPUs:
    torchrun --nproc-per-node N -m app train ...
    """
    given = dict(locals())
    config = _config(given)
    towers = _towers(given)
    out = _target(out)
    from app.labelled.folds import parse_fold
    from app.training.run import split
    from app.training.run import train as run

    named = columns(id_column, title_column, image_column, group_column, phash_column, family_column)
    items = _read(listings or [], pairs or [], named, images, strict, ungrouped == "own")
    parts = split(
        items,
        parse_fold(calibration_fold) if calibration_fold else None,
        parse_fold(test_fold) if test_fold else None,
    )
    sizes = {"train": len(parts.train), "calibration": len(parts.calibration), "test": len(parts.test)}
    console.print(", ".join(f"{name}: {count:,} listings" for name, count in sizes.items()))
    folder = out.with_name(f"{out.name}.run")
    with _bar(config.epochs) as report:
        trained = run(parts, towers, config, folder, resume, device, progress, report)
    from app.training.export import Storage
    from app.training.finish import Finish, finish

    if trained.main:
        how = Finish(
            out, folder, towers, config, Storage(storage, int8_words), criterion,
            " ".join(["python -m app", *sys.argv[1:]]), device,
        )  # fmt: skip
        bundle = finish(trained, parts, how, progress)
        console.print(f"Written: {bundle.label}, in {out}. Its card is {out / 'README.md'}.")


def _target(out: Path) -> Path:
    """Returns the bundle's folder; what could not become one is refused now, not after hours of training."""
    from app.model_store import check_target

    out = out.resolve()
    if not 0 < len(out.name) <= 100:
        raise InvalidInput(f"--out {out}: the folder's name is the bundle's, and has 1 to 100 characters.")
    check_target(out)
    return out


def _config(given: dict[str, Any]) -> TrainingConfig:
    """Returns the configuration; options that were not given keep its defaults. Raises InvalidInput."""
    from app.training.arcface import check_margin
    from app.training.config import TrainingConfig

    named = {name: given[name] for name in TrainingConfig.model_fields if given.get(name) is not None}
    if "margin" in named:
        check_margin(named["margin"])
    try:
        return TrainingConfig(**named)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(map(str, first["loc"])).replace("_", "-") if first["loc"] else "options"
        raise InvalidInput(f"{option}: {first['msg']}") from error


def _towers(given: dict[str, Any]) -> Towers:
    from app.core.spec import NgramSpec
    from app.encoders.pretrained import ImageOptions, TitleOptions
    from app.training.start import Towers

    image = ImageOptions(
        pooling=given["pooling"],
        colours=given["colours"],
        framing=given["framing"],
        size=given["image_size"],
    )
    scripts = tuple(given["scripts"].split(",")) if given["scripts"] else None
    title = TitleOptions(
        given["prefix"],
        given["max_tokens"],
        given["vocabulary"],
        scripts,
        given["int8_words"],
        _numbers(given["title_layers"]),
        given["lower_case"],
    )
    try:
        ngrams = NgramSpec(dim=given["ngram_dim"], share=given["ngram_share"]) if given["ngram_dim"] else None
    except ValidationError as error:
        raise InvalidInput(f"--ngram-dim, --ngram-share: {error.errors()[0]['msg']}") from error
    return Towers(
        given["image_encoder"], given["title_encoder"], image, title, given["image_dim"], given["title_dim"],
        ngrams if given["title_encoder"] else None, given["weight"], given["teacher_prefix"],
    )  # fmt: skip


def _numbers(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError as error:
        raise InvalidInput(f"'{text}' is no list of numbers: write them like 0,2,4.") from error


def _read(
    listings: list[Path], pairs: list[Path], named: Columns, images: Path | None, strict: bool, own: bool
) -> list[Item]:
    """Reads all tables; groups of different tables are different, whatever they are called."""
    from app.labelled.listings import read_labelled
    from app.labelled.pairs import read_pairs
    from app.listings import count_rows
    from app.training.run import apart

    if not listings and not pairs:
        raise InvalidInput("there is nothing to train on: give --listings, --pairs or both.")
    items: list[Item] = []
    for file in listings:
        with progress(f"Reading {file.name}", count_rows(file)) as tick:
            read = read_labelled(file, named, images, strict=strict, needs_group=not own, may_lack_groups=own, tick=tick)
        show_bad_rows(read.problems)
        again = [one.name for one in listings].count(file.name) > 1
        table = str(file) if again else file.name
        items += apart(read.items, None if len(listings) == 1 and not pairs else table, own)
    if pairs:
        with progress("Reading pairs", None) as tick:
            read = read_pairs(pairs, strict=strict, tick=tick)
        show_bad_rows(read.problems)
        items += apart(read.items, "pairs", own)
    return items


@contextmanager
def _bar(epochs: int) -> Iterator[Callable[[Progress, dict[str, float]], None]]:
    """Shows a bar over the whole run, with the epoch, the loss and the learning rate."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip
    smooth: list[float] = []
    with bar:
        task = bar.add_task("Training", total=epochs, said="")

        def report(_: object, record: dict[str, float]) -> None:
            smooth.append(record["loss"] if not smooth else 0.98 * smooth[-1] + 0.02 * record["loss"])
            epoch = min(epochs, int(record["epoch"]) + 1)
            said = f"epoch {epoch}/{epochs}  loss {smooth[-1]:.3f}  rate {record['learning_rate']:.1e}"
            bar.update(task, completed=record["epoch"], said=said)
            del smooth[:-1]

        yield report
