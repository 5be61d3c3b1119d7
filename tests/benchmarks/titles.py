"""Titles over HTTP: samesku against infinity-emb serving the same tower.

    python -m tests.benchmarks.titles --infinity ENV/bin/python [BUNDLE] [--rounds 3] [--texts 1024] [--json FILE]

infinity-emb wants other versions of packages than samesku does, so it lives in an environment of its own:

    python3.11 -m venv ENV
    ENV/bin/pip install "infinity-emb[torch,optimum,server]==0.0.77" "transformers==4.48.3" "optimum[onnxruntime]==1.24.0" \
        "datasets<4" "pyarrow<19" "typer<0.13" "click<8.2"

It gets the transformer of the bundle's title tower as a folder of Hugging Face's kind, with the same tokenizer and length
limit, in float32, and exported to ONNX for its other engine. samesku has no call that returns vectors, so it is asked for
matches in an empty catalog: it computes the n-grams, the projection and an answer besides, and infinity-emb sends 384 floats
for each text. One client sends 64 texts per request; sixteen clients send one text each. No text is sent twice. The
services take turns, and those whose turn it is not are stopped (`SIGSTOP`). Prints Markdown; ratios are those of runs that
followed each other, as median (lowest to highest).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from safetensors.torch import save_file
from tokenizers import Tokenizer

from app.encoders.multimodal import load_title_tower
from app.encoders.title import read_config
from app.model_store import Bundle, load_bundle
from tests.benchmarks import load, processes
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.processes import BenchmarkFailed, Service
from tests.benchmarks.report import table_text
from tests.benchmarks.stats import SAMESKU, Ratio

ROOT = Path(__file__).parent.parent.parent
MODEL = "tower"  # the name that infinity-emb serves it under
TORCH, ONNX = "infinity-emb, torch", "infinity-emb, optimum (ONNX)"
TOGETHER = 64  # texts of one request, where they are sent together
CLIENTS = 16  # that send one text each
WARM_UP = 128  # texts
EXPORT = """
import os, sys, torch
from transformers import AutoModel, AutoTokenizer
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
given = dict(AutoTokenizer.from_pretrained(folder)(["a title", "another one"], padding=True, return_tensors="pt"))
given = {name: given[name] for name in ("input_ids", "attention_mask")}
axes = {name: {0: "texts", 1: "tokens"} for name in [*given, "last_hidden_state"]}
os.mkdir(f"{folder}/onnx")
torch.onnx.export(
    model, (given,), f"{folder}/onnx/model.onnx", input_names=list(given), output_names=["last_hidden_state"],
    dynamic_axes=axes, opset_version=17, dynamo=False,
)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One service under one load: `together` texts per request; `cpu_ms` is processor time of the service per text."""

    service: str
    round: int
    together: int
    texts_per_s: float
    cpu_ms: float


def main(
    infinity: Annotated[Path, typer.Option(help="Python of the environment that has infinity-emb.")],
    bundle: Annotated[Path, typer.Argument()] = ROOT / "model_store" / "default",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    texts: Annotated[int, typer.Option(min=TOGETHER, help="Of each run.")] = 1024,
    raw: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
) -> None:
    """Measures and prints."""
    loaded = load_bundle(bundle)
    with tempfile.TemporaryDirectory(prefix="samesku-bench-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        write_tower(loaded, scratch / MODEL)
        export_to_onnx(infinity, scratch / MODEL)
        services = start(loaded, infinity, scratch, stack)
        runs = [run for number in range(rounds) for run in one_round(services, number, texts)]
    sys.stdout.write(table(runs) + "\n")
    if raw is not None:
        figures = {"machine": describe_machine(), "texts": texts, "runs": [asdict(run) for run in runs]}
        raw.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def write_tower(bundle: Bundle, folder: Path) -> None:
    """Writes the transformer of a bundle's title tower as Hugging Face and sentence-transformers read it."""
    spec = bundle.manifest.spec()
    title = spec.title
    if title is None:
        raise BenchmarkFailed("the bundle must have one title tower.")
    folder.mkdir()
    config = read_config(bundle.folder / title.config) | {"dtype": "float32", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    backbone = load_title_tower(spec, bundle.folder).backbone
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, folder / "model.safetensors")
    tokenizer = bundle.folder / title.tokenizer
    shutil.copy(tokenizer, folder / "tokenizer.json")
    pad = Tokenizer.from_file(str(tokenizer)).id_to_token(title.pad_id)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": title.max_tokens, "pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), "utf-8")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": title.max_tokens}), "utf-8")


def export_to_onnx(python: Path, folder: Path) -> None:
    """Exports a folder for infinity-emb's ONNX engine, in its own environment."""
    done = subprocess.run([str(python), "-c", EXPORT, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"the export to ONNX failed:\n{done.stderr[-2000:]}")


def start(bundle: Bundle, infinity: Path, scratch: Path, stack: ExitStack) -> dict[str, Service]:
    """Starts the three services, each held as soon as it is ready; `stack` stops them."""
    environment = {"SAMESKU_BUNDLE": str(bundle.folder.resolve()), "SAMESKU_DATA_DIR": str(scratch / "data")}
    ours = processes.running(SAMESKU, ["app", "serve", "--host", "127.0.0.1"], environment, scratch)
    services = {SAMESKU: stack.enter_context(ours)}
    for name, engine in ((TORCH, "torch"), (ONNX, "optimum")):
        services[list(services)[-1]].hold()
        options = ["--model-id", str(scratch / MODEL), "--served-model-name", MODEL, "--engine", engine, "--device", "cpu"]
        command = [
            "infinity_emb.cli",
            "v2",
            *options,
            "--no-vector-disk-cache",
            "--no-trust-remote-code",
            "--host",
            "127.0.0.1",
        ]
        offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
        theirs = processes.running(engine, command, offline, scratch, python=str(infinity), ready_path="/health")
        services[name] = stack.enter_context(theirs)
    services[ONNX].hold()
    return services


def one_round(services: dict[str, Service], number: int, texts: int) -> Iterator[Run]:
    """Measures every service under each load."""
    for together in (TOGETHER, 1):
        for name, service in services.items():
            service.go()
            yield measure(name, service, number, together, texts)
            service.hold()


def measure(name: str, service: Service, number: int, together: int, texts: int) -> Run:
    """Sends texts, after some to warm up. Raises BenchmarkFailed if one has no answer."""
    clients = 1 if together > 1 else CLIENTS
    some = list(made_up(number, together, WARM_UP + texts))
    path, content_type, bodies = requests_of(name, some, together)
    target = load.Target.at(service.url, path=path, content_type=content_type)
    load.send(target, clients, bodies[: WARM_UP // together])
    before = service.cpu_s()
    queue, seconds, _ = load.send(target, clients, bodies[WARM_UP // together :])
    sent, used_s = together * len(queue.latencies_ms), service.cpu_s() - before
    if queue.failures:
        raise BenchmarkFailed(f"{name}: {queue.failures[0]}\n{service.last_lines()}")
    return Run(name, number, together, sent / seconds, 1000 * used_s / sent)


def made_up(number: int, together: int, count: int) -> Iterator[str]:
    """Yields titles of the samples with a number that no other has; the same for every service."""
    titles = [sample.title for sample in load.read_requests() if sample.title]
    for n in range(count):
        yield f"{titles[n % len(titles)]} {number}-{together}-{n}"


def requests_of(name: str, texts: list[str], together: int) -> tuple[str, str, list[bytes]]:
    """Returns path, content type and bodies for a service."""
    parts = [texts[start : start + together] for start in range(0, len(texts), together)]
    if name != SAMESKU:
        return "/embeddings", "application/json", [json_of(model=MODEL, input=part) for part in parts]
    if together > 1:
        return "/match/batch", "application/json", [json_of(items=[{"title": t} for t in part]) for part in parts]
    samples = [load.Sample("", text, b"") for text in texts]
    return "/match", load.Target("", 0).content_type, list(load.bodies(samples, len(samples), 0))


def json_of(**fields: Any) -> bytes:
    """Returns a JSON object."""
    return json.dumps(fields).encode()


def table(runs: list[Run]) -> str:
    """Returns the Markdown table."""
    rows = []
    for together in (TOGETHER, 1):
        some = [run for run in runs if run.together == together]
        ours = [run.texts_per_s for run in some if run.service == SAMESKU]
        for name in (SAMESKU, TORCH, ONNX):
            rates = [run.texts_per_s for run in some if run.service == name]
            ratio = Ratio(name, tuple(a / b for a, b in zip(ours, rates, strict=True)))
            times = "" if name == SAMESKU else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            how = f"{TOGETHER} per request" if together > 1 else f"{CLIENTS} clients of one"
            cpu_ms = median(run.cpu_ms for run in some if run.service == name)
            rows.append([how, name, f"{median(rates):.0f}", times, f"{cpu_ms:.1f}"])
    return table_text(["texts", "service", "texts/s", "samesku, times as many", "CPU ms per text"], rows)


if __name__ == "__main__":
    typer.run(main)
