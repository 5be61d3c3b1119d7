"""Two photos under one transformation: whether they show the same picture, where a cosine leaves doubts.

Local features are matched and one affine map is fitted to the matches. Prints and pictures that were cropped, framed,
written on, mirrored or photographed again agree with such a map. Look-alikes of one layout agree with it as well (colour
siblings of a garment, two flavours in one carton), so small copies of the photos are laid over each other by the map,
and their lightness and colours are compared.

SIFT: Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004, free of patents since 2020; roots of
descriptors: Arandjelovic and Zisserman, CVPR 2012; RANSAC: Fischler and Bolles, CACM 1981.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.core.product import Floats, Pixels
from app.encoders.preprocess import InputLimits, open_image

SIDE_PX = 320
SMALLEST_SIDE_PX = 160  # thumbnails are enlarged to it, or they would have a handful of features
FEATURES = 400
COPY_SIDE_PX = 96

_CONTRAST = 0.02  # half of the usual, for pale prints
_RATIO = 0.8  # Lowe's, of the distances to the best and to the second best
_REACH_PX = 4.0
_LARGEST_ZOOM = 8.0
_LARGEST_SHEAR = 3.0  # ratio of the longest to the shortest image of a unit vector: a box seen from 70 degrees
_GRID = 8
_LEAST = 4  # matches for an affine map that is more than its three corners
_LEAST_INLIERS = 8  # a handful agrees by chance, on thumbnails above all
_LAB_UNITS = np.array([100 / 255, 1, 1], np.float32)
_PATCH = 4.0  # standard deviation in pixels of the copies
_GAP_PERCENTILE = 97
# fitted in docs/experiments.md: constant, ln(1 + inliers), ln(coverage); constant, ln(1 + colour gap)
_PLACE = (1.7, 0.49, 1.8)
_COLOURS = (9.69, -2.75)
SAME_PICTURE = 0.8
RECOLOURED_GAP = 30.0
_RECOLOURED_INLIERS, _RECOLOURED_COVERAGE = 15, 0.5

# a service runs many of these side by side
cv2.setNumThreads(1)

# A mirrored photo has the descriptors of the photo in another order: of the 4 x 4 cells along and across a feature's
# direction with 8 directions each, what lies across changes sides.
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


@dataclass(frozen=True, slots=True)
class Keypoints:
    """What is kept of one photo, at most `SIDE_PX` on its long side.

    Attributes:
        places: `(n, 2)` float32, x and y in pixels of the scaled photo.
        descriptors: `(n, 128)` uint8 SIFT.
        size: width and height of the scaled photo in pixels.
        copy: `(h, w, 3)` uint8 CIELAB as OpenCV scales it, at most `COPY_SIDE_PX` on its long side.
    """

    places: Floats
    descriptors: NDArray[np.uint8]
    size: tuple[int, int]
    copy: Pixels

    def __len__(self) -> int:
        """Features."""
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.places.nbytes + self.descriptors.nbytes + self.copy.nbytes


@dataclass(frozen=True, slots=True)
class Alignment:
    """How two photos lie over each other.

    Attributes:
        inliers: pairs of features that one affine map brings together.
        matched: pairs of features that look alike.
        share: inliers as a share of the features of the photo that has fewer, in [0, 1].
        coverage: share of the parts of a photo with features where inliers lie, in [0, 1]; of the photo where it is larger.
        mirrored: one of them has to be mirrored first.
        colour_gap: distance in CIELAB (100 from black to white) of the patch among the inliers whose colour differs most,
            after the shift of all colours that most patches agree on; 0 without inliers.
    """

    inliers: int = 0
    matched: int = 0
    share: float = 0.0
    coverage: float = 0.0
    mirrored: bool = False
    colour_gap: float = 0.0

    @property
    def score(self) -> float:
        """How surely they show the same picture or print, in [0, 1]; 0 where nothing says so.

        The product of two logistic regressions: that the map is no chance, and that the colours under it are the same.
        It orders pairs, and is no probability for any catalog.
        """
        if self.inliers < _LEAST_INLIERS:
            return 0.0
        place = (1.0, math.log1p(self.inliers), math.log(max(self.coverage, 0.01)))
        colours = (1.0, math.log1p(self.colour_gap))
        return _logistic(place, _PLACE) * _logistic(colours, _COLOURS)

    @property
    def same_picture(self) -> bool:
        """True if they show the same picture or print. False says little: most new photos of a product give False."""
        return self.score >= SAME_PICTURE

    @property
    def recoloured(self) -> bool:
        """True if one picture lies over the other, but a part of it has another colour: colour siblings, flavours."""
        placed = self.inliers >= _RECOLOURED_INLIERS and self.coverage >= _RECOLOURED_COVERAGE
        return placed and self.colour_gap > RECOLOURED_GAP


def _logistic(values: tuple[float, ...], weights: tuple[float, ...]) -> float:
    return 1 / (1 + math.exp(-sum(v * w for v, w in zip(values, weights, strict=True))))


@dataclass(frozen=True, slots=True)
class _Fit:
    """Matches under one map: `(2, 3)` from left to right, and the places of the inliers in both photos, `(m, 2)`."""

    matched: int
    mirrored: bool
    matrix: NDArray[np.float64]
    left: Floats
    right: Floats


def keypoints_of(data: bytes, limits: InputLimits) -> Keypoints:
    """Decodes a photo and reads its features.

    Args:
        data: a file that `app.encoders.preprocess.open_image` takes.
        limits: what is accepted.

    Raises:
        InvalidImage, PayloadTooLarge: as `open_image`.
    """
    return _keypoints(open_image(data, limits))


def read_keypoints(pixels: Pixels) -> Keypoints:
    """Reads the features of a photo, `(h, w, 3)` uint8 RGB; a blank or tiny one has none."""
    if not pixels.size:
        return Keypoints(*_nothing(), (0, 0), np.zeros((0, 0, 3), np.uint8))
    return _keypoints(Image.fromarray(pixels))


def _keypoints(image: Image.Image) -> Keypoints:
    scaled = _scaled(image, min(max(max(image.size), SMALLEST_SIDE_PX), SIDE_PX))
    copy = cv2.cvtColor(_scaled(image, COPY_SIDE_PX), cv2.COLOR_RGB2LAB)
    grey = np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2GRAY), np.uint8)
    height, width = grey.shape
    places, descriptors = _features(grey)
    return Keypoints(places, descriptors, (width, height), np.asarray(copy, np.uint8))


def _scaled(image: Image.Image, side: int) -> Pixels:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), dtype=np.uint8)


def _features(grey: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.uint8]]:
    detector = cv2.SIFT.create(FEATURES, 3, _CONTRAST, 10, 1.6, cv2.CV_8U, False)
    found, descriptors = detector.detectAndCompute(grey, None)
    if descriptors is None or not len(found):
        return _nothing()
    # more than asked for come where several share the last place
    places = np.array([one.pt for one in found[:FEATURES]], np.float32)
    return places, np.asarray(descriptors[:FEATURES], np.uint8)


def _nothing() -> tuple[Floats, NDArray[np.uint8]]:
    return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)


def align(left: Keypoints, right: Keypoints) -> Alignment:
    """Lays two photos over each other. The order of the two does not matter, and the same two always give the same."""
    if _order(right) < _order(left):
        left, right = right, left
    fit = max((_fit(left, right, mirrored) for mirrored in (False, True)), key=lambda one: len(one.left))
    if not len(fit.left):
        return Alignment(matched=fit.matched)
    coverage = max(_coverage(left, fit.left), _coverage(right, fit.right))
    share = len(fit.left) / min(len(left), len(right))
    return Alignment(len(fit.left), fit.matched, share, coverage, fit.mirrored, _colour_gap(left, right, fit))


def _order(photo: Keypoints) -> tuple[int, bytes, bytes]:
    return len(photo), photo.places.tobytes(), photo.copy.tobytes()


def _fit(left: Keypoints, right: Keypoints, mirrored: bool) -> _Fit:
    descriptors = left.descriptors[:, _MIRROR] if mirrored else left.descriptors
    rows, columns = _matches(descriptors, right.descriptors)
    ours, theirs = left.places[rows], right.places[columns]
    if len(rows) >= _LEAST:
        # its generator is its own and starts in the same state
        matrix, inside = cv2.estimateAffine2D(
            ours, theirs, method=cv2.RANSAC, ransacReprojThreshold=_REACH_PX, maxIters=2000, confidence=0.995
        )
        # none is found for matches that lie on one line
        found = np.zeros((2, 3)) if matrix is None else np.asarray(matrix, np.float64)
        if _plausible(found, mirrored):
            chosen = inside.ravel().astype(bool)
            return _Fit(len(rows), mirrored, found, ours[chosen], theirs[chosen])
    return _Fit(len(rows), mirrored, np.zeros((2, 3)), ours[:0], theirs[:0])


def _matches(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows that are each other's nearest, and clearly nearer than the second nearest from one side."""
    if min(len(left), len(right)) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    apart = np.maximum(2 - 2 * _rooted(left) @ _rooted(right).T, 0)
    there, clear = _nearest(apart)
    back, clear_back = _nearest(apart.T)
    rows = np.flatnonzero((back[there] == np.arange(len(left))) & (clear | clear_back[there]))
    return rows, there[rows]


def _rooted(descriptors: NDArray[np.uint8]) -> Floats:
    values = descriptors.astype(np.float32)
    return np.asarray(np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1)), np.float32)


def _nearest(squares: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    best, second = np.partition(squares, 1, axis=1)[:, :2].T
    return squares.argmin(axis=1), best < _RATIO**2 * second


def _plausible(matrix: NDArray[np.float64], mirrored: bool) -> bool:
    if not np.isfinite(matrix).all():
        return False
    # with the descriptors in mirrored order the places are still the photo's own, so the map turns it over
    if (np.linalg.det(matrix[:, :2]) < 0) != mirrored:
        return False
    longest, shortest = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return bool(longest < _LARGEST_ZOOM and shortest * _LARGEST_ZOOM > 1 and longest < _LARGEST_SHEAR * shortest)


def _coverage(photo: Keypoints, inliers: Floats) -> float:
    return len(_cells(photo, inliers)) / len(_cells(photo, photo.places))


def _cells(photo: Keypoints, places: Floats) -> NDArray[np.int64]:
    column, row = np.clip(places / np.array(photo.size) * _GRID, 0, _GRID - 1).astype(np.int64).T
    return np.unique(row * _GRID + column)


def _colour_gap(left: Keypoints, right: Keypoints, fit: _Fit) -> float:
    """Lays the two copies over each other, at the smaller of the two scales, and compares patches among the inliers."""
    matrix, base, top, places = fit.matrix, right, left, fit.right
    if abs(np.linalg.det(matrix[:, :2])) > 1:
        matrix, base, top, places = np.asarray(cv2.invertAffineTransform(matrix), np.float64), left, right, fit.left
    into, out = _copy_scale(base), _copy_scale(top)
    matrix = np.hstack([matrix[:, :2] * into / out, matrix[:, 2:] * into])
    smaller = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    height, width = base.copy.shape[:2]
    laid = cv2.warpAffine(_blurred(_lab(top), 1 / smaller), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    hull = cv2.convexHull((places * into).round().astype(np.int32))
    within = cv2.fillConvexPoly(np.zeros((height, width), np.uint8), hull, 1).astype(bool)
    apart = _blurred(_lab(base), 1.0) - np.asarray(laid, np.float32)
    # the light of a photo shifts all of it; what a sibling differs in is a part
    apart = (apart - np.median(apart[within], axis=0)) * within[..., None]
    weight = np.maximum(_blurred(within.astype(np.float32), _PATCH), 1e-3)
    gaps = np.linalg.norm(_blurred(apart, _PATCH)[within] / weight[within][:, None], axis=1)
    return float(np.percentile(gaps, _GAP_PERCENTILE))


def _copy_scale(photo: Keypoints) -> float:
    return float(max(photo.copy.shape[:2]) / max(photo.size))


def _lab(photo: Keypoints) -> Floats:
    return photo.copy.astype(np.float32) * _LAB_UNITS


def _blurred(values: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)
