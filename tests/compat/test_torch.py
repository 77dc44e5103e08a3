"""What pyrolvm takes from torch that torch does not promise is as it expects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from pyrolvm._compat import torch as private

aten = torch.ops.aten


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


@contextmanager
def _heard() -> Iterator[list[Any]]:
    heard: list[Any] = []

    def apply(stock: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        heard.append(function)
        return stock(*args, **kwargs)

    with private.function_applied_by(apply):
        yield heard


def test_functions_of_autograd_are_applied_by_another_for_a_block() -> None:
    before = torch.autograd.Function.__dict__.get("apply")
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with _heard() as heard:
        y = Double.apply(x)
    assert heard == [Double]
    assert y.tolist() == [2.0, 4.0]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 2.0]
    assert torch.autograd.Function.__dict__.get("apply") is before
    Double.apply(x)
    assert heard == [Double]


def test_functions_are_put_back_after_an_error() -> None:
    before = torch.autograd.Function.__dict__.get("apply")
    with pytest.raises(ZeroDivisionError), _heard():
        raise ZeroDivisionError
    assert torch.autograd.Function.__dict__.get("apply") is before


def test_blocks_in_blocks_hear_each_function_twice() -> None:
    with _heard() as outer, _heard() as inner:
        Double.apply(torch.ones(1))
    assert outer == inner == [Double]


@pytest.mark.parametrize("kind", ["python", "c", "inherited"])
def test_a_class_method_of_any_make_is_replaced_and_put_back(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in releases up to 2.13 (a method in Python), from 2.14 on (in C), and where a base class has it."""

    class Base:
        apply = classmethod(lambda cls, x: (cls.__name__, x))

    class Counts(dict):
        apply = dict.__dict__["fromkeys"]

    class Heir(Base):
        pass

    home: Any = {"python": Base, "c": Counts, "inherited": Heir}[kind]
    monkeypatch.setattr(torch.autograd, "Function", home)
    own = home.__dict__.get("apply")
    sub: Any = type("Sub", (home,), {})
    with _heard() as heard:
        found = sub.apply("x")
    assert heard == [sub]
    assert found == ({"x": None} if kind == "c" else ("Sub", "x"))
    assert home.__dict__.get("apply") is own
    assert sub.apply("x") == found


def test_registered_gradients_are_told_from_written_ones() -> None:
    assert not private.is_registered(Double)
    with _heard() as heard:
        _registered()(torch.ones(2, requires_grad=True))
    assert len(heard) == 1 and private.is_registered(heard[0])


def _registered() -> Any:
    @torch.library.custom_op("pyrolvm_tests::triple", mutates_args=())
    def triple(x: Tensor) -> Tensor:
        return 3 * x

    triple.register_autograd(lambda ctx, gradient: 3 * gradient)
    return triple


def test_operations_tell_what_they_write_and_share() -> None:
    add, view = aten.add.Tensor, aten.view.default
    assert private.is_operation(add) and not private.is_operation(aten.add) and not private.is_operation(len)
    assert not private.writes(add) and private.writes(aten.add_.Tensor)
    assert private.argument_names(add) == ("self", "other", "alpha")
    assert private.written_arguments(aten.add_.Tensor) == ("self",)
    assert private.written_arguments(aten.add.out) == ("out",)
    assert private.written_arguments(add) == ()
    assert private.shares_memory(view) and not private.shares_memory(add)


def test_tensors_that_share_memory_have_one_key() -> None:
    x = torch.zeros(4)
    assert private.storage_key(x) == private.storage_key(x[1:]) == private.storage_key(x.detach())
    assert private.storage_key(x) != private.storage_key(x.clone())


def test_a_mode_sees_every_operation_and_can_be_switched_off() -> None:
    class Seen(private.DispatchMode):
        names: tuple[str, ...] = ()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names += (str(func),)
            return func(*args, **(kwargs or {}))

    with Seen() as seen:
        torch.ones(2) + 1
        with private.without_modes():
            torch.ones(2) * 2
    assert "aten.add.Tensor" in seen.names and "aten.mul.Tensor" not in seen.names


def test_transforms_are_noticed() -> None:
    heard = []

    def function(x: Tensor) -> Tensor:
        heard.append(private.transforms_active())
        return x

    function(torch.ones(2))
    torch.func.vmap(function)(torch.ones(2))
    assert heard == [False, True]


def test_decompositions_are_functions_of_the_same_arguments() -> None:
    x = torch.tensor([-1.0, 0.5])
    core, whole = private.core_decompositions(), private.decompositions()
    assert aten.softplus_backward.default in core and aten.silu.default in whole
    silu = whole[aten.silu.default]
    with private.without_compiler(silu):
        assert torch.allclose(silu(x), aten.silu.default(x))


def test_recording_and_decomposing_do_not_import_the_compiler() -> None:
    text = (
        "import sys, torch\n"
        "from pyrolvm._compat import torch as private\n"
        "silu = private.decompositions()[torch.ops.aten.silu.default]\n"
        "class Mode(private.DispatchMode):\n"
        "    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return func(*args, **(kwargs or {}))\n"
        "with Mode(), private.without_compiler(silu):\n"
        "    silu(torch.ones(2))\n"
        "assert not any(hasattr(f, '_' + '_dynamo_disable') for f in (silu, getattr(silu, '__wrapped__', silu)))\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0


def test_devices_are_asked_without_any() -> None:
    assert private.forked_after_cuda() is False
    private.keeps_address(torch.zeros(2))


def test_nests_of_tensors_are_taken_apart_and_put_together() -> None:
    leaves, structure = private.pytree.tree_flatten({"a": (1, [2]), "b": 3})
    assert private.pytree.tree_unflatten(leaves, structure) == {"a": (1, [2]), "b": 3}
    assert private.pytree.tree_map(lambda leaf: leaf + 1, (1, [2])) == (2, [3])
    assert private.pytree.tree_leaves({"a": [1], "b": 2}) == [1, 2]


@pytest.mark.parametrize(
    ("choice", "largest", "smallest"),
    [
        ("clamp", lambda x, y: x.clamp(min=0.5), lambda x, y: x.clamp(max=0.5)),
        ("clamp by a tensor", lambda x, y: x.clamp(min=y), lambda x, y: x.clamp(max=y)),
        ("fmax", torch.fmax, torch.fmin),
    ],
)
def test_the_share_at_a_tie_is_that_of_both_choices_everywhere(choice: Any, largest: Any, smallest: Any) -> None:
    share = private.share_at_tie(choice)
    assert share in (0.0, 0.5, 1.0)
    for function in (largest, smallest):
        x, y = (torch.full((3,), 0.5, requires_grad=True) for _ in range(2))
        (found,) = torch.autograd.grad(function(x, y).sum(), x)
        assert found.tolist() == [share] * 3


def test_operations_with_private_names_are_those_that_are_recorded() -> None:
    seen: list[Any] = []

    class Seen(private.DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2, 3, requires_grad=True)
    with Seen():
        x.detach().to(torch.float64)
        x.t().reshape(6)
        x.detach().sum().item()
        x[torch.tensor([0, 0])].sum().backward()
    assert private.TO_COPY in seen and private.UNSAFE_VIEW in seen and private.ITEM in seen
    assert any(getattr(func, "overloadpacket", None) in (private.INDEX_PUT_IMPL, aten.index_put) for func in seen)
    assert private.INDEX_PUT_IMPL(torch.zeros(2), [torch.tensor([1])], torch.ones(1)).tolist() == [0.0, 1.0]


def test_tensors_that_share_values_have_one_place_and_those_without_have_their_own() -> None:
    x, empty = torch.zeros(4), torch.zeros(0)
    assert private.memory_key(x) == private.memory_key(x[1:]) == private.memory_key(torch.from_numpy(x.numpy()))
    assert private.memory_key(x) != private.memory_key(x.clone())
    assert private.memory_key(empty) == id(empty) and private.memory_key(x.to("meta")) != private.memory_key(x)
    inside: list[bool] = []

    def function(y: Tensor) -> Tensor:
        inside.append(private.memory_key(y) == id(y))
        return y.sum()

    torch.func.grad(function)(x)
    assert inside == [True]


def test_writes_into_a_tensor_are_counted_in_its_views_too() -> None:
    x = torch.zeros(4)
    before, view = private.writes_into(x), x[1:]
    view.add_(1)
    assert private.writes_into(x) == private.writes_into(view) == before + 1


def test_the_buffers_of_a_module_are_the_dictionary_that_it_reads() -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    assert private.buffers_of(module) == {}
    private.buffers_of(module[0])["running_mean"] = torch.ones(2)
    assert module[0].running_mean.tolist() == [1.0, 1.0]


def test_gradients_of_places_that_are_written_mix_lanes_through_vmap_which_is_why_they_are_replaced():
    base = torch.zeros(3, 4, dtype=torch.float64)

    def place(x):
        return torch.ops.aten.select_scatter.default(base, x.expand(3), 1, 0).sum()

    def filled(x):
        return torch.index_fill(base, 1, torch.tensor([0]), x).sum()

    def piece(x):
        return torch.ops.aten.slice_scatter.default(base, x.expand(3, 1), 1, 0, 1, 1).sum()

    rows = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    right = torch.full_like(rows, 3.0)
    wrong, found = (torch.autograd.grad(torch.func.vmap(function)(rows).sum(), rows)[0] for function in (place, piece))
    assert torch.equal(found, right)
    assert not torch.equal(wrong, right)


def test_gamma_draws_are_one_operation_and_move_as_their_gradient_says() -> None:
    alpha = torch.tensor([0.4, 3.0, 50.0], dtype=torch.float64, requires_grad=True)
    seen: list[Any] = []

    class See(private.DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with See():
        draw = torch.distributions.Gamma(alpha, 1.0, validate_args=False).rsample()
    assert private.GAMMA_DRAW in seen
    (slope,) = torch.autograd.grad(draw.sum(), alpha)
    torch.testing.assert_close(private.gamma_slope(alpha.detach(), draw.detach()), slope)
