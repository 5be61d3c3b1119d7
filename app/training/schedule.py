"""How learning rates and the margin move over a run."""

from __future__ import annotations

import math

from app.training.config import TrainingConfig


def rate_factor(update: int, updates: int, warm_up: float) -> float:
    """Returns the share of the peak learning rate, in [0, 1]: a linear rise, then half a cosine down to 0.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983 (without restarts).

    Args:
        update: from 0.
        updates: of the whole run, 1 or more.
        warm_up: share of them in which the rate rises.
    """
    rising = round(updates * warm_up)
    if update < rising:
        return (update + 1) / rising
    done = (update - rising) / max(1, updates - rising)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def margin_at(update: int, updates: int, config: TrainingConfig) -> float:
    """Returns the margin in radians: a linear rise over the ramp, then `config.margin`."""
    ramp = updates * config.margin_ramp
    share = 1.0 if update >= ramp else update / ramp
    return config.margin_start + share * (config.margin - config.margin_start)
