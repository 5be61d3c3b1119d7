"""Checkpoints: exact, whole, and never taken for those of another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from app.errors import InvalidInput
from app.training.checkpoint import CHECKPOINT, Progress, read_checkpoint, write_checkpoint

RUN = "run-1"


class Net(nn.Module):
    """A frozen layer, a trained one, and a normalisation with running statistics."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.frozen, self.free, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.unused = nn.Parameter(torch.randn(3))
        self.frozen.requires_grad_(False)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.norm(self.free(self.frozen(rows)))
        return found


def optimizer_of(net: Net) -> torch.optim.AdamW:
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [{"params": trained[:1], "lr": 0.1, "peak": 0.1}, {"params": trained[1:], "lr": 0.01, "peak": 0.01}]
    )


def step(net: Net, optimizer: torch.optim.AdamW, seed: int) -> float:
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    loss = (net(rows) - rows.flip(0)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Net, torch.optim.AdamW, Path]:
    net = Net(seed=1)
    optimizer = optimizer_of(net)
    for seed in range(3):
        step(net, optimizer, seed)
    optimizer.param_groups[0]["lr"] = 0.05
    write_checkpoint(tmp_path, RUN, net, optimizer, Progress(epoch=2, step=5, update=17), {"scale": 1024.0})
    return net, optimizer, tmp_path


def start_of(other: Net) -> Net:
    """A new run: other weights, but the same frozen part."""
    net = Net(seed=99)
    net.frozen.load_state_dict(other.frozen.state_dict())
    return net


def test_a_run_goes_on_exactly(saved: tuple[Net, torch.optim.AdamW, Path]) -> None:
    net, optimizer, folder = saved
    again = start_of(net)
    other = optimizer_of(again)
    progress, scaler = read_checkpoint(folder, RUN, again, other)
    assert progress == Progress(epoch=2, step=5, update=17)
    assert scaler == {"scale": 1024.0}
    assert [group["lr"] for group in other.param_groups] == [0.05, 0.01]
    for seed in range(10, 14):
        assert step(net, optimizer, seed) == step(again, other, seed)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_frozen_parameters_are_left_out_and_everything_else_is_there(saved: tuple[Net, torch.optim.AdamW, Path]) -> None:
    net, _, folder = saved
    with safe_open(folder / CHECKPOINT, framework="pt") as stored:
        names = {name.removeprefix("model.") for name in stored.keys() if name.startswith("model.")}  # noqa: SIM118
    assert names == {name for name in net.state_dict() if not name.startswith("frozen.")}
    again = Net(seed=99)
    before = again.frozen.weight.clone()
    read_checkpoint(folder, RUN, again, optimizer_of(again))
    assert torch.equal(again.frozen.weight, before)


def test_a_checkpoint_before_the_first_update_can_be_read(tmp_path: Path) -> None:
    net = Net(seed=1)
    write_checkpoint(tmp_path, RUN, net, optimizer_of(net), Progress())
    again = start_of(net)
    assert read_checkpoint(tmp_path, RUN, again, optimizer_of(again)) == (Progress(), None)
    assert torch.equal(again.free.weight, net.free.weight)


def refusal(folder: Path, run: str = RUN) -> str:
    net = Net(seed=5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InvalidInput) as caught:
        read_checkpoint(folder, run, net, optimizer_of(net))
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())  # nothing half-loaded
    message = str(caught.value)
    assert "leave --resume out" in message
    return message


def test_a_missing_checkpoint_is_refused_with_the_remedy(tmp_path: Path) -> None:
    assert "there is no checkpoint" in refusal(tmp_path)


def test_the_checkpoint_of_another_run_is_refused_with_the_remedy(saved: tuple[Net, torch.optim.AdamW, Path]) -> None:
    assert "other options or other listings" in refusal(saved[2], run="run-2")


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_checkpoint_that_is_cut_off_is_refused(saved: tuple[Net, torch.optim.AdamW, Path], keep: int) -> None:
    file = saved[2] / CHECKPOINT
    file.write_bytes(file.read_bytes()[:keep])
    assert "damaged" in refusal(saved[2])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / CHECKPOINT
    for metadata in (None, {"state": "{"}, {"state": "[]"}, {"state": json.dumps({"run": RUN})}):
        save_file({"model.free.weight": torch.zeros(4, 4)}, file, metadata)
        assert "is no checkpoint" in refusal(tmp_path)
    file.write_bytes(b"not safetensors at all, but long enough to have a header")
    assert "is no checkpoint" in refusal(tmp_path)


def test_a_write_that_fails_leaves_the_old_checkpoint(
    saved: tuple[Net, torch.optim.AdamW, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, optimizer, folder = saved
    before = (folder / CHECKPOINT).read_bytes()

    def half(file: Path, data: bytes) -> int:
        with file.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder, RUN, net, optimizer, Progress(epoch=3))
    monkeypatch.undo()
    assert (folder / CHECKPOINT).read_bytes() == before
    assert [file.name for file in folder.iterdir()] == [CHECKPOINT]
