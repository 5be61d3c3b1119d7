"""`make bench`: the race between samesku and the plain service, from start to report.

python -m tests.benchmarks [--quick] [--bundle DIR] [--gallery 2000] [--rounds 3]
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.core.product import Floats
from app.errors import AppError
from app.model_store import Bundle, load_bundle
from tests.benchmarks import gallery, processes, report
from tests.benchmarks.load import read_catalog, read_queries
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.processes import ROOT, BenchmarkFailed, Service
from tests.benchmarks.stats import REFERENCE, SAMESKU, Measurement, counted

ENOUGH_AGREEMENT = 0.9
BUSY_CLIENT_SHARE = 0.5

Step = Callable[[str, int], Callable[[], None]]  # a step's name and size -> what to call for each part that is done

console = Console(stderr=True)
results = Console()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        bundle: that both services load.
        products: in the gallery, the samples included.
        rounds: in each, every service is measured once under each load.
        loads: number of clients -> requests per round.
        device: `auto`, `cpu` or `cuda`, for both.
        settings: `name=value`, given to samesku as `SAMESKU_NAME`.
    """

    bundle: Path
    products: int
    rounds: int
    loads: dict[int, int]
    device: str
    settings: tuple[str, ...] = ()

    def environment(self, data: Path) -> dict[str, str]:
        """Variables of samesku."""
        given = {f"SAMESKU_{name.upper()}": value for name, _, value in (one.partition("=") for one in self.settings)}
        fixed = {"BUNDLE": str(self.bundle), "DATA_DIR": str(data), "DEVICE": self.device, "LOG_FORMAT": "json"}
        fixed |= {"LOG_LEVEL": "info"}
        return given | {f"SAMESKU_{name}": value for name, value in fixed.items()}


@contextmanager
def steps() -> Iterator[Step]:
    """Shows a progress bar per step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:

        def step(what: str, total: int) -> Callable[[], None]:
            task = bar.add_task(what, total=total)
            return lambda: bar.advance(task)

        yield step


def race(plan: Plan, scratch: Path) -> report.Race:
    """Runs everything; leaves no process behind.

    Raises:
        BenchmarkFailed: a service failed, or their answers differ.
        AppError: the bundle cannot be used.
    """
    bundle = load_bundle(plan.bundle)
    filler = gallery.make_filler(bundle, max(0, plan.products - len(read_catalog())))
    with ExitStack() as stack:
        step = stack.enter_context(steps())
        services = _start(plan, bundle, filler, scratch, stack, step)
        for service in services.values():
            service.go()
            gallery.index_samples(service, step(f"index samples: {service.name}", len(read_catalog())))
            service.hold()
        agreement = gallery.compare_answers(services, step("compare answers", 2 * len(read_queries())))
        if min(agreement.same_best, agreement.same_matches) < ENOUGH_AGREEMENT * agreement.queries:
            raise BenchmarkFailed(f"the race would not be fair. {report.agreement_text(agreement)}")
        measurements = _measure(plan, services, step)
    setup = {
        "bundle": bundle.label,
        "products": len(filler) + len(read_catalog()),
        "filler": len(filler),
        "rounds": plan.rounds,
        "requests_text": " and ".join(f"{n} requests of {counted(clients)}" for clients, n in sorted(plan.loads.items())),
        "device": plan.device,
        "settings": list(plan.settings),
    }
    return report.Race(setup, describe_machine(), agreement, measurements)


def _start(
    plan: Plan,
    bundle: Bundle,
    filler: Floats,
    scratch: Path,
    stack: ExitStack,
    step: Step,
) -> dict[str, Service]:
    """Starts both services, each held as soon as it is ready; `stack` stops them."""
    done = step("start services", 2)
    data, vectors = scratch / "data", scratch / "filler.npy"
    gallery.fill_samesku(bundle, data, filler)
    gallery.fill_reference(bundle, vectors, filler)
    plain = ["tests.benchmarks.reference_service", "--bundle", str(plan.bundle), "--vectors", str(vectors)]
    commands = {
        SAMESKU: (["app", "serve", "--host", "127.0.0.1"], plan.environment(data)),
        REFERENCE: ([*plain, "--device", plan.device], {}),
    }
    services = {}
    for name, (command, environment) in commands.items():
        services[name] = stack.enter_context(processes.running(name, command, environment, scratch))
        services[name].hold()
        done()
    return services


def _measure(plan: Plan, services: dict[str, Service], step: Step) -> list[Measurement]:
    """Lets the services take turns: in every round and under every load, samesku and then the plain service."""
    measurements = []
    done = step("measure", plan.rounds * len(plan.loads) * len(services))
    first = 0
    for number in range(1, plan.rounds + 1):
        for clients, requests in sorted(plan.loads.items()):
            for service in services.values():
                service.go()
                measurements.append(processes.measure(service, number, clients, requests, first))
                service.hold()
                done()
            first += requests + processes.warmup_for(clients, requests)  # both services get the same requests
    return measurements


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(
    bundle: Annotated[Path, typer.Option(help="The model that both services load.")] = Path("model_store/default"),
    products: Annotated[int, typer.Option("--gallery", min=100, help="Products in the gallery.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each service is measured under each load.")] = 3,
    clients: Annotated[int, typer.Option(min=2, help="Clients of the second load; the first has one.")] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Measured requests of one client, per round.")] = 60,
    requests_many: Annotated[int, typer.Option(min=1, help="Measured requests of many clients, per round.")] = 160,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="For both services.")] = "auto",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of samesku, such as max_batch_size=16.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report. Default: docs; with --quick, none.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run: few requests, figures of no value.")] = False,
) -> None:
    """Measures samesku against the plain service that a reader of the article would write."""
    if quick:
        products, rounds, requests, requests_many = min(products, 500), 1, 10, 32
    plan = Plan(bundle.resolve(), products, rounds, {1: requests, clients: requests_many}, device, tuple(setting or ()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # each ends in the same way: the services are stopped
    try:
        with tempfile.TemporaryDirectory(prefix="samesku-bench-") as scratch:
            found = race(plan, Path(scratch))
    except (BenchmarkFailed, AppError) as error:
        console.print(f"[bold red]The benchmark failed:[/] {escape(str(error))}")
        raise typer.Exit(1) from None
    report.show(found, results)
    busiest = max(m.client_cpu_share for m in found.measurements)
    if busiest > BUSY_CLIENT_SHARE:
        console.print(f"[yellow]The load generator took {busiest:.0%} of a core: it may have held the services back.[/]")
    folder = out or (None if quick else ROOT / "docs")
    if folder is not None:
        for file in report.write(found, folder):
            console.print(f"written: {escape(str(file))}")


if __name__ == "__main__":
    typer.run(main)
