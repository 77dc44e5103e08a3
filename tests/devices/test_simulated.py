"""The simulated device refuses what a real one would, and computes what the processor does."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.devices.simulated import DEVICE, MixedDevices, simulated_cuda


def test_tensors_say_that_they_are_there_and_so_do_their_results() -> None:
    with simulated_cuda():
        x = torch.ones(3, device="cuda")
        made = [
            x + 1,
            x.new_zeros(2),
            torch.zeros_like(x),
            torch.tensor([1.0], device="cuda"),
            torch.ones(2).to("cuda"),
        ]
        assert {tensor.device for tensor in made} == {DEVICE}
        assert x.is_cuda
        assert torch.ones(2).device.type == "cpu"
        with torch.device("cuda"):
            assert torch.zeros(2).device == DEVICE


def test_operations_on_two_devices_are_refused() -> None:
    with simulated_cuda():
        x = torch.ones(3, device="cuda")
        with pytest.raises(MixedDevices, match="cuda:0 and on cpu"):
            x + torch.ones(3)
        with pytest.raises(MixedDevices):
            torch.func.vmap(lambda row: row * torch.ones(3))(x.expand(2, 3))
        assert (x + torch.tensor(1.0)).device == DEVICE  # a number, as torch allows
        assert x[torch.tensor([0, 2])].device == DEVICE  # and indices
        with pytest.raises(MixedDevices):
            torch.ones(3)[torch.tensor([0], device="cuda")]


def test_numpy_takes_nothing_from_the_device() -> None:
    with simulated_cuda():
        x = torch.ones(3, device="cuda")
        for read in (x.numpy, lambda: np.asarray(x)):
            with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\) first"):
                read()
        assert x.cpu().numpy().tolist() == [1.0, 1.0, 1.0]


def test_gradients_and_modules_lie_there() -> None:
    with simulated_cuda():
        net = torch.nn.Linear(3, 2).to("cuda")
        loss = net(torch.ones(5, 3, device="cuda")).square().sum()
        loss.backward()
        gradient = net.weight.grad
        assert gradient is not None
        assert gradient.device == DEVICE
        assert copy.deepcopy(net).weight.device == DEVICE
        plain = torch.nn.Linear(3, 2)
        plain.load_state_dict({name: value.cpu() for name, value in net.state_dict().items()})
        expected = torch.autograd.grad(plain(torch.ones(5, 3)).square().sum(), plain.weight)[0]
        assert torch.allclose(gradient.cpu(), expected)


def test_values_cannot_be_saved_from_the_device(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with simulated_cuda():
        moved = {"x": torch.ones(3, device="cuda").cpu()}
        save_file(moved, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_size > 0


def test_nothing_is_left_of_it() -> None:
    before = torch.cuda.is_available()
    with simulated_cuda():
        assert torch.cuda.is_available()
    assert torch.cuda.is_available() == before
    if not before:
        with pytest.raises((AssertionError, RuntimeError)):
            torch.zeros(2, device="cuda")
