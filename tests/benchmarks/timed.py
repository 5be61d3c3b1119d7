"""Measurements that follow each other in one process, each of them printed as soon as it is known."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

Figures = dict[str, Any]


@dataclass(slots=True)
class Bench:
    """What is measured with, and what was found.

    Attributes:
        device: what `rate` waits for.
        seconds: of one measurement.
        limit: seconds after which no further one begins.
        out: where the figures are written, or None.
        rows: section, what, figures.
    """

    device: torch.device
    seconds: float
    limit: float
    out: Path | None
    rows: list[tuple[str, str, Figures]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def note(self, section: str, what: str, figures: Figures) -> None:
        """Prints and keeps figures."""
        self.rows.append((section, what, figures))
        self.say(f"[{time.perf_counter() - self.begun:6.1f} s] {section:>10} | {what:<44} | {told(figures)}")
        if self.out is not None:
            self.out.write_text(json.dumps(self.rows, indent=1) + "\n", "utf-8")

    def attempt(self, section: str, what: str, measure: Callable[[], Figures]) -> Figures:
        """Notes what is measured if there is time for it, or what went wrong; returns it, nothing in that case."""
        if time.perf_counter() - self.begun > self.limit:
            self.note(section, what, {"skipped": "no time left"})
            return {}
        try:
            found = measure()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other measurements are wanted
            self.note(section, what, {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
            return {}
        self.note(section, what, found)
        return found

    def rate(self, work: Callable[[], object], items: int) -> float:
        """Returns items per second: median over rounds, of which there are at least three, after two to warm up."""
        for _ in range(2):
            work()
        self._wait()
        rates: list[float] = []
        together = 4 if self.on_gpu else 1
        end = time.perf_counter() + self.seconds
        while len(rates) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(together):
                work()
            self._wait()
            rates.append(together * items / (time.perf_counter() - start))
        return median(rates)

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def table(self) -> None:
        """Prints everything again, as Markdown."""
        self.say("\n".join(f"| {section} | {what} | {told(figures)} |" for section, what, figures in self.rows))

    @staticmethod
    def say(text: str) -> None:
        """Prints now."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def told(figures: Figures) -> str:
    """Returns figures for people."""
    texts = {name: f"{value:,.4g}" if isinstance(value, float) else str(value) for name, value in figures.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())
