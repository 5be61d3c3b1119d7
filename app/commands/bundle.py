"""`python -m app bundle create | ensemble | average | inspect | verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from app.commands.common import IdColumn, ImageColumn, Images, TitleColumn, columns, console, progress, results, size
from app.core.spec import ImageSpec, TitleSpec

if TYPE_CHECKING:
    from app.model_store import Manifest

StoredAs = Annotated[
    Literal["fp16", "fp32", "int8"], typer.Option(help="How weights are stored; int8: with a scale per output.")
]

app = typer.Typer(help="Make, look at and check model bundles.", no_args_is_help=True)


@app.command()
def create(
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; its name is the bundle's name.")],
    image_encoder: Annotated[str | None, typer.Option(help="timm name, timm folder, or NAME.safetensors.")] = None,
    title_encoder: Annotated[str | None, typer.Option(help="Hugging Face name or local folder.")] = None,
    weight: Annotated[float, typer.Option(help="w: share of the image cosine in the fused score, in (0, 1).")] = 0.5,
    pooling: Annotated[Literal["avg", "gem"], typer.Option(help="How the image tower's maps are pooled.")] = "gem",
    framing: Annotated[Literal["crop", "pad", "stretch"], typer.Option(help="How a photo becomes a square.")] = "crop",
    image_size: Annotated[int | None, typer.Option(help="Input side in pixels; default: the backbone's own.")] = None,
    prefix: Annotated[str, typer.Option(help='Put before every title; the E5 family wants "query: ".')] = "",
    max_tokens: Annotated[int, typer.Option(help="Longer titles are cut.")] = 128,
    lower_case: Annotated[bool, typer.Option("--lower-case", help="The transformer reads titles in lower case.")] = False,
    vocabulary: Annotated[int | None, typer.Option(help="Keep only so many pieces of a Unigram vocabulary.")] = None,
    scripts: Annotated[str | None, typer.Option(help="With --vocabulary: keep words of these, e.g. latin,cjk,thai.")] = None,
    int8_words: Annotated[bool, typer.Option("--int8-words", help="Store word embeddings in 8 bits.")] = False,
    fit_on: Annotated[Path | None, typer.Option(help="Listings that projections are fitted to.")] = None,
    image_dim: Annotated[int | None, typer.Option(help="Project photos to so many principal components.")] = None,
    title_dim: Annotated[int | None, typer.Option(help="Project titles to so many principal components.")] = None,
    precision: StoredAs = "fp16",
    card: Annotated[Path | None, typer.Option(help="Model card (Markdown) to put into the bundle.")] = None,
    images: Images = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    image_column: ImageColumn = None,
) -> None:
    """Make a bundle from pretrained towers. Fit its thresholds next, with `python -m app calibrate`."""
    from app.bundling import Recipe
    from app.bundling import create as create_bundle
    from app.encoders.pretrained import ImageOptions, TitleOptions
    from app.listings import count_rows, read_table

    if (fit_on is None) != (image_dim is None and title_dim is None):
        raise typer.BadParameter("--fit-on goes with --image-dim, --title-dim or both.")
    kept_scripts = tuple(scripts.split(",")) if scripts else None
    recipe = Recipe(
        image_encoder, title_encoder, weight, ImageOptions(pooling=pooling, framing=framing, size=image_size),
        TitleOptions(prefix, max_tokens, vocabulary, kept_scripts, int8_words, lower_case=lower_case),
        image_dim, title_dim, precision,
    )  # fmt: skip
    text = card.read_text("utf-8") if card else None
    if fit_on is None:
        bundle = create_bundle(recipe, out, card=text)
    else:
        rows = read_table(fit_on, columns(id_column, title_column, image_column), images)
        with progress("Fitting projections", count_rows(fit_on)) as tick:
            bundle = create_bundle(recipe, out, rows, text, tick)
    console.print(f"Written: {bundle.label}, {size(bundle.size_bytes)}, in {out}.")


@app.command()
def ensemble(
    bundles: Annotated[list[Path], typer.Argument(metavar="DIR DIR...", help="The bundles to put together.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; its name is the bundle's name.")],
    weight: Annotated[
        float | None, typer.Option(help="w: share of the image cosine, in (0, 1). Default: the mean of the bundles' own.")
    ] = None,
    shares: Annotated[
        str | None, typer.Option(help="How much each bundle counts, e.g. 0.5,0.3,0.2. Default: all alike.")
    ] = None,
) -> None:
    """Put bundles together: an ensemble, or one bundle of an image and a title tower that were trained apart."""
    from app.ensembling import combine

    bundle = combine(bundles, out, weight, None if shares is None else _numbers(shares))
    parts = bundle.manifest.parts
    what = f"an ensemble of {len(parts)} parts" if parts else "a bundle of both towers"
    fusion = bundle.manifest.encoder_fusion()
    console.print(
        f"Written: {bundle.label}, {what}, {fusion.dim} dimensions, {size(bundle.size_bytes)}, in {out}.", soft_wrap=True
    )
    console.print(
        "Its thresholds are means of the bundles' own. Fit them next: "
        f"python -m app calibrate --bundle {out} --listings FILE", soft_wrap=True
    )  # fmt: skip


@app.command()
def average(
    bundles: Annotated[list[Path], typer.Argument(metavar="DIR DIR...", help="Runs that began at the same towers.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; its name is the bundle's name.")],
    precision: StoredAs = "fp16",
) -> None:
    """Make one bundle with the mean weights of several runs: one tower's time, better on products none of them saw."""
    from app.averaging import average as mean_of

    bundle = mean_of(bundles, out, precision)
    console.print(f"Written: {bundle.label}, the mean of {len(bundles)}, {size(bundle.size_bytes)}, in {out}.")
    console.print(f"Fit its thresholds next: python -m app calibrate --bundle {out} --listings FILE", soft_wrap=True)


@app.command()
def adopt(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="The run on all listings; it is replaced.")],
    sister: Annotated[Path, typer.Argument(metavar="SISTER", help="The run of the same recipe that kept some apart.")],
) -> None:
    """Give a run on all listings the thresholds and the pair model of its sister. Its vectors stay as they are."""
    from app.adopting import adopt as adopted

    found = adopted(bundle, sister)
    what = "thresholds" if found.manifest.pairs is None else "thresholds and pair model"
    console.print(f"Written: {found.label} decides by the {what} of {sister}.", soft_wrap=True)


def _numbers(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter("--shares takes numbers separated by commas.") from error


@app.command()
def inspect(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Show what a bundle is made of, without reading its weights."""
    from app.model_store import Bundle, read_manifest

    bundle = Bundle(folder, read_manifest(folder))
    manifest = bundle.manifest
    table = Table(title=escape(bundle.label), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("made", f"{manifest.created_at:%Y-%m-%d %H:%M} UTC by {manifest.created_by}")
    for label, line in _tower_lines(manifest):
        table.add_row(label, escape(line))
    fusion = manifest.encoder_fusion()
    table.add_row("fusion", f"{manifest.fusion.method}, w = {manifest.fusion.weight}, {fusion.dim} dimensions")
    for modality, points in manifest.thresholds.items():
        table.add_row(f"threshold, {modality}", ", ".join(f"{t:.3f} at {n:,}" for n, t in points))
    for name, entry in manifest.files.items():
        table.add_row(escape(name), f"{size(entry.size_bytes)}, sha256 {entry.sha256[:12]}...")
    table.add_row("in all", size(bundle.size_bytes))
    results.print(table)


def _tower_lines(manifest: Manifest) -> list[tuple[str, str]]:
    if not manifest.parts:
        return [("image tower", _image_line(manifest.image)), ("title tower", _title_line(manifest.title))]
    lines = []
    for number, part in enumerate(manifest.parts):
        lines.append((f"part {number}", f"{part.name}@{part.fingerprint}"))
        if part.image is not None:
            lines.append(("  image tower", f"share {part.image_share:.3f}: {_image_line(part.image)}"))
        if part.title is not None:
            lines.append(("  title tower", f"share {part.title_share:.3f}: {_title_line(part.title)}"))
    return lines


def _image_line(tower: ImageSpec | None) -> str:
    if tower is None:
        return "none"
    how = tower.preprocessing
    pooling = f"GeM {tower.gem_power:g}" if tower.pooling == "gem" else "average"
    return f"{tower.architecture}, {how.size} px {how.framing}, {pooling} pooling, {tower.features} -> {tower.dim}"


def _title_line(tower: TitleSpec | None) -> str:
    if tower is None:
        return "none"
    return f"{tower.config}, prefix '{tower.prefix}', {tower.max_tokens} tokens, {tower.features} -> {tower.dim}"


@app.command()
def verify(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Check every file of a bundle, load its towers, and embed something with them."""
    from app.bootstrap import build_encoder
    from app.core.product import Prepared
    from app.embedding import embed
    from app.matcher import probe
    from app.model_store import load_bundle
    from app.settings import Settings

    bundle = load_bundle(folder)
    results.print(f"[green]ok[/]  {len(bundle.manifest.files)} files have the bytes that the manifest names")
    encoder = build_encoder(Settings(device="cpu"), bundle)
    parts = len(bundle.manifest.parts)
    results.print(f"[green]ok[/]  the weights fit the towers{f' of {parts} parts' if parts else ''}")
    prepared: Prepared = probe(encoder)
    embedding = embed(encoder, [prepared])[0]
    vectors = [*embedding.images, *([] if embedding.title is None else [embedding.title])]
    if not all(abs(float(vector @ vector) - 1) < 1e-3 for vector in vectors):
        console.print("[red]failed[/]  the vectors do not have length 1")
        raise typer.Exit(1)
    results.print(f"[green]ok[/]  {embedding.modality} vectors of length 1; fingerprint {bundle.fingerprint}")
