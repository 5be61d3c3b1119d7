"""What a vector depends on, as data: the parts of a bundle's manifest that the encoders are built from.

Changing any of these values changes the vectors, so all of them enter the bundle's fingerprint.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]


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
        stages: early stages (timm's feature levels, from 0) whose mean and standard deviation per channel join that row:
            they know the colours that the last maps have forgotten.
        features: width of the row.
        dim: of the vector.
        projection: whether a linear layer leads from one to the other.
        preprocessing: how a photo becomes the input.
    """

    architecture: str
    weights: str
    pooling: Literal["avg", "gem"]
    gem_power: Annotated[float, Field(ge=1, le=10)] = 3.0
    stages: tuple[Annotated[int, Field(ge=0, le=10)], ...] = ()
    features: Positive
    dim: Positive
    projection: bool
    preprocessing: Preprocessing

    @property
    def own_dim(self) -> int:
        """Dimensions of the backbone's part of the vector: all of it."""
        return self.dim

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


class EncoderSpec(_Frozen):
    """Both towers and their fusion; at least one tower."""

    image: ImageSpec | None
    title: TitleSpec | None
    fusion: FusionSpec

    def modalities(self) -> set[str]:
        """What queries may have that these towers can answer: `image`, `title`, and with both also `fused`."""
        found = {name for name, tower in (("image", self.image), ("title", self.title)) if tower is not None}
        return found | {"fused"} if len(found) == 2 else found
