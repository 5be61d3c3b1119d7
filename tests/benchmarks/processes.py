"""Services as child processes: started, held still while the other one is measured, and always stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.stats import Measurement

ROOT = Path(__file__).parent.parent.parent
READY_S = 180.0
STOP_S = 20.0
POLL_S = 0.2
LOG_LINES = 15
STAGES = ("queue_ms", "encode_ms", "search_ms", "judge_ms", "took_ms", "batch_size")


class BenchmarkFailed(Exception):
    """The benchmark cannot give figures that mean anything; the text says why."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service.

    Attributes:
        name: `samesku` or `reference`.
        url: where it listens.
        process: leader of its own process group.
        log: the file that takes its output.
        ready_path: what answers 200 once it is ready.
    """

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_path: str = "/readyz"

    def hold(self) -> None:
        """Stops it from using the processor at all, until `go`."""
        self._signal(signal.SIGSTOP)

    def go(self) -> None:
        """Lets it run again."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it and everything it started: politely first, then by force."""
        self.go()
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended, and so has all it started
            os.killpg(self.process.pid, number)

    def cpu_s(self) -> float:
        """Processor time of all its threads so far; NaN where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_until_ready(self) -> None:
        """Returns when `ready_path` answers 200. Raises BenchmarkFailed if it ends first or takes minutes."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BenchmarkFailed(f"{self.name} ended while starting:\n{self.last_lines()}")
            try:
                with urllib.request.urlopen(f"{self.url}{self.ready_path}", timeout=POLL_S * 50):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(POLL_S)
        raise BenchmarkFailed(f"{self.name} was not ready within {READY_S:.0f} s:\n{self.last_lines()}")

    def last_lines(self) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:])


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    name: str,
    module: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    python: str = sys.executable,
    ready_path: str = "/readyz",
) -> Iterator[Service]:
    """Starts `python -m MODULE... --port N`, waits until it is ready, and stops it whatever happens.

    Args:
        name: for messages and the log file.
        module: the module and its arguments, without the port.
        environment: variables of the process, besides those of this one; its own `SAMESKU_*` are left out.
        folder: for the log file.
        python: of the environment that it is installed in.
        ready_path: see `Service`.

    Raises:
        BenchmarkFailed: it does not become ready.
    """
    port, log = free_port(), folder / f"{name}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SAMESKU_") and key != "DEVICE"}
    command = [python, "-m", *module, "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process only, which then stops the others in order
        )
    service = Service(name, f"http://127.0.0.1:{port}", process, log, ready_path)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


def measure(service: Service, number: int, clients: int, requests: int, first: int) -> Measurement:
    """Runs the load generator against one service, in a process of its own.

    Args:
        service: which is running and alone.
        number: of the round.
        clients: at the same time.
        requests: to measure; a fifth as many, and at least two per client, go before to warm up.
        first: number of the first request.

    Raises:
        BenchmarkFailed: the load generator broke, or an answer was not 200.
    """
    warmup = warmup_for(clients, requests)
    module = [sys.executable, "-m", "tests.benchmarks.load", "--url", service.url, "--clients", str(clients)]
    numbers = ["--requests", str(requests), "--warmup", str(warmup), "--first", str(first)]
    load_average, log_start, cpu_start = os.getloadavg()[0], service.log.stat().st_size, service.cpu_s()
    done = subprocess.run([*module, *numbers], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"the load generator broke:\n{done.stderr[-2000:]}")
    cpu_s = (service.cpu_s() - cpu_start) * requests / (requests + warmup)
    seen = json.loads(done.stdout)
    if seen["errors"]:
        raise BenchmarkFailed(
            f"{service.name} failed {seen['errors']} of {requests + warmup} requests: {seen['first_error']}"
        )
    return Measurement(
        service=service.name,
        round=number,
        clients=clients,
        duration_s=seen["duration_s"],
        latencies_ms=seen["latencies_ms"],
        errors=seen["errors"],
        server_cpu_s=cpu_s,
        client_cpu_share=seen["client_cpu_share"],
        load_average=load_average,
        stages=read_stages(service.log.read_bytes()[log_start:].decode("utf-8", "replace").splitlines(), requests),
    )


def warmup_for(clients: int, requests: int) -> int:
    """Requests that go before the measured ones."""
    return max(2 * clients, requests // 5)


def read_stages(lines: Sequence[str], last: int) -> dict[str, float]:
    """Returns the medians of the stages that samesku logged for its last `/match` requests; {} for other logs."""
    found: dict[str, list[float]] = {name: [] for name in STAGES}
    entries = [entry for entry in map(_json_object, lines) if entry.get("path") == "/match"]
    for entry in entries[-last:]:
        for name in STAGES:
            if isinstance(entry.get(name), int | float):
                found[name].append(float(entry[name]))
    return {name: median(values) for name, values in found.items() if values}


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
