"""Augmentation of photos: which edits of sellers and phones a training photo gets, and how often.

A model that has seen a photo with a border, a slogan, in a collage or taken again with a phone under its own label
learns to look at the product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image

from app.training.augment import phone_edits, photo_edits
from app.training.augment.chances import EditChances
from app.training.augment.photo_edits import MIN_SIDE_PX, WHITE, Edit

__all__ = [
    "EDITS",
    "GRAPHICS",
    "MAX_SIDE_PX",
    "MIN_SIDE_PX",
    "PHONE_EDITS",
    "SELLER_EDITS",
    "Edit",
    "PhotoAugmentation",
    "augment",
]

MAX_SIDE_PX = 320  # what towers read, and some to crop; time grows with its square
# a slogan on a thumbnail is sharp in the shop: small photos are scaled up before they are edited
_WORK_SIDE_PX = 160

# in the order in which things happen: the shot, then the seller's screen, then the upload
PHONE_EDITS: Mapping[str, Edit] = MappingProxyType({
    "clutter": phone_edits.clutter,
    "shelf": phone_edits.shelf,
    "perspective": phone_edits.perspective,
    "shadow": phone_edits.shadow,
    "glare": phone_edits.glare,
    "white_balance": phone_edits.white_balance,
    "blur": phone_edits.blur,
    "noise": phone_edits.noise,
})  # fmt: skip
SELLER_EDITS: Mapping[str, Edit] = MappingProxyType({
    "mirror": photo_edits.mirror,
    "crop": photo_edits.crop,
    "rotation": photo_edits.rotation,
    "colour": photo_edits.colour,
    "collage": photo_edits.collage,
    "border": photo_edits.border,
    "text": photo_edits.text,
    "badge": photo_edits.badge,
    "downscale": photo_edits.downscale,
    "jpeg": photo_edits.jpeg,
})  # fmt: skip
EDITS: Mapping[str, Edit] = MappingProxyType({**PHONE_EDITS, **SELLER_EDITS})
GRAPHICS = frozenset({"collage", "border", "text", "badge"})


@dataclass(frozen=True, slots=True)
class PhotoAugmentation(EditChances):
    """Which edits, how likely. Every probability is multiplied by `strength` and cut at 1.

    Attributes:
        strength: 0 leaves photos as they are, 1 is what the probabilities say, 2 doubles them; >= 0.
        phone: probability that the photo is taken by a phone; the phone's edits happen only then.
        phone_graphics: probability that a phone photo may get a seller's graphics (collage, border, text, badge) as well.
        mirror, rotation, crop, colour, collage, border, text, badge, downscale, jpeg: probability of a seller's edit.
        clutter, shelf, perspective, shadow, glare, white_balance, blur, noise: probability of an edit of a phone photo.

    Raises:
        InvalidInput: a negative strength, or a probability outside [0, 1].
    """

    phone: float = 0.4
    phone_graphics: float = 0.3
    mirror: float = 0.5
    rotation: float = 0.15
    crop: float = 0.5
    colour: float = 0.5
    collage: float = 0.1
    border: float = 0.12
    text: float = 0.2
    badge: float = 0.15
    downscale: float = 0.25
    jpeg: float = 0.5
    clutter: float = 0.35
    shelf: float = 0.2
    perspective: float = 0.6
    shadow: float = 0.35
    glare: float = 0.25
    white_balance: float = 0.5
    blur: float = 0.35
    noise: float = 0.35


def augment(
    image: Image.Image, how: PhotoAugmentation, random: np.random.Generator, others: Sequence[Image.Image] = ()
) -> Image.Image:
    """Returns the photo as a seller or a phone might have made it.

    Args:
        image: RGB, any size; it is not changed.
        how: which edits, how likely. With strength 0 the photo comes back as it is.
        random: makes every choice: the same state gives the same photo.
        others: photos of other products for collages and backgrounds, RGB; without them details of the photo are shown.

    Returns:
        RGB, at least `MIN_SIDE_PX` on the short side and at most `MAX_SIDE_PX` on the long one.
    """
    if how.strength == 0:
        return image
    names = (*EDITS, "phone", "phone_graphics")
    # all dice first: whether one edit happens does not depend on the choices inside another
    happens = {name: bool(dice < how.chance(name)) for name, dice in zip(names, random.random(len(names)), strict=True)}
    changed = _bounded(image, _WORK_SIDE_PX)
    for name, edit in EDITS.items():
        if name in PHONE_EDITS and not happens["phone"]:
            continue
        if name in GRAPHICS and happens["phone"] and not happens["phone_graphics"]:
            continue
        if happens[name]:
            changed = edit(changed, random, others)
    return _bounded(changed)


def _bounded(image: Image.Image, low_px: int = 1) -> Image.Image:
    """Returns the photo with a long side of `low_px` to `MAX_SIDE_PX`; a short one below `MIN_SIDE_PX` gets white around."""
    scale = min(max(max(image.size), low_px), MAX_SIDE_PX) / max(image.size)
    if scale != 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        kernel = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR
        image = image.resize(size, kernel, reducing_gap=2.0)
    if min(image.size) >= MIN_SIDE_PX:
        return image
    canvas = Image.new("RGB", (max(MIN_SIDE_PX, image.width), max(MIN_SIDE_PX, image.height)), WHITE)
    canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
    return canvas
