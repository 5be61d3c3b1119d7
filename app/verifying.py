"""Looking twice: a geometric check of the photos of doubtful matches, see `app.encoders.alignment`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from app.core.answer import Answer, Match, Reason
from app.core.judging import Decision
from app.encoders.alignment import Alignment, Keypoints, align, keypoints_of
from app.encoders.preprocess import InputLimits
from app.errors import AppError

CHECKED = 5  # matches, best first: each costs some 40 ms
KEPT = 512  # photos of the catalog whose keypoints are remembered, 25 MB
SURE = (0.02, 0.98)  # probabilities outside are not doubtful


class Verifier:
    """Checks photos of doubtful matches. Methods may be called from several threads."""

    def __init__(self, photo: Callable[[str, str], bytes], limits: InputLimits) -> None:
        """Takes what reads a photo of the catalog.

        Args:
            photo: catalog and product id -> the bytes of its first photo. Raises AppError.
            limits: of photos.
        """
        self._limits = limits

        @lru_cache(KEPT)
        def keypoints(catalog: str, product_id: str, digest: str) -> Keypoints:
            del digest  # names the photo: another one under the same id is another entry
            return keypoints_of(photo(catalog, product_id), limits)

        self._keypoints = keypoints

    def verify(self, image: bytes, catalog: str, answer: Answer) -> Answer:
        """Returns the answer with what the check says about its best doubtful matches.

        Two photos of one picture make a match of what was to be reviewed, the same picture in other colours the reverse.
        Scores and probabilities stay as they are. A photo that is gone in the meantime is left out.

        Args:
            image: of the query.
            catalog: that was searched.
            answer: what was found.
        """
        doubtful = [n for n, match in enumerate(answer.matches) if _is_doubtful(match)][:CHECKED]
        if not doubtful:
            return answer
        asked = keypoints_of(image, self._limits)
        matches = list(answer.matches)
        for n in doubtful:
            product = matches[n].product
            try:
                known = self._keypoints(catalog, product.id, product.photos[0].sha256)
            except AppError:
                continue
            matches[n] = _told(matches[n], align(asked, known))
        return replace(answer, matches=tuple(matches))


def _is_doubtful(match: Match) -> bool:
    if match.image_score is None or not match.product.photos:
        return False
    return match.probability is None or SURE[0] <= match.probability <= SURE[1]


def told_by(found: Alignment) -> tuple[Reason, Decision] | None:
    """Returns what a check says about a pair, and what it makes of it; None if it says nothing."""
    if found.recoloured:
        return Reason("recoloured", "the same picture in other colours: a sibling"), "no-match"
    if found.same_picture:
        return Reason("photos_align", f"the photos lie over each other ({found.inliers} points)"), "match"
    return None


def _told(match: Match, found: Alignment) -> Match:
    told = told_by(found)
    if told is None:
        return match
    reason, decision = told
    kept = match.decision if match.decision is None else decision
    return replace(match, decision=kept, reasons=(reason, *match.reasons))
