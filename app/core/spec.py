"""What a vector depends on, as data: the parts of a bundle's manifest that the encoders are built from.

Changing any of these values changes the vectors, so all of them enter the bundle's fingerprint.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
_SHARES_ERR = 1e-6  # shares are rounded where they are written down

_Tower = TypeVar("_Tower", "ImageSpec", "TitleSpec")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Frozen):
    """How a photo becomes the tower's input.

    Attributes:
        size: side of the square input in pixels.
        framing: `crop` scales the short side to `size / crop_share` and cuts the centre, `pad` scales the long
            side to `size` and fills up with white, `stretch` ignores the proportions.
        crop_share: for `crop`, the share of the short side that is kept, in (0, 1].
        mean, std: per channel, for pixels in [0, 1].
    """

    size: Annotated[int, Field(ge=32, le=1024)]
    framing: Literal["crop", "pad", "stretch"]
    crop_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageSpec(_Frozen):
    """The image tower.

    Attributes:
        architecture: a timm name.
        weights: file of the bundle.
        pooling, gem_power: how the backbone's last maps become one row.
        colours: True if a histogram of colours joins that row, see `app.encoders.colours`; None if not, so that the
            fingerprints of bundles without one stay what they were.
        features: width of the row.
        dim: of the vector.
        projection: whether a linear layer leads from one to the other.
        preprocessing: how a photo becomes the input.
    """

    architecture: str
    weights: str
    pooling: Literal["avg", "gem"]
    gem_power: Annotated[float, Field(ge=1, le=10)] = 3.0
    colours: Literal[True] | None = None
    features: Positive
    dim: Positive
    projection: bool
    preprocessing: Preprocessing

    @property
    def own_dim(self) -> int:
        """Dimensions of the backbone's part of the vector: all of it."""
        return self.dim

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the vectors depend on."""
        return (self.weights,)

    @model_validator(mode="after")
    def _width(self) -> ImageSpec:
        return _check_width(self)


class NgramSpec(_Frozen):
    """The part of a title's vector that knows no language: hashed character n-grams.

    Attributes:
        shortest, longest: n of the n-grams, counted within words (with a space at either end of a word).
        buckets: how many weights there are; n-grams share one by hash.
        dim: of this part of the vector; a power of two that divides `buckets / 2`.
        share: of this part in the title's cosine, in (0, 1).
    """

    shortest: Annotated[int, Field(ge=1, le=10)] = 2
    longest: Annotated[int, Field(ge=1, le=10)] = 5
    buckets: Annotated[int, Field(ge=1024, le=1 << 22)] = 1 << 18
    dim: Annotated[int, Field(ge=16, le=4096)] = 512
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @model_validator(mode="after")
    def _sizes(self) -> NgramSpec:
        if self.shortest > self.longest:
            raise ValueError(f"n-grams of {self.shortest} to {self.longest} characters: the shortest is the longer one")
        if self.dim & (self.dim - 1) or self.buckets & (self.buckets - 1) or self.buckets < 2 * self.dim:
            raise ValueError("buckets and dim of the n-grams are powers of two, buckets at least twice dim")
        return self


class TitleSpec(_Frozen):
    """The title tower: a Hugging Face configuration, a `tokenizers` file, masked mean pooling, and maybe n-grams."""

    config: str
    tokenizer: str
    weights: str
    prefix: str
    max_tokens: Annotated[int, Field(ge=4, le=8192)]
    pad_id: Annotated[int, Field(ge=0)]
    features: Positive
    dim: Positive
    projection: bool
    ngrams: NgramSpec | None = None

    @property
    def own_dim(self) -> int:
        """Dimensions of the transformer's part of the vector."""
        return self.dim - (self.ngrams.dim if self.ngrams else 0)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the vectors depend on."""
        return (self.weights, self.config, self.tokenizer)

    @model_validator(mode="after")
    def _width(self) -> TitleSpec:
        return _check_width(self)


def _check_width(spec: _Tower) -> _Tower:
    if spec.own_dim < 1 or (not spec.projection and spec.own_dim != spec.features):
        raise ValueError(f"without a projection, the backbone's part has {spec.features} dimensions, not {spec.own_dim}")
    return spec


class FusionSpec(_Frozen):
    """How the towers' vectors become one; see `app.core.fusion`."""

    method: Literal["norm-concat"] = "norm-concat"
    weight: Annotated[float, Field(ge=0, le=1)]


class PartSpec(_Frozen):
    """One part of an ensemble: the towers of a bundle, and how much they count.

    Attributes:
        name, fingerprint: of the bundle; they tell where the part came from and change no vector.
        image, title: its towers, at least one; the files they name are the ensemble's.
        image_share: of its image cosine in the ensemble's, in (0, 1]; 0 without an image tower.
        title_share: likewise.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    image: ImageSpec | None
    title: TitleSpec | None
    image_share: Annotated[float, Field(ge=0, le=1)]
    title_share: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _counted(self) -> PartSpec:
        pairs = ((self.image, self.image_share), (self.title, self.title_share))
        if (self.image is None and self.title is None) or any((tower is None) != (share == 0) for tower, share in pairs):
            raise ValueError(f"part {self.name} needs a tower, and a share above 0 for each tower that it has")
        return self


class EncoderSpec(_Frozen):
    """Both towers and their fusion; at least one tower. An ensemble has parts instead of towers of its own.

    An ensemble's image half is `[sqrt(s_0) image_0, sqrt(s_1) image_1, ...]` over the parts with an image tower, whose
    shares `s` sum to 1; its title half likewise. So each half is a unit vector, its cosine is the weighted mean of
    the parts' cosines, and fusion need not know of parts.
    """

    image: ImageSpec | None
    title: TitleSpec | None
    fusion: FusionSpec
    parts: tuple[PartSpec, ...] = ()

    @model_validator(mode="after")
    def _whole_or_parts(self) -> EncoderSpec:
        if self.parts and (self.image is not None or self.title is not None):
            raise ValueError("an ensemble has no towers but those of its parts")
        for towers in (self.image_towers(), self.title_towers()):
            if towers and abs(sum(share for _, share in towers) - 1) > _SHARES_ERR:
                raise ValueError("the shares of an ensemble's parts must sum to 1 for photos, and for titles")
        return self

    def image_towers(self) -> tuple[tuple[ImageSpec, float], ...]:
        """The image towers in the order of the image half, with their shares in the image cosine."""
        own = ((self.image, 1.0),) if self.image else ()
        return own + tuple((part.image, part.image_share) for part in self.parts if part.image)

    def title_towers(self) -> tuple[tuple[TitleSpec, float], ...]:
        """The title towers in the order of the title half, with their shares in the title cosine."""
        own = ((self.title, 1.0),) if self.title else ()
        return own + tuple((part.title, part.title_share) for part in self.parts if part.title)

    def towers(self) -> tuple[ImageSpec | TitleSpec, ...]:
        """All towers."""
        return *(tower for tower, _ in self.image_towers()), *(tower for tower, _ in self.title_towers())

    @property
    def image_dim(self) -> int:
        """Dimensions of the image half, 0 without an image tower."""
        return sum(tower.dim for tower, _ in self.image_towers())

    @property
    def title_dim(self) -> int:
        """Dimensions of the title half, 0 without a title tower."""
        return sum(tower.dim for tower, _ in self.title_towers())

    def modalities(self) -> set[str]:
        """What queries may have that these towers can answer: `image`, `title`, and with both also `fused`."""
        found = {name for name, dim in (("image", self.image_dim), ("title", self.title_dim)) if dim}
        return found | {"fused"} if len(found) == 2 else found
