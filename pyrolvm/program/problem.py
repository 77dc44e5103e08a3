"""A model together with its data: one joint density, read once, checked, and never changed."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyrolvm import runtime
from pyrolvm._compat.torch import forked_after_cuda
from pyrolvm.errors import ArgumentError, ProblemError
from pyrolvm.program import data
from pyrolvm.program.batching import Batch, full_plates
from pyrolvm.program.image import Image
from pyrolvm.program.inspection import Parameter, Plate, Site, read
from pyrolvm.program.prediction import Hide, predicted
from pyrolvm.program.streaming import Source, heads

__all__ = ["ModelInfo", "Problem", "model"]

Draw = Mapping[str, Tensor]
Quantity = Callable[[Draw], Tensor]
_Model = TypeVar("_Model", bound=Callable[..., Any])

_ATTRIBUTE = "__pyrolvm_model__"


@dataclass(frozen=True)
class ModelInfo:
    """What a model says about itself besides its density."""

    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    guide: Any = None
    images: Mapping[str, Image] = field(default_factory=dict)


def model(
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    guide: Any = None,
    images: Mapping[str, Image | Sequence[int]] | None = None,
) -> Callable[[_Model], _Model]:
    """Names a model's dimensions, its identified quantities and its guide. The model stays the Pyro function it was.

    Args:
        dims: for a site or quantity, the names of its dimensions: of all of them, or of its event dimensions alone
            (batch dimensions are named by their plates).
        coords: for a dimension, the labels along it.
        quantities: functions of one draw (a mapping from site name to tensor) that are identified where the sites
            themselves are not, such as a covariance for loadings that are free to rotate. Comparisons look at these.
        guide: what ``guide="auto"`` takes for this model: whatever :func:`pyrolvm.fit` takes as a guide.
        images: for an observed site, that a row of it is an image: ``(height, width)``, ``(height, width, channels)``, or an
            :class:`~pyrolvm.Image`. Evaluations draw it as one.

    Example:
        >>> @lvm.model(dims={"theta": ["school"]})
        ... def eight_schools(sigma, y): ...
    """

    def decorate(function: _Model) -> _Model:
        pictures = {site: Image.of(image) for site, image in (images or {}).items()}
        info = ModelInfo(dict(dims or {}), dict(coords or {}), dict(quantities or {}), guide, pictures)
        setattr(function, _ATTRIBUTE, info)
        return function

    return decorate


class Problem:
    """A joint density with its data fixed; immutable.

    ``Problem(model, *args, **kwargs)`` takes what ``model(*args, **kwargs)`` would. The model is run once, with
    validation on, to read its sites, supports and plates, so that what is wrong with model or data is said here and
    not after an hour of inference.

    Args:
        model: a Pyro function, or an ``nn.Module`` that is called like one.
        *args: the model's positional arguments. Lists, NumPy arrays and pandas objects become tensors; floats take
            torch's default dtype, or the dtype of floating tensors among the arguments.
        **kwargs: the model's keyword arguments, converted likewise.

    Attributes:
        name: the model's name.
        program: the model as it was given.
        model: what inference runs: the same, without predicted sites where it has any.
        args: positional arguments, as tensors.
        kwargs: keyword arguments, as tensors.
        sites: every sample and deterministic site by name, in the order of the program, with its shape on full data.
        plates: every plate by name.
        parameters: the learnable parameters (``pyro.param``, ``pyro.module``) of the model, by store name.
        info: dims, coords and quantities given by :func:`model`.
        source: the registered name and options it was built from; ``None`` for any other.
        hidden: the value that each predicted site holds in runs of ``model``.
        stream: where rows come from that are not all in memory, see :func:`pyrolvm.stream`; ``None`` if all are.

    Raises:
        DataError: if data are ragged, empty, not numeric, non-finite, or of mixed dtype or device.
        ProblemError: if the model does not run, or its density is not what its author can have meant.
    """

    name: str
    program: Callable[..., Any]
    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sites: Mapping[str, Site]
    plates: Mapping[str, Plate]
    parameters: Mapping[str, Parameter]
    info: ModelInfo
    source: Mapping[str, Any] | None
    stream: Source | None
    hidden: Mapping[str, Tensor]
    _arguments: Mapping[str, Any]
    _sizes: Mapping[str, int]

    def __init__(self, model: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        if not callable(model):
            raise ProblemError(
                f"model must be a function, got {type(model).__name__}. Fix: pass the Pyro function itself."
            )
        inner = _function(model)
        name = str(getattr(inner, "__name__", type(inner).__name__))
        bound, stream = heads(_bind(model, name, args, kwargs))
        converted = data.to_tensors(bound)
        positional = list(converted.values())[: len(args)]
        self._set("name", name)
        self._set("model", model)
        self._set("program", model)
        self._set("args", tuple(positional))
        self._set("kwargs", MappingProxyType(dict(list(converted.items())[len(args) :])))
        self._set("info", getattr(inner, _ATTRIBUTE, None) or ModelInfo())
        self._set("_arguments", converted)
        self._set("source", None)
        self._set("stream", stream)
        reading = read(self)
        self._set("_sizes", {plate.name: plate.size for plate in reading.plates.values() if plate.open})
        after = predicted(self, reading.sites)
        sites = {n: replace(site, kind="predicted") if n in after else site for n, site in reading.sites.items()}
        self._set("hidden", MappingProxyType(after))
        self._set("model", Hide(after)(model) if after else model)
        self._set("sites", MappingProxyType(sites))
        self._set("plates", MappingProxyType(reading.plates))
        self._set("parameters", MappingProxyType(reading.parameters))
        self._check_names()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Problem is immutable, cannot set {name!r}. Fix: build a new Problem.")

    def __repr__(self) -> str:
        latent = ", ".join(f"{site.name}{list(site.shape) or ''}" for site in self.latents)
        observed = ", ".join(f"{site.name}{list(site.shape) or ''}" for site in self.observed)
        after = "".join(f"; predicted {site.name}{list(site.shape) or ''}" for site in self.predicted)
        known = f"latent {latent or 'none'}; observed {observed or 'none'}{after}"
        return f"Problem({self.name}: {known}; {self.unconstrained_size} unknowns)"

    # --- what it holds ------------------------------------------------------------------------------------------------

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The model's arguments by name, ``*args`` and ``**kwargs`` alike."""
        return MappingProxyType(self._arguments)

    @property
    def doc(self) -> str:
        """What the model says about itself."""
        return inspect.getdoc(self.program) or ""

    @property
    def latents(self) -> tuple[Site, ...]:
        """The unobserved sample sites."""
        return tuple(site for site in self.sites.values() if site.kind == "latent")

    @property
    def observed(self) -> tuple[Site, ...]:
        """The observed sample sites."""
        return tuple(site for site in self.sites.values() if site.kind == "observed")

    @property
    def continuous(self) -> tuple[Site, ...]:
        """The latent sites that a guide or NUTS works on."""
        return tuple(site for site in self.latents if not site.is_discrete)

    @property
    def discrete(self) -> tuple[Site, ...]:
        """The latent sites that are summed out."""
        return tuple(site for site in self.latents if site.is_discrete)

    @property
    def predicted(self) -> tuple[Site, ...]:
        """The sites that are drawn after inference: discrete ones that no observation depends on, and what depends on them."""
        return tuple(site for site in self.sites.values() if site.kind == "predicted")

    @property
    def unconstrained_size(self) -> int:
        """The number of continuous unknowns once every support is mapped to the real line."""
        return sum(site.unconstrained_numel for site in self.continuous)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The floating dtype of its data; torch's default where there are none."""
        floating = (v.dtype for v in self.arguments.values() if isinstance(v, Tensor) and v.is_floating_point())
        return next(floating, torch.get_default_dtype())

    @cached_property
    def device(self) -> torch.device:
        """The device of its data."""
        return next((v.device for v in self.arguments.values() if isinstance(v, Tensor)), torch.device("cpu"))

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Identified functions of a draw, by name."""
        return self.info.quantities

    @cached_property
    def dims(self) -> dict[str, list[str]]:
        """The names of every dimension of every site: plates by name, then event dimensions."""
        return {name: site.dim_names(self.plates, self.info.dims.get(name)) for name, site in self.sites.items()}

    @cached_property
    def coords(self) -> dict[str, list[Any]]:
        """Labels along named dimensions."""
        return {name: list(labels) for name, labels in self.info.coords.items()}

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of the data."""
        return data.fingerprint(self.arguments.values())

    @cached_property
    def modules(self) -> Mapping[str, torch.nn.Module]:
        """The modules that the model is or holds: itself, its arguments, and those of the function it was defined in, by name."""
        inner = _function(self.program)
        cells = (
            zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True) if hasattr(inner, "__code__") else ()
        )
        held = {name: cell.cell_contents for name, cell in cells if _filled(cell)}
        held |= {"model": inner, **self.arguments}
        owner = getattr(inner, "__self__", None)
        held |= {"model": owner} if isinstance(owner, torch.nn.Module) else {}
        return {name: value for name, value in held.items() if isinstance(value, torch.nn.Module)}

    def session(
        self,
        *,
        seed: int | None = None,
        params: Mapping[str, Tensor] | None = None,
        validate: bool = False,
        training: bool = False,
        sizes: Mapping[str, int] | None = None,
    ) -> AbstractContextManager[None]:
        """A :func:`pyrolvm.runtime.session` in the dtype and on the device of the data; modules are lent, not given.

        They are in evaluation mode, without dropout, unless ``training`` leaves them in the modes that they are in.
        """
        return runtime.session(
            seed=seed, params=params, dtype=self.dtype, device=self.device, validate=validate, modules=self.modules,
            training=training, sizes=self._sizes if sizes is None else sizes,
        )  # fmt: skip

    # --- other views of it --------------------------------------------------------------------------------------------

    def to(self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Problem:
        """The same problem in another floating dtype or on another device; a model that is a module is copied there.

        Raises:
            ArgumentError: if there is no such dtype or device.
        """
        where = _device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ArgumentError(
                f"dtype must be a floating torch dtype, got {dtype!r}. Fix: pass for example torch.float64."
            )
        if (dtype in (None, self.dtype)) and (where in (None, self.device)):
            return self
        args = [data.cast(value, dtype=dtype, device=where) for value in self.args]
        kwargs = {name: data.cast(value, dtype=dtype, device=where) for name, value in self.kwargs.items()}
        with _default_dtype(dtype):
            moved = Problem(data.cast(self.program, dtype=dtype, device=where), *args, **kwargs)
        moved._set("info", self.info)
        moved._set("name", self.name)
        moved._set("source", self.source)
        moved._set("stream", self.stream)
        return moved

    def renamed(self, name: str, *, source: Mapping[str, Any] | None = None) -> Problem:
        """The same problem under another name, and with a note of where it can be had again."""
        copy = object.__new__(Problem)
        copy.__dict__.update(self.__dict__)
        copy._set("name", name)
        copy._set("source", source)
        return copy

    def batch(self, indices: Tensor | None = None, *, plate: str | None = None) -> Batch:
        """The problem on a subset of the rows of one plate, scaled so that its density estimates the whole.

        Args:
            indices: rows, shape ``(b,)``, integers; ``None`` for all.
            plate: the plate that is subsampled; needed only where several could be.
        """
        return Batch.of(self, indices, plate=plate)

    @cached_property
    def whole(self) -> Batch:
        """The problem on all its rows, also where the model subsamples by itself."""
        return Batch(self.args, self.kwargs, full_plates(self))

    def _check_names(self) -> None:
        known = set(self.sites) | set(self.quantities)
        for name in self.info.dims:
            if name not in known:
                raise ProblemError(
                    f"dims names {name!r}, which is no site and no quantity of {self.name}. "
                    f"Fix: use one of {', '.join(sorted(known))}."
                )
        for name, image in self.info.images.items():
            seen = self.sites.get(name)
            if seen is None or seen.kind != "observed":
                raise ProblemError(
                    f"images names {name!r}, which is no observed site of {self.name}. "
                    f"Fix: use one of {', '.join(site.name for site in self.observed) or 'none: it observes nothing'}."
                )
            event = seen.shape[len(seen.shape) - seen.event_dim :]
            if math.prod(event) != image.size:
                raise ProblemError(
                    f"images says that a row of {name!r} has {image} pixels, but it has {math.prod(event)} values "
                    f"(event shape {tuple(event)}). Fix: give the height and width of one row, and put its pixels into .to_event()."
                )
        for site, names in self.dims.items():
            for dim, length in zip(names, self.sites[site].shape, strict=True):
                labels = self.coords.get(dim)
                if labels is not None and len(labels) != length:
                    raise ProblemError(
                        f"coords gives {len(labels)} labels for dimension {dim!r}, but site {site!r} has length {length} "
                        f"along it. Fix: give {length} labels."
                    )


class _default_dtype:
    """Sets torch's default dtype for a block, where one is given."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        if self.dtype is not None:
            torch.set_default_dtype(self.dtype)

    def __exit__(self, *exc: object) -> None:
        torch.set_default_dtype(self.before)


def _filled(cell: Any) -> bool:
    """Whether a variable of an enclosing function has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _device(device: str | torch.device | None) -> torch.device | None:
    """The device of that name.

    Raises:
        ArgumentError: if torch has none such.
    """
    if device is None:
        return None
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ArgumentError(f"device {device!r} is not one of torch's. Fix: use 'cpu' or 'cuda'.") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(
            f"device {str(device)!r} is not available: torch sees no CUDA device. Fix: use device='cpu'."
        )
    if chosen.type == "cuda" and forked_after_cuda():
        raise ArgumentError(
            f"device {str(device)!r} cannot be used here: this process was forked from one that had used CUDA. "
            "Fix: start processes by multiprocessing's 'spawn', or let lvm.sweep start them."
        )
    return chosen


def _without_handlers(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model under Pyro's handlers, as in ``poutine.reparam(model, config)``, which take the same arguments."""
    while True:
        if isinstance(model, functools.partial) and _is_handler(model.func):
            model = model.args[-1]
        elif _is_handler(type(model)) and hasattr(model, "fn"):
            model = model.fn
        else:
            return model


def _is_handler(kind: Any) -> bool:
    return str(getattr(kind, "__module__", "")).startswith("pyro.poutine")


def _function(model: Callable[..., Any]) -> Callable[..., Any]:
    """The function that the user wrote, which has a name and what it says about itself."""
    model = _without_handlers(model)
    return _function(model.func) if isinstance(model, functools.partial) else model


def _bind(model: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Maps the model's arguments to their names.

    Raises:
        ProblemError: if the model cannot be called with them.
    """
    called = _without_handlers(model)
    called = called.forward if isinstance(called, torch.nn.Module) else called
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
        shown = signature.replace(parameters=plain, return_annotation=signature.empty)
        raise ProblemError(
            f"{name}{shown} cannot be called with the given data: {error}. "
            f"Fix: lvm.Problem({name}, ...) takes exactly the arguments of the model."
        ) from None
    return {**dict(zip(_positional_names(signature, len(args)), args, strict=True)), **kwargs}


def _positional_names(signature: inspect.Signature, count: int) -> Iterable[str]:
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


def check_problem(value: Any, *, streams: bool = False) -> Problem:
    """Returns ``value`` if it is a problem.

    Args:
        value: what was given as a problem.
        streams: whether its data may be a stream.

    Raises:
        ArgumentError: if it is something else, such as the bare model, or has a stream where none may be.
    """
    if isinstance(value, Problem):
        if value.stream is not None and not streams:
            raise ArgumentError(
                f"the data of {value.name!r} are a stream of {value.stream.size:,} rows, which only lvm.fit can read. "
                "Fix: build a Problem of rows that fit in memory."
            )
        return value
    if callable(value):
        name = getattr(value, "__name__", "model")
        raise ArgumentError(
            f"expected a Problem, got the function {name!r}. Fix: pass lvm.Problem({name}, *data), "
            "the model together with its data."
        )
    raise ArgumentError(
        f"expected a Problem, got {type(value).__name__}. Fix: pass lvm.Problem(model, *data), or lvm.problem(name)."
    )
