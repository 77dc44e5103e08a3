"""A model together with its data, as it was read: what everything that runs the program works on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.pickling import Portable
from pyrolvm._program import data
from pyrolvm._program.binding import function_of, is_filled
from pyrolvm._program.columns import Columns
from pyrolvm._program.image import Image
from pyrolvm._program.imputing import Absent
from pyrolvm._program.labels import Code, Levels
from pyrolvm._program.sites import Parameter, Plate, Site
from pyrolvm._program.streaming import Source

__all__ = ["ModelInfo", "Program", "Quantity"]

Draw = Mapping[str, Tensor]
Quantity = Callable[[Draw], Tensor]


@dataclass(frozen=True)
class ModelInfo:
    """What a model says about itself besides its density."""

    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Sequence[object]] = field(default_factory=dict)
    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    guide: object = None
    images: Mapping[str, Image] = field(default_factory=dict)


class Program(Portable):
    """A joint density with its data fixed; immutable. Built by :class:`~pyrolvm.Problem`.

    Attributes:
        name: the model's name.
        program: the model as it was given.
        model: what inference runs: the same, without predicted sites where it has any, and discrete ones enumerated at once.
        args: positional arguments, as tensors.
        kwargs: keyword arguments, as tensors.
        sites: every sample and deterministic site by name, in the order of the program, with its shape on full data.
        plates: every plate by name.
        parameters: the learnable parameters (``pyro.param``, ``pyro.module``) of the model, by store name.
        info: dims, coords and quantities given by :func:`model`.
        source: the registered name and options it was built from; ``None`` for any other.
        hidden: the value that each predicted site holds in runs of ``model``.
        unused: the entries of masked latents that have no density and that nothing depends on, by site, as masks of their batch.
        bystanders: tensors of the program's own with a gradient that are no parameters of the model.
        stream: where rows come from that are not all in memory, see :func:`pyrolvm.stream`; ``None`` if all are.
        codes: what the numbers of columns of labels and dates stand for, by argument or place in it, such as ``table['school']``.
        labelled: the dimensions that such columns index, with the columns.
        by_name: whether a table was taken apart by the names of its columns.
        missing: ``"latent"`` where observations may be missing, else ``"error"``.
        absent: the missing observations, by the name of the site that stands for them.
    """

    name: str
    program: Callable[..., object]
    model: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: Mapping[str, object]
    sites: Mapping[str, Site]
    plates: Mapping[str, Plate]
    parameters: Mapping[str, Parameter]
    info: ModelInfo
    source: Mapping[str, object] | None
    stream: Source | None
    hidden: Mapping[str, Tensor]
    unused: Mapping[str, Tensor]
    bystanders: tuple[Tensor, ...]
    codes: Mapping[str, Code]
    labelled: Mapping[str, str]
    by_name: bool
    missing: str
    absent: Mapping[str, Absent]
    _arguments: Mapping[str, object]
    _sizes: Mapping[str, int]
    _originals: Mapping[str, object]
    _dtype: torch.dtype

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Problem is immutable, cannot set {name!r}. Fix: build a new Problem.")

    def _attributes(self) -> dict[str, object]:
        """What it is; what has been computed of it is not copied."""
        return {name: self.__dict__[name] for name in Program.__annotations__ if name in self.__dict__}

    # --- what it holds ------------------------------------------------------------------------------------------------

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The model's arguments by name, ``*args`` and ``**kwargs`` alike."""
        return MappingProxyType(self._arguments)

    @property
    def columns(self) -> dict[str, Tensor]:
        """The arguments that are tensors, and the columns of tables that are one argument, by name."""
        found: dict[str, object] = dict(self._arguments)
        for value in self._arguments.values():
            if isinstance(value, Columns):
                found |= {str(name): column for name, column in value.items() if str(name) not in found}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def code_of(self, column: str) -> Code | None:
        """What the numbers of a column stand for, where it was one of labels or dates."""
        held = self.columns.get(column)
        return next(
            (
                self.codes[place]
                for place, leaf in data.named_leaves(self._arguments)
                if leaf is held and place in self.codes
            ),
            None,
        )

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
        return self._dtype

    @cached_property
    def device(self) -> torch.device:
        """The device of its data."""
        return next((v.device for v in data.leaves(self._arguments) if isinstance(v, Tensor)), torch.device("cpu"))

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Identified functions of a draw, by name."""
        return self.info.quantities

    @cached_property
    def dims(self) -> dict[str, list[str]]:
        """The names of every dimension of every site: plates by name, then event dimensions."""
        given = {**{name: [f"{name}_at"] for name in self.absent}, **self.info.dims}
        return {name: site.dim_names(self.plates, given.get(name)) for name, site in self.sites.items()}

    @cached_property
    def coords(self) -> dict[str, list[object]]:
        """Labels along named dimensions: those that the model gives, else those of the columns that index them."""
        found = {name: list(labels) for name, labels in self.info.coords.items()}
        sizes = {
            dim: n for name, dims in self.dims.items() for dim, n in zip(dims, self.sites[name].shape, strict=True)
        }
        for dim, column in self.labelled.items():
            code = self.codes.get(column)
            if dim not in found and isinstance(code, Levels) and dim in sizes:
                found[dim] = code.along(sizes[dim])
        for name, one in self.absent.items():
            along = self.dims.get(one.site)
            found.setdefault(f"{name}_at", one.labels(found.get(along[0]) if along else None))
        return found

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of the data."""
        return data.fingerprint(self.arguments.values())

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What others have found out about it and need not find again, such as frames and symmetries; no part of it."""
        return {}

    @property
    def function(self) -> Callable[..., object]:
        """The model without the handlers and fixed arguments around it: the function that its author wrote."""
        return function_of(self.program)

    @cached_property
    def modules(self) -> Mapping[str, torch.nn.Module]:
        """The modules that the model is or holds: itself, its arguments, and those of the function it was defined in, by name."""
        inner = function_of(self.program)
        cells = (
            zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True) if hasattr(inner, "__code__") else ()
        )
        held = {name: cell.cell_contents for name, cell in cells if is_filled(cell)}
        held |= {"model": inner, **self.arguments}
        owner = getattr(inner, "__self__", None)
        held |= {"model": owner} if isinstance(owner, torch.nn.Module) else {}
        return {name: value for name, value in held.items() if isinstance(value, torch.nn.Module)}

    def among_handlers(self, values: Mapping[str, Tensor], *, whole: bool) -> AbstractContextManager[None]:
        """A :func:`pyrolvm._base.runtime.among_handlers` in the dtype and on the device of the data.

        Args:
            values: unconstrained values of parameters by store name.
            whole: whether open plates have the sizes of the data.
        """
        sizes = self._sizes if whole else None
        return runtime.among_handlers(values, dtype=self.dtype, device=self.device, sizes=sizes)

    def session(
        self,
        *,
        seed: int | None = None,
        params: Mapping[str, Tensor] | None = None,
        validate: bool = False,
        training: bool = False,
        sizes: Mapping[str, int] | None = None,
    ) -> AbstractContextManager[None]:
        """A :func:`pyrolvm._base.runtime.session` in the dtype and on the device of the data; modules are lent, not given.

        They are in evaluation mode, without dropout, unless ``training`` leaves them in the modes that they are in.
        """
        return runtime.session(
            seed=seed, params=params, dtype=self.dtype, device=self.device, validate=validate, modules=self.modules,
            training=training, sizes=self._sizes if sizes is None else sizes, bystanders=self.bystanders,
        )  # fmt: skip
