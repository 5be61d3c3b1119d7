"""Bundles: one folder that holds everything a vector depends on, written atomically and verified on load.

    model_store/<name>/
        bundle.json            the manifest, written last; names every other file with its SHA-256
        image.safetensors      weights of the image tower (backbone, projection)
        title.safetensors      weights of the title tower
        title_config.json      the transformer's configuration
        tokenizer.json         for the `tokenizers` library
        pair_model*.txt        LightGBM's trees over the evidence about a pair, if the bundle has a pair model
        README.md              the model card

In an ensemble, the files of the parts stand side by side: `0-image.safetensors`, `1-image.safetensors`, ...

No pickle, and no code: only safetensors, JSON and the text of trees are ever read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from app import __version__
from app.core.decision import Thresholds
from app.core.fusion import Fusion
from app.core.judging import PairSpec
from app.core.spec import EncoderSpec, FusionSpec, ImageSpec, PartSpec, TitleSpec
from app.errors import BundleError, ChecksumMismatch, DimensionMismatch, InvalidInput, ManifestInvalid, ManifestMissing
from app.files import replace_folder, sha256_of

MANIFEST = "bundle.json"


class FileEntry(BaseModel):
    """A file of the bundle: its size and checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """`bundle.json`. `thresholds`: see `app.core.decision.Thresholds`; `parts`: of an ensemble; texts are for people.

    `pairs` is the pair model; a bundle without one answers with scores alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=100)]
    created_at: datetime
    created_by: str
    image: ImageSpec | None
    title: TitleSpec | None
    fusion: FusionSpec
    parts: tuple[PartSpec, ...] = ()
    thresholds: dict[str, list[tuple[int, float]]]
    pairs: PairSpec | None = None
    origin: dict[str, Any] = {}
    training: dict[str, Any] = {}
    data: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    files: dict[str, FileEntry] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        self.encoder_fusion()
        unanswered = self.spec().modalities() - self.decision().points.keys()
        if unanswered:
            raise ValueError(f"thresholds for {', '.join(sorted(unanswered))} queries are missing")
        for name in (*self.needed_files(), *self.files):
            if name in ("", "..", MANIFEST) or Path(name).name != name:
                raise ValueError(f"'{name}' is not a plain file name")
        return self

    def spec(self) -> EncoderSpec:
        """What the encoders are built from."""
        return EncoderSpec(image=self.image, title=self.title, fusion=self.fusion, parts=self.parts)

    def encoder_fusion(self) -> Fusion:
        """The fusion rule. Raises ValueError if `w` does not fit the towers."""
        spec = self.spec()
        return Fusion(spec.fusion.weight, spec.image_dim, spec.title_dim)

    def decision(self) -> Thresholds:
        """The fitted thresholds. Raises ValueError if they are not well formed."""
        return Thresholds(self.thresholds)

    def vector_files(self) -> tuple[str, ...]:
        """The files that the vectors depend on."""
        return tuple(name for tower in self.spec().towers() for name in tower.files)

    def needed_files(self) -> tuple[str, ...]:
        """The files that a bundle cannot be served without."""
        return (*self.vector_files(), *(self.pairs.weights.values() if self.pairs else ()))

    def fingerprint(self) -> str:
        """Names the vectors that this bundle makes: 16 hexadecimal digits.

        Covers towers, preprocessing, shares, fusion and the bytes of every file they use, but neither thresholds nor
        pair model nor texts: recalibrating a bundle keeps its vectors valid, anything else does not.
        """
        spec = self.spec()
        told: Any = {"parts": {"__all__": {"name", "fingerprint"}}} if spec.parts else {"parts"}
        covered = spec.model_dump(mode="json", exclude_none=True, exclude=told)  # what is not used changes no vector
        covered["files"] = {name: self.files[name].sha256 for name in self.vector_files()}
        return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()[:16]


class Bundle:
    """A verified bundle on disk."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.fingerprint = manifest.fingerprint()

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files, without the manifest."""
        return sum(entry.size_bytes for entry in self.manifest.files.values())

    @property
    def label(self) -> str:
        """`name@fingerprint`: what answers call the model."""
        return f"{self.manifest.name}@{self.fingerprint}"


def read_manifest(folder: Path) -> Manifest:
    """Reads and validates `bundle.json`, without touching the other files.

    Raises:
        ManifestMissing: there is none.
        ManifestInvalid: it is not JSON, of another format version, or contradicts itself.
    """
    file = folder / MANIFEST
    try:
        text = file.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestMissing(
            f"{folder} is no bundle: there is no {MANIFEST}. Make one with 'python -m app bundle create'."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestInvalid(f"{file} cannot be read: {error}") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:3])
        raise ManifestInvalid(f"{file} does not describe a bundle that this version can load: {problems}") from error
    missing = [name for name in manifest.needed_files() if name not in manifest.files]
    if missing:
        raise ManifestInvalid(f"{file} has no checksum for {', '.join(missing)}: create the bundle again.")
    return manifest


def load_bundle(folder: Path) -> Bundle:
    """Returns the bundle in a folder after verifying every checksum and every dimension.

    Raises:
        BundleError: ManifestMissing, ManifestInvalid, ChecksumMismatch or DimensionMismatch.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise ChecksumMismatch(f"{file} is missing: copy the whole bundle again.")
        if file.stat().st_size != entry.size_bytes or sha256_of(file) != entry.sha256:
            raise ChecksumMismatch(f"{file} is not the file that the manifest names (cut off or changed): copy it again.")
    for tower in manifest.spec().towers():
        _check_projection(folder / tower.weights, tower)
    return Bundle(folder, manifest)


def _check_projection(file: Path, tower: ImageSpec | TitleSpec) -> None:
    """Checks the one shape that the manifest alone decides; the towers check all others when they load."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            name = "projection.weight"
            found = tuple(tensors.get_slice(name).get_shape()) if name in tensors.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DimensionMismatch(f"{file} is not a safetensors file: create the bundle again.") from error
    wanted = (tower.own_dim, tower.features) if tower.projection else None
    if found != wanted:
        raise DimensionMismatch(f"{file.name} has a projection of shape {found}, the manifest says {wanted}.")


def load_several(folders: Sequence[Path], out: Path) -> list[Bundle]:
    """Loads bundles of which another is to be made.

    Args:
        folders: of the bundles.
        out: where the other one is to go.

    Raises:
        InvalidInput: fewer than two, or `out` is one of them.
        BundleError: one that cannot be loaded.
    """
    if len(folders) < 2:
        raise InvalidInput("it takes two bundles or more: name others.")
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise InvalidInput(f"{out} is one of the bundles that are put together: choose another --out.")
    return [load_bundle(folder) for folder in folders]


def check_target(folder: Path) -> None:
    """Raises BundleError if a folder is taken by something that is no bundle; an older bundle may be replaced."""
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} exists and is no bundle: choose another --out, or remove it yourself.")


def write_bundle(folder: Path, fill: Callable[[Path], Manifest]) -> Bundle:
    """Writes a bundle so that `folder` holds either the old one or the new one, whole, at every moment.

    Args:
        folder: where; an existing *bundle* there is replaced, any other folder is left alone.
        fill: writes every file of the bundle, `README.md` included, into the temporary folder that it is given, and
            returns the manifest, to which `files` is added here.

    Raises:
        BundleError: `folder` exists and is no bundle, or the result would not load.
    """
    check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        scratch.chmod(0o755)
        manifest = fill(scratch)
        entries = {f.name: FileEntry(sha256=sha256_of(f), size_bytes=f.stat().st_size) for f in sorted(scratch.iterdir())}
        complete = manifest.model_copy(update={"files": entries})
        (scratch / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", "utf-8")
        for file in scratch.iterdir():
            file.chmod(0o644)
        load_bundle(scratch)
        replace_folder(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return load_bundle(folder)


def new_manifest(
    name: str,
    spec: EncoderSpec,
    thresholds: dict[str, list[tuple[int, float]]],
    pairs: PairSpec | None = None,
    **texts: dict[str, Any],
) -> Manifest:
    """Returns a manifest made now by this version; `texts` are `origin`, `training`, `data`, `metrics`."""
    now = datetime.now(UTC).replace(microsecond=0)
    return Manifest(
        name=name,
        created_at=now,
        created_by=f"samesku {__version__}",
        image=spec.image,
        title=spec.title,
        fusion=spec.fusion,
        parts=spec.parts,
        thresholds=thresholds,
        pairs=pairs,
        **texts,
    )
