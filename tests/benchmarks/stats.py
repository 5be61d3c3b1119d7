"""Numbers of the race, and nothing else: percentiles, summaries, ratios. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

SAMESKU, REFERENCE = "samesku", "reference"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of the load generator against one service.

    Attributes:
        service: `samesku` or `reference`.
        round: counted from 1.
        clients: that sent one request after the other, at the same time.
        duration_s: from the first request after the warm-up to the last answer.
        latencies_ms: of every measured request.
        errors: answers other than 200, and connections that broke.
        server_cpu_s: processor time that the service used from the first to the last of them.
        client_cpu_share: processor time of the load generator over the duration; 1 is one core.
        load_average: of the machine when the run began: above 0 there were others.
        stages: medians of what the service logged, by name (samesku only).
    """

    service: str
    round: int
    clients: int
    duration_s: float
    latencies_ms: Sequence[float]
    errors: int
    server_cpu_s: float
    client_cpu_share: float
    load_average: float
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies_ms) / self.duration_s

    @property
    def cpu_ms(self) -> float:
        """Processor time of the service per request, in ms."""
        return self.server_cpu_s * 1000 / len(self.latencies_ms)


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians over the rounds, of one service under one load. Times in ms, throughput in requests per second."""

    service: str
    clients: int
    p50: float
    p95: float
    p99: float
    throughput: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better samesku is than the reference; each round compares two runs that followed each other.

    Attributes:
        what: the figure that is compared.
        rounds: the ratio of each round; above 1 samesku is better.
    """

    what: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one to quote."""
        return median(self.rounds)

    @property
    def low(self) -> float:
        """Of the worst round."""
        return min(self.rounds)

    @property
    def high(self) -> float:
        """Of the best round."""
        return max(self.rounds)


def percentile(values: Sequence[float], share: float) -> float:
    """Returns a percentile with linear interpolation, as `numpy.percentile` does.

    Args:
        values: at least one, in any order.
        share: in [0, 100].

    Raises:
        ValueError: no values, or a share out of range.
    """
    if not values or not 0 <= share <= 100:
        raise ValueError(f"a percentile needs values and a share in 0..100, got {len(values)} and {share}")
    ordered = sorted(values)
    position = (len(ordered) - 1) * share / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarise(measurements: Sequence[Measurement], service: str, clients: int) -> Summary:
    """Returns the medians over the rounds. Raises ValueError if there is no such measurement."""
    runs = [m for m in measurements if (m.service, m.clients) == (service, clients)]
    if not runs:
        raise ValueError(f"no measurement of {service} with {clients} clients")

    def over_rounds(figure: Callable[[Measurement], float]) -> float:
        return median(figure(run) for run in runs)

    return Summary(
        service,
        clients,
        over_rounds(lambda run: percentile(run.latencies_ms, 50)),
        over_rounds(lambda run: percentile(run.latencies_ms, 95)),
        over_rounds(lambda run: percentile(run.latencies_ms, 99)),
        over_rounds(lambda run: run.throughput),
        over_rounds(lambda run: run.cpu_ms),
    )


def latency_ratio(measurements: Sequence[Measurement], clients: int) -> Ratio:
    """Median latency of the reference over that of samesku, per round."""
    pairs = _pairs(measurements, clients)
    return Ratio(
        f"median latency, {counted(clients)}",
        tuple(percentile(other.latencies_ms, 50) / percentile(ours.latencies_ms, 50) for ours, other in pairs),
    )


def throughput_ratio(measurements: Sequence[Measurement], clients: int) -> Ratio:
    """Throughput of samesku over that of the reference, per round."""
    pairs = _pairs(measurements, clients)
    return Ratio(f"throughput, {counted(clients)}", tuple(ours.throughput / other.throughput for ours, other in pairs))


def cpu_ratio(measurements: Sequence[Measurement], clients: int) -> Ratio:
    """Processor time per request of the reference over that of samesku, per round."""
    pairs = _pairs(measurements, clients)
    return Ratio(f"CPU time per request, {counted(clients)}", tuple(other.cpu_ms / ours.cpu_ms for ours, other in pairs))


def ratios(measurements: Sequence[Measurement], loads: Sequence[int]) -> list[Ratio]:
    """Returns what is compared: latency for one client, throughput for many, processor time for both."""
    one, many = min(loads), max(loads)
    compared = [latency_ratio(measurements, one), throughput_ratio(measurements, many)]
    return compared + [cpu_ratio(measurements, clients) for clients in sorted({one, many})]


def median_stages(measurements: Sequence[Measurement], clients: int) -> dict[str, float]:
    """Returns the medians over the rounds of what samesku logged under one load."""
    runs = [m.stages for m in measurements if (m.service, m.clients) == (SAMESKU, clients) and m.stages]
    return {name: median(run[name] for run in runs if name in run) for name in (runs[0] if runs else {})}


def counted(clients: int) -> str:
    """`1 client`, `16 clients`."""
    return f"{clients} client{'' if clients == 1 else 's'}"


def _pairs(measurements: Sequence[Measurement], clients: int) -> list[tuple[Measurement, Measurement]]:
    by_round = {(m.service, m.round): m for m in measurements if m.clients == clients}
    rounds = sorted({number for _, number in by_round})
    missing = [n for n in rounds if (SAMESKU, n) not in by_round or (REFERENCE, n) not in by_round]
    if missing or not rounds:
        raise ValueError(f"with {counted(clients)} both services must have run in every round; missing: {missing or 'all'}")
    return [(by_round[SAMESKU, n], by_round[REFERENCE, n]) for n in rounds]
