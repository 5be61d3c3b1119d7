"""Judging candidates: the evidence about them, their probability, reasons and decision; and the rule that makes matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.core.answer import Answer, Candidate, Match, Reason
from app.core.decision import Thresholds
from app.core.fusion import MODALITY_OF, SCORE_DECIMALS, Fusion
from app.core.judging import Decision
from app.core.neighbourhood import Ground, Members
from app.core.pairs import CONTEXT, FEATURES, evidence
from app.core.product import Embedding, Floats, Query
from app.core.reasons import AGAINST, reasons_for
from app.errors import InvalidInput
from app.pair_model import PairModel

PROBABILITY_DECIMALS = 4  # as answers show it, and as rules and decisions compare it
WEAKER = Reason("weaker_evidence", "titles and neighbours speak for it less than for a product with a lower score")


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a match. At most one of the first two is given; with neither, the threshold decides.

    Attributes:
        min_probability: smallest probability that counts, in [0, 1].
        target_precision: share of the matches that are to be right, in [0.5, 1).
        decisions: bounds `match` and `review` of the decision, where they differ from the bundle's own.
    """

    min_probability: float | None = None
    target_precision: float | None = None
    decisions: Mapping[str, float] | None = None

    @property
    def name(self) -> str:
        """What answers call it."""
        if self.min_probability is not None:
            return "min_probability"
        return "threshold" if self.target_precision is None else "target_precision"


def check_rule(rule: Rule, threshold: float | None) -> None:
    """Raises InvalidInput for a rule that contradicts itself, or another one that was given."""
    if sum(value is not None for value in (rule.min_probability, rule.target_precision, threshold)) > 1:
        raise InvalidInput("threshold, min_probability and target_precision are three rules: send one of them.")
    if rule.min_probability is not None and not 0 <= rule.min_probability <= 1:
        raise InvalidInput(f"min_probability lies in [0, 1], not {rule.min_probability}.")
    if rule.target_precision is not None and not 0.5 <= rule.target_precision < 1:
        raise InvalidInput(f"target_precision lies in [0.5, 1), not {rule.target_precision}.")
    for name, bound in (rule.decisions or {}).items():
        if not 0 <= bound <= 1:
            raise InvalidInput(f"{name}_from is a probability in [0, 1], not {bound}.")


@dataclass(frozen=True, slots=True)
class ProductSide:
    """One of two products that are compared: its embedding, clean title and perceptual hash."""

    embedding: Embedding
    title: str | None
    phash: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of two products; scores are None where one lacks the modality, `score` if they share nothing."""

    score: float | None
    image_score: float | None
    title_score: float | None
    probability: float | None
    decision: str
    reasons: tuple[Reason, ...]


class Judge:
    """The pair model of a bundle at work, or the thresholds alone if it has none."""

    def __init__(self, fusion: Fusion, thresholds: Thresholds, model: PairModel | None) -> None:
        """Takes the bundle's parts."""
        self.fusion, self.thresholds, self.model = fusion, thresholds, model

    @property
    def context(self) -> int:
        """How many candidates must be known to judge one of them."""
        return CONTEXT if self.model is not None else 0

    def bound(self, rule: Rule) -> float | None:
        """Returns the probability that a rule asks for; None for the threshold.

        Raises:
            InvalidInput: a rule about probabilities, and the bundle has no pair model or was never that precise.
        """
        if rule.min_probability is None and rule.target_precision is None:
            return None
        if self.model is None:
            raise InvalidInput(
                f"{rule.name} needs a bundle with a pair model, and this one has none: send threshold, or make one with "
                "'python -m app calibrate'."
            )
        if rule.min_probability is not None:
            return rule.min_probability
        return self.model.spec.bound_for(rule.target_precision or 0.0)

    def judge(self, query: Query, answer: Answer, rule: Rule) -> Answer:
        """Returns the answer with probabilities, reasons and decisions, and the matches that the rule makes.

        Args:
            query: what was asked, with `context` candidates.
            answer: by the threshold, with its candidates.
            rule: what makes a match.
        """
        bound = self.bound(rule)
        if self.model is None:
            return answer
        if bound is None and not answer.matches:
            return replace(answer, candidates=())
        bounds = self.thresholds.all_at(answer.gallery)
        found = evidence(self._members(query, answer.candidates), Ground(self.fusion, bounds, answer.gallery))
        probability = _chances(self.model, found)
        named = {one.match.product.id: (p, row) for one, row, p in zip(answer.candidates, found, probability, strict=True)}
        if bound is None:
            return replace(answer, matches=self._shown(query, answer.matches, named, bounds, rule), candidates=())
        passed = [one.match for one, p in zip(answer.candidates, probability, strict=True) if p >= bound]
        passed.sort(key=lambda match: -named[match.product.id][0])
        sure = [p for one, p in zip(answer.candidates, probability, strict=True) if one.match.score >= answer.unseen]
        whole = answer.unseen == -np.inf or (bool(sure) and sure[-1] < bound)
        return replace(
            answer, matches=self._shown(query, passed[: query.limit], named, bounds, rule), total=len(passed),
            exact=answer.exact and whole, rule=rule.name, bound=bound, candidates=(),
        )  # fmt: skip

    def compare(self, left: ProductSide, right: ProductSide, decisions: Mapping[str, float] | None = None) -> Verdict:
        """Judges two products by themselves; without a pair model, by the threshold for the smallest catalog."""
        bounds = self.thresholds.all_at(1)
        members = self._side_members([left, right])
        values = dict(zip(FEATURES, evidence(members, Ground(self.fusion, bounds, 0), context=0)[0].tolist(), strict=True))
        shared = int(members.flags[0] & members.flags[1])
        score = _known(values["score"]) if shared else None
        photos = sum(bool(len(side.embedding.images)) for side in (left, right))
        reasons = reasons_for(left.title, right.title, photos, values, bounds, ("left", "right"))
        if self.model is None:
            above = score is not None and round(values["raised"], SCORE_DECIMALS) >= bounds.get(MODALITY_OF[shared], 1.0)
            decision = _vetoed("match" if above else "no-match", values)
            return Verdict(score, _known(values["image"]), _known(values["title"]), None, decision, reasons)
        row = np.array([[values[name] for name in FEATURES]], np.float32)
        probability = _chances(self.model, row)[0] if shared or values["distance"] == values["distance"] else 0.0
        decision = _vetoed(self.model.spec.decide(probability, decisions), values)
        return Verdict(score, _known(values["image"]), _known(values["title"]), probability, decision, reasons)

    def _shown(
        self,
        query: Query,
        matches: Sequence[Match],
        judged: Mapping[str, tuple[float, Floats]],
        bounds: Mapping[str, float],
        rule: Rule,
    ) -> tuple[Match, ...]:
        """Gives matches their probability, decision and reasons; who is less likely than a lower score is told why."""
        told = [self._told(query, match, *judged[match.product.id], bounds, rule) for match in matches]
        return tuple(_explained(told))

    def _told(
        self, query: Query, match: Match, probability: float, row: Floats, bounds: Mapping[str, float], rule: Rule
    ) -> Match:
        if self.model is None:
            return match
        values = dict(zip(FEATURES, row.tolist(), strict=True))
        photos = bool(len(query.embedding.images)) + bool(match.product.photos)
        reasons = reasons_for(query.title, match.product.title, photos, values, bounds)
        decision = _vetoed(self.model.spec.decide(probability, rule.decisions), values)
        return replace(match, probability=probability, decision=decision, reasons=reasons)

    def _members(self, query: Query, candidates: Sequence[Candidate]) -> Members:
        fused, flags = self.fusion.fuse(query.embedding)
        vectors = np.stack([fused[0], *(one.vector for one in candidates)])
        hashes = [query.phash, *(_nearest_hash(query.phash, one) for one in candidates)]
        return Members(
            vectors,
            np.array([flags[0], *(one.flags for one in candidates)], np.uint8),
            [query.title, *(one.match.product.title for one in candidates)],
            np.array([value or 0 for value in hashes], np.uint64),
            np.array([value is not None for value in hashes]),
        )

    def _side_members(self, sides: Sequence[ProductSide]) -> Members:
        fused = [self.fusion.fuse(side.embedding) for side in sides]
        return Members(
            np.stack([rows[0] for rows, _ in fused]),
            np.array([flags[0] for _, flags in fused], np.uint8),
            [side.title for side in sides],
            np.array([side.phash or 0 for side in sides], np.uint64),
            np.array([side.phash is not None for side in sides]),
        )


def _explained(matches: Sequence[Match]) -> list[Match]:
    """Tells a match that is less likely than one with a lower score why, if nothing else does."""
    best, found = 0.0, dict[str, Match]()
    for match in sorted(matches, key=lambda one: one.score):
        probability = match.probability or 0.0
        weaker = probability < best and not any(reason.code in AGAINST for reason in match.reasons)
        found[match.product.id] = replace(match, reasons=(*match.reasons, WEAKER)) if weaker else match
        best = max(best, probability)
    return [found[match.product.id] for match in matches]


def _chances(model: PairModel, evidence: Floats) -> list[float]:
    """Returns probabilities as they are shown, so that no answer contradicts the rule that made it."""
    return [round(one, PROBABILITY_DECIMALS) for one in model.probability(evidence).tolist()]


def _vetoed(decision: Decision, evidence: Mapping[str, float]) -> Decision:
    """Returns `review` for a match whose titles name amounts that contradict each other: somebody should look."""
    return "review" if decision == "match" and evidence["vetoes"] > 0 else decision


def _nearest_hash(asked: int | None, candidate: Candidate) -> int | None:
    """Returns the hash of the candidate's photo that looks most like the one asked about."""
    known = [photo.phash for photo in candidate.match.product.photos if photo.phash is not None]
    if asked is None or not known:
        return known[0] if known else None
    return min(known, key=lambda value: (value ^ asked).bit_count())


def _known(value: float) -> float | None:
    return None if value != value else round(max(-1.0, min(1.0, value)), SCORE_DECIMALS)
