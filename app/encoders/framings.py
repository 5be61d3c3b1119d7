"""The framings that a model's image towers want, in one array per photo.

The parts of an ensemble may want photos of different sizes, and each must see exactly the pixels it was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from app.core.product import Pixels
from app.core.spec import Preprocessing


class Framings:
    """Packs what several towers see of a photo, and unpacks it again.

    Attributes:
        kinds: the framings that differ; towers that differ in mean and standard deviation only share one.
        of: for each tower, the position of its framing among `kinds`.
    """

    def __init__(self, wanted: Sequence[Preprocessing]) -> None:
        keys = [(how.size, how.framing, how.crop_share) for how in wanted]
        distinct = dict(zip(reversed(keys), reversed(wanted), strict=True))  # the first of a kind stays
        order = list(dict.fromkeys(keys))
        self.kinds = [distinct[key] for key in order]
        self.of = [order.index(key) for key in keys]

    def pack(self, framed: Sequence[Pixels]) -> Pixels:
        """Returns one array for a photo.

        Args:
            framed: `(size, size, 3)` uint8 for each of `kinds`.

        Returns:
            What was given if there is one kind, a flat array of all if there are several, `(0, 0, 3)` if there is none.
        """
        if len(framed) == 1:
            return framed[0]
        return np.concatenate([pixels.ravel() for pixels in framed]) if framed else np.zeros((0, 0, 3), np.uint8)

    def unpack(self, packed: Tensor) -> list[Tensor]:
        """Returns, for each of `kinds`, the `(n, size, size, 3)` uint8 pixels of `n` photos, one in each row of `packed`."""
        if len(self.kinds) == 1:
            return [packed]
        parts = torch.split(packed, [how.size**2 * 3 for how in self.kinds], dim=1)
        return [part.reshape(-1, how.size, how.size, 3) for part, how in zip(parts, self.kinds, strict=True)]

    def blank(self) -> Pixels:
        """Returns a packed black photo."""
        return self.pack([np.zeros((how.size, how.size, 3), np.uint8) for how in self.kinds])
