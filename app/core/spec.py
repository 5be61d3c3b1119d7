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
    """The image tower. `architecture` is a timm name; `features` its pooled width; `dim` that of the vector."""

    architecture: str
    weights: str
    pooling: Literal["avg", "gem"]
    gem_power: Annotated[float, Field(ge=1, le=10)] = 3.0
    features: Positive
    dim: Positive
    projection: bool
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _width(self) -> ImageSpec:
        return _check_width(self)


class TitleSpec(_Frozen):
    """The title tower: a Hugging Face configuration, a `tokenizers` file, and masked mean pooling."""

    config: str
    tokenizer: str
    weights: str
    prefix: str
    max_tokens: Annotated[int, Field(ge=4, le=8192)]
    pad_id: Annotated[int, Field(ge=0)]
    features: Positive
    dim: Positive
    projection: bool

    @model_validator(mode="after")
    def _width(self) -> TitleSpec:
        return _check_width(self)


def _check_width(spec: _Tower) -> _Tower:
    if not spec.projection and spec.dim != spec.features:
        raise ValueError(f"without a projection, dim must equal features ({spec.features}), not {spec.dim}")
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
