"""What the augmentations of photos and titles share: how likely each edit is, and how all of them grow and shrink."""

from __future__ import annotations

from dataclasses import dataclass, fields

from app.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class EditChances:
    """A strength, and in subclasses one probability per edit, multiplied by the strength and cut at 1.

    Attributes:
        strength: 0 leaves things as they are, 1 is what the probabilities say; >= 0.

    Raises:
        InvalidInput: a negative strength, or a probability outside [0, 1].
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise InvalidInput(f"strength must be 0 or more, not {self.strength}.")
        for one in fields(self)[1:]:
            if not 0 <= getattr(self, one.name) <= 1:
                raise InvalidInput(f"{one.name} is a probability: give 0 to 1, not {getattr(self, one.name)}.")

    def chance(self, name: str) -> float:
        """Returns the probability in the field `name` under this strength, in [0, 1]."""
        return min(1.0, float(getattr(self, name)) * self.strength)
