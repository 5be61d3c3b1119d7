"""Which engine runs where."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from app.encoders.runtime import Runtime, choose
from app.errors import NotReady
from app.settings import Settings


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if OpenVINO were not installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("missing")
def test_without_openvino_auto_is_torch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "app"):
        assert choose("cpu", "auto") == Runtime(torch.device("cpu"))
    assert "not installed" in caplog.text
    with pytest.raises(NotReady, match="ENGINE=auto"):
        choose("cpu", "openvino")


def test_torch_is_the_engine_unless_another_is_asked_for() -> None:
    assert choose("cpu").engine == choose("cpu", "torch").engine == "torch"
    assert choose("cpu").name == "cpu fp32"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_runs_torch() -> None:
    assert choose("auto", "auto") == choose("cuda", "auto") == Runtime(torch.device("cuda"))
    with pytest.raises(NotReady, match="DEVICE=cpu"):
        choose("cuda", "openvino")


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores PyTorch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_openvino_runs_on_the_cpu() -> None:
    if find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed (extra 'cpu')")
    assert choose("cpu", "auto", threads=1) == Runtime(torch.device("cpu"), "openvino", 1)
    assert choose("auto", "openvino").device.type == "cpu"
    assert choose("cpu", "auto").name == "cpu fp32 openvino"


@pytest.mark.usefixtures("threads")
def test_threads_count_for_torch_too() -> None:
    assert choose("cpu", "torch", threads=1) == Runtime(torch.device("cpu"))
    assert torch.get_num_threads() == 1


def test_the_engine_can_be_named_with_and_without_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENGINE", "SAMESKU_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    assert Settings().engine == "auto"
    for name in ("ENGINE", "SAMESKU_ENGINE"):
        monkeypatch.setenv(name, "torch")
        assert Settings().engine == "torch"
        assert Settings(engine="openvino").engine == "openvino"
        monkeypatch.delenv(name)


def test_memory_is_that_of_the_gpu_and_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Runtime(torch.device("cpu")).memory_bytes() == {}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 15)
    assert Runtime(torch.device("cuda")).memory_bytes() == {"total": 80, "free": 60, "reserved": 15}
