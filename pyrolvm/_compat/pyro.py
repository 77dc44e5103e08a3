"""Private parts of Pyro: its store, its handlers, its plates, its packed tensors. All were checked with pyro-ppl 1.9.1 and 1.9.2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
from pyro.infer.traceenum_elbo import TraceEnum_ELBO, _compute_model_factors
from pyro.poutine import Trace, runtime
from pyro.poutine.subsample_messenger import SubsampleMessenger, _Subsample
from torch import Tensor

__all__ = [
    "Enumerated",
    "PlateRows",
    "autoguide_model",
    "enumerated_run",
    "give_autoguide_model",
    "is_enumerated",
    "is_marked_deterministic",
    "is_subsample",
    "lent_store",
    "mask_of",
    "open_handlers",
    "packed_dims",
    "plates_decided_by",
    "returned",
    "stored",
    "symbol",
    "with_packed_dims",
]

PlateRows = Callable[..., tuple[int, int, Tensor | None]]
"""Decides on a plate: takes its name, size, subsample size and indices, and returns size, subsample size and indices."""


# --- the parameter store ----------------------------------------------------------------------------------------------


@contextmanager
def lent_store(values: MutableMapping[str, Tensor]) -> Iterator[None]:
    """Has Pyro's parameter store keep its tensors in another mapping for a block. Seen in pyro-ppl 1.9.1 and 1.9.2.

    A program that clears or scopes the store inside does not lose the mapping: it is cleared, and not replaced.
    """
    store: Any = pyro.get_param_store()
    saved = (store._params, store._param_to_name, store._constraints)
    own_clear = store.__dict__.get("clear")

    def clear() -> None:
        values.clear()
        store._param_to_name, store._constraints = {}, {}

    store._params, store._param_to_name, store._constraints = values, {}, {}
    store.clear = clear
    try:
        yield
    finally:
        if own_clear is None:
            del store.clear
        else:
            store.clear = own_clear
        store._params, store._param_to_name, store._constraints = saved


def stored() -> MutableMapping[str, Tensor]:
    """The very mapping in which Pyro's parameter store keeps its unconstrained tensors. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    store: Any = pyro.get_param_store()
    found: MutableMapping[str, Tensor] = store._params
    return found


# --- handlers ---------------------------------------------------------------------------------------------------------


def open_handlers() -> tuple[list[Any], ...]:
    """The very lists that Pyro keeps of open handlers and of open plates. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    return runtime._PYRO_STACK, runtime._DIM_ALLOCATOR._stack


def is_marked_deterministic(node: Mapping[str, Any]) -> bool:
    """Whether Pyro has marked a site as a deterministic value. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    return bool(node["infer"].get("_deterministic"))


def returned(trace: Trace) -> object:
    """What the program of a trace returned. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    return trace.nodes["_RETURN"]["value"]


# --- plates -----------------------------------------------------------------------------------------------------------


def is_subsample(fn: object) -> bool:
    """Whether a site's distribution is a plate's choice of rows. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    return isinstance(fn, _Subsample)


@contextmanager
def plates_decided_by(hook: Callable[..., tuple[int, int, Tensor | None]]) -> Iterator[None]:
    """Puts a function where a plate decides on its size and rows, for a block. Seen in pyro-ppl 1.9.1 and 1.9.2.

    Args:
        hook: called as ``hook(inner, name, size, subsample_size, subsample, use_cuda=..., device=...)``, where ``inner`` takes all of
            these but the first and decides as Pyro does.
    """
    inner: PlateRows = SubsampleMessenger._subsample

    def decide(
        name: str,
        size: int | None = None,
        subsample_size: int | None = None,
        subsample: Tensor | None = None,
        use_cuda: bool | None = None,
        device: str | None = None,
    ) -> tuple[int, int, Tensor | None]:
        return hook(inner, name, size, subsample_size, subsample, use_cuda=use_cuda, device=device)

    SubsampleMessenger._subsample = staticmethod(decide)  # type: ignore[method-assign]
    try:
        yield
    finally:
        SubsampleMessenger._subsample = staticmethod(inner)  # type: ignore[method-assign]


# --- enumeration ------------------------------------------------------------------------------------------------------


def is_enumerated(node: Mapping[str, Any]) -> bool:
    """Whether a site of a trace has all its values in a dimension of their own. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    return node["infer"].get("_enumerate_dim") is not None


def symbol(node: Mapping[str, Any]) -> str:
    """The name, in packed tensors, of the dimension of an enumerated site's values. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    return str(node["infer"]["_enumerate_symbol"])


def packed_dims(tensor: Tensor) -> str:
    """The names of a packed tensor's dimensions, a letter each. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    found: str = tensor._pyro_dims  # type: ignore[attr-defined]
    return found


def with_packed_dims(tensor: Tensor, dims: str) -> Tensor:
    """The same tensor, its dimensions named as in packed tensors. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    tensor._pyro_dims = dims  # type: ignore[attr-defined]
    return tensor


class Enumerated(NamedTuple):
    """A run of a model against its guide with sites enumerated, as :class:`pyro.infer.TraceEnum_ELBO` accounts for it.

    Attributes:
        guide: the trace of the guide, packed.
        plain: packed log densities of the model's sites, by plates, that depend on nothing that is summed out.
        factors: those that are multiplied and summed out, by plates.
        sum_dims: the names of the dimensions to sum over.
        scale: of what the sum gives.
    """

    guide: Any
    plain: Mapping[object, list[Tensor]]
    factors: object
    sum_dims: set[str]
    scale: object


def enumerated_run(
    model: Callable[..., object],
    guide: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    max_plate_nesting: int,
) -> Enumerated:
    """Runs a guide and a model that are set up for enumeration. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    model_trace, guide_trace = TraceEnum_ELBO(max_plate_nesting=max_plate_nesting)._get_trace(
        model, guide, args, kwargs
    )
    plain, factors, _, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
    return Enumerated(guide_trace, plain, factors, sum_dims, scale)


# --- distributions and guides -----------------------------------------------------------------------------------------


def mask_of(fn: object) -> Tensor | bool | None:
    """What a masked distribution is masked by; ``None`` for one that is not. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    return fn._mask if isinstance(fn, pyro.distributions.MaskedDistribution) else None


def autoguide_model(guide: Any) -> Callable[..., object] | None:
    """The model of an AutoGuide, which it drops when it is copied. Seen in pyro-ppl 1.9.1 and 1.9.2, which keep it in a tuple."""
    return guide._model[0] if guide._model else None


def give_autoguide_model(guide: Any, model: Callable[..., object] | None) -> None:
    """Gives an AutoGuide what :func:`autoguide_model` found back, or another model. Seen in pyro-ppl 1.9.1 and 1.9.2."""
    guide._model = None if model is None else (model,)
