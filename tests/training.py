"""Training by the command, for tests: tiny encoders, toy tables, and short runs."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from app.__main__ import cli
from app.model_store import Bundle, load_bundle
from app.training.history import HISTORY, read_history
from tests import tiny
from tests.toys import toy_table

GROUPS = 60
FOLDS = ("--test-fold", "0/4", "--calibration-fold", "1/4")
EVERYTHING = ("--calibration-fold", "")
SIZES = (
    "--device", "cpu", "--image-size", "32", "--image-dim", "16", "--title-dim", "16", "--ngram-dim", "32",
    "--max-tokens", "24",
)  # fmt: skip
LEARNS = (
    "--epochs", "10", "--batch-size", "24", "--learning-rate", "1e-3", "--head-rate", "1e-2", "--scale", "16",
    "--margin", "0.2", "--margin-start", "0.2", "--augment-photos", "0.2", "--augment-titles", "0.2",
)  # fmt: skip
# three epochs of three batches; dropout, augmentation and everything that a head may remember are on
SHORT = (*SIZES, *EVERYTHING, "--epochs", "3", "--batch-size", "16", "--storage", "fp32", "--head", "curricular")
UPDATES = 9

Weights = dict[str, Tensor]


class Place:
    """Encoders, tables and a way to call the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image, self.title = tiny.image_encoder(folder), tiny.title_encoder(folder)
        self.towers = ("--image-encoder", self.image, "--title-encoder", self.title)
        self.large = toy_table(folder / "large", GROUPS)
        self.small = toy_table(folder / "small", 12)

    def train(self, out: Path, *options: str | Path) -> Bundle:
        run("train", "--out", out, *options)
        return load_bundle(out)

    def short(self, out: Path, *options: str | Path) -> Bundle:
        return self.train(out, "--listings", self.small, *self.towers, *SHORT, *options)


def run(*arguments: str | Path) -> str:
    outcome = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def course(out: Path) -> list[dict[str, float]]:
    return read_history(out.with_name(f"{out.name}.run") / HISTORY)


def weights(folder: Path) -> Weights:
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    return {f"{number}.{name}": tensor for number, file in enumerate(files) for name, tensor in file.items()}
