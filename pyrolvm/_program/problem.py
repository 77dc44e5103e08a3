"""A model together with its data: one joint density, read once, checked, and never changed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from html import escape
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import ArgumentError, DataError, ProblemError, PyrolvmWarning
from pyrolvm._base.habits import belongs_to
from pyrolvm._base.passing import passed_over
from pyrolvm._compat.torch import forked_after_cuda
from pyrolvm._program import data
from pyrolvm._program.absence import imputed
from pyrolvm._program.batching import Batch
from pyrolvm._program.binding import bind, function_of, written
from pyrolvm._program.frames import asked_by_name, by_name, with_columns
from pyrolvm._program.image import Image
from pyrolvm._program.imputing import Impute
from pyrolvm._program.indexing import labelled
from pyrolvm._program.inspection import Reading, read
from pyrolvm._program.labels import Levels
from pyrolvm._program.moving import move_info, move_program
from pyrolvm._program.names import check_storable
from pyrolvm._program.prediction import AtOnce, Hide, predicted
from pyrolvm._program.program import ModelInfo, Program, Quantity
from pyrolvm._program.streaming import heads
from pyrolvm._program.unused import Fill, unused
from pyrolvm._report.webpage import in_notebook, table

__all__ = ["Problem", "check_problem", "model"]

_Model = TypeVar("_Model", bound=Callable[..., Any])

_ATTRIBUTE = "__pyrolvm_model__"
_MISSING = ("error", "latent")


def model(
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[object]] | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    guide: object = None,
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


class Problem(Program):
    """A joint density with its data fixed; immutable.

    ``Problem(model, *args, **kwargs)`` takes what ``model(*args, **kwargs)`` would. The model is run once, with
    validation on, to read its sites, supports and plates, so that what is wrong with model or data is said here and
    not after an hour of inference.

    ``Problem(model, table)`` takes a data frame whole: where every argument that the model requires, and that is not given by keyword,
    is the name of a column, the model gets its columns by name. Otherwise the table is one argument: a matrix, or, where it holds
    more than numbers or the model asks it for a column, ``table["x"]``, its columns, of which ``len(table)`` is the number of rows.

    Args:
        model: a Pyro function, or an ``nn.Module`` that is called like one.
        *args: the model's positional arguments. Columns of categories or text become codes from 0 on, and the labels name the
            dimensions that the codes index; dates become days since midnight of the first. Lists, NumPy arrays and pandas objects
            become tensors; floats take torch's default dtype, or the dtype of floating tensors among the arguments. Where float32 would
            lose something of floats of 64 bits, or of integers that the model uses as floats, all floats are float64: where distinct
            values would become equal, or values move by more than a thousandth of their column's standard deviation.
        missing: ``"latent"`` leaves observations that are missing (NaN, or what their container marks so) to the model. Where nothing
            else depends on them they are left out of the density and drawn afterwards; where something does, those of continuous
            sites are latents. Either way they are site ``<site>_missing`` of the result, with coordinates of where each was. By
            default they are an error. An argument of the model that is called so is given by position.
        **kwargs: the model's keyword arguments, converted likewise.

    Raises:
        DataError: if data are ragged, empty, not numeric, non-finite, missing, or of mixed dtype or device; or if the model takes a
            negative number among them for an index.
        ProblemError: if the model does not run, or its density is not what its author can have meant.
    """

    def __init__(self, model: Callable[..., Any], /, *args: Any, missing: object = "error", **kwargs: Any) -> None:
        if isinstance(model, Problem):
            raise ProblemError("model is a Problem already. Fix: use it as it is, or pass its function, problem.model.")
        if not callable(model):
            hint = belongs_to(model)
            raise ProblemError(
                f"model must be a function, got {type(model).__name__}{'; ' + hint if hint else ''}. Fix: pass the Pyro "
                "function itself, "
                "lvm.Problem(model, *data)."
            )
        if isinstance(model, Impute):
            model, missing = model.inner, "latent"
        if missing not in _MISSING:
            raise ArgumentError(
                f'missing must be "error" or "latent", got {missing!r}. Fix: pass missing="latent" to leave missing observations to '
                "the model; an argument of the model that is called so is given by position."
            )
        inner = function_of(model)
        name = str(getattr(inner, "__name__", type(inner).__name__))
        info = getattr(inner, _ATTRIBUTE, None) or ModelInfo()
        _hold(self, name=name, model=model, program=model, info=info, source=None)
        with runtime.undisturbed():
            taken, named, apart = by_name(model, args, kwargs)
            bound, stream = heads(bind(model, name, taken, named))
            _hold(
                self,
                stream=stream,
                by_name=apart,
                missing=missing,
                codes=MappingProxyType({}),
                labelled=MappingProxyType({}),
            )
            bound = with_columns(bound)
            try:
                self._settle(bound, len(taken), None)
            except ProblemError as error:
                columns = asked_by_name(bound, error)
                if columns is None:
                    raise
                self._settle(columns, len(taken), None)
            _hold(
                self,
                labelled=MappingProxyType(
                    labelled(self, {n: c for n, c in self.codes.items() if isinstance(c, Levels)})
                ),
            )
            self._check_names()

    def _settle(self, bound: Mapping[str, object], count: int, dtype: torch.dtype | None) -> None:
        """Takes data in, ``count`` of them positional, and reads the model: in ``dtype``, or in one that loses nothing that matters."""
        gaps = self.missing == "latent"
        converted = data.convert(bound, dtype=dtype, gaps=gaps)
        reading = self._reading(converted, count)
        if reading.lossy and dtype is None and converted.dtype == torch.float32:
            data.check_no_module(bound, reading.lossy)
            lost, converted = reading.lossy, data.convert(bound, dtype=torch.float64, gaps=gaps)
            reading = self._reading(converted, count)
            if not reading.lossy:
                warnings.warn(f"{lost}. The problem is in float64 instead.", PyrolvmWarning, stacklevel=3)
        if reading.lossy and dtype is None:
            raise DataError(
                f"{reading.lossy}. Fix: subtract an origin before, or keep the values in float64 in the model."
            )
        if reading.lossy:
            warnings.warn(
                f"{reading.lossy}. Fix: subtract an origin before, or use float64.", PyrolvmWarning, stacklevel=3
            )
        _hold(self, _sizes={plate.name: plate.size for plate in reading.plates.values() if plate.open})
        later = {n: one for n, one in self.absent.items() if not one.latent}
        after = predicted(self, reading.sites) | {
            n: torch.full((len(one.index),), one.placeholder, dtype=self.dtype, device=self.device)
            for n, one in later.items()
        }
        sites = {n: replace(site, kind="predicted") if n in after else site for n, site in reading.sites.items()}
        runs = AtOnce()(self.program) if reading.one_by_one else self.program
        _hold(
            self, hidden=MappingProxyType(after), model=Hide(after)(runs) if after else runs, sites=MappingProxyType(sites),
            plates=MappingProxyType(reading.plates), parameters=MappingProxyType(reading.parameters),
            bystanders=tuple(reading.bystanders),
        )  # fmt: skip
        _hold(self, unused=MappingProxyType(unused(self, sites) if reading.masked else {}))
        if self.unused:
            _hold(self, model=Fill(self.unused)(self.model))

    def _reading(self, converted: data.Converted, count: int) -> Reading:
        """Holds converted data, and reads the model with them; an error says what was made of the data where that may matter."""
        for name in ("dtype", "device", "modules", "fingerprint"):
            self.__dict__.pop(name, None)
        named = list(converted.values.items())
        _hold(
            self, args=tuple(value for _, value in named[:count]), kwargs=MappingProxyType(dict(named[count:])),
            _arguments=converted.values, _originals=converted.originals, _dtype=converted.dtype, bystanders=(), _sizes={},
            codes=MappingProxyType({**self.codes, **converted.codes}), unused=MappingProxyType({}), model=self.program,
            absent=MappingProxyType({}),
        )  # fmt: skip
        try:
            impute = imputed(self) if self.missing == "latent" else None
            if impute is not None:
                _hold(self, program=impute, model=impute, absent=MappingProxyType(impute.absent))
            return read(self)
        except ProblemError as error:
            notes = list(converted.notes.values()) + (
                [f"{converted.widened}, so all floats are float64"] if converted.widened else []
            )
            if error.__cause__ is None or not notes:
                raise
            raise type(error)(f"{error} Note: {'; '.join(notes)}.") from error.__cause__

    def __repr__(self) -> str:
        latent = ", ".join(f"{site.name}{list(site.shape) or ''}" for site in self.latents)
        observed = ", ".join(f"{site.name}{list(site.shape) or ''}" for site in self.observed)
        after = "".join(f"; predicted {site.name}{list(site.shape) or ''}" for site in self.predicted)
        known = f"latent {latent or 'none'}; observed {observed or 'none'}{after}"
        return f"Problem({self.name}: {known}; {self.unconstrained_size} unknowns)"

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = {
            site.name: {
                "is": site.kind,
                "distribution": site.distribution,
                "dimensions": " x ".join(f"{d} {n}" for d, n in zip(self.dims[site.name], site.shape, strict=True)),
            }
            for site in self.sites.values()
        }
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in self.columns.items())
        facts = f"{self.unconstrained_size} unknowns; {str(self.dtype).removeprefix('torch.')} on {self.device}; data {sizes or 'none'}"
        title = f"<b>Problem {escape(self.name)}</b><p class=small>{escape(facts)}</p>"
        return in_notebook(f"{title}{table(pd.DataFrame.from_dict(rows, orient='index'))}")

    # --- other views of it --------------------------------------------------------------------------------------------

    def to(self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Problem:
        """The same problem in another floating dtype or on another device.

        A model that is a module is copied there, and so is what a function refers to: the tensors and modules of its closure, its
        defaults and its globals. Nothing of the caller's is moved.

        Data are converted from what was given, so that float64 has the digits that float32 lost.

        Raises:
            ArgumentError: if there is no such dtype or device, or a dtype has too few digits.
        """
        where = _device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ArgumentError(
                f"dtype must be a floating torch dtype, got {dtype!r}. Fix: pass for example torch.float64."
            )
        if dtype is not None and dtype not in data.FLOATING:
            raise ArgumentError(
                f"dtype {dtype} has too few digits for densities. Fix: pass torch.float32 or torch.float64."
            )
        if (dtype in (None, self.dtype)) and (where in (None, self.device)):
            return self
        bound = {
            name: data.cast(value, dtype=None, device=where, modules=False) for name, value in self._originals.items()
        }
        moved = _hold(
            object.__new__(Problem), name=self.name, source=self.source, stream=self.stream, codes=self.codes,
            labelled=self.labelled, by_name=self.by_name, missing=self.missing,
            info=move_info(self.info, dtype=dtype, device=where),
            program=move_program(written(self.program), dtype=dtype, device=where),
        )  # fmt: skip
        with runtime.undisturbed(), runtime.default_dtype(dtype):
            bound = {name: data.cast_modules(value, dtype=dtype, device=where) for name, value in bound.items()}
            moved._settle(bound, len(self.args), dtype or self.dtype)
            moved._check_names()
        return moved

    def renamed(self, name: str, *, source: Mapping[str, object] | None = None) -> Problem:
        """The same problem under another name, and with a note of where it can be had again."""
        return _hold(self.__copy__(), name=name, source=source)

    def replace(
        self, *, name: str | None = None, info: ModelInfo | None = None, model: Callable[..., object] | None = None
    ) -> Problem:
        """The same problem with something else in the place of what is given; nothing is read or checked again.

        Args:
            name: its name.
            info: what its model says about itself.
            model: what inference runs, on the same sites.
        """
        given = {"name": name, "info": info, "model": model}
        changed = _hold(self.__copy__(), **{key: value for key, value in given.items() if value is not None})
        for computed in ("dims", "coords", "kept") if info is not None or model is not None else ():
            changed.__dict__.pop(computed, None)
        return changed

    def batch(self, indices: Tensor | None = None, *, plate: str | None = None) -> Batch:
        """The problem on a subset of the rows of one plate, scaled so that its density estimates the whole.

        Args:
            indices: rows, shape ``(b,)``, integers; ``None`` for all.
            plate: the plate that is subsampled; needed only where several could be.
        """
        return self.whole if indices is None else Batch.of(self, indices, plate=plate)

    @cached_property
    def whole(self) -> Batch:
        """The problem on all its rows, also where the model subsamples by itself."""
        return Batch.of(self, None)

    def _check_names(self) -> None:
        check_storable(self.name, self.sites, self.plates, self.quantities)
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


def _hold(problem: Problem, **fields: Any) -> Problem:
    """Gives a problem that is being made its attributes."""
    for name, value in fields.items():
        object.__setattr__(problem, name, value)
    return problem


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
    if chosen.type not in ("cpu", "cuda") and not _present(chosen):
        raise ArgumentError(f"device {str(device)!r} is not available here. Fix: use device='cpu'.")
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


def _present(device: torch.device) -> bool:
    """Whether this installation of torch holds tensors with values on a device."""
    try:
        return torch.zeros(1, device=device).cpu().numel() == 1 and device.type != "meta"
    except Exception:
        passed_over("of the many kinds that a backend that is not there raises; the device's name is what matters")
        return False


def check_problem(value: object, *, streams: bool = False) -> Problem:
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
    hint = belongs_to(value)
    raise ArgumentError(
        f"expected a Problem, got {type(value).__name__}{'; ' + hint if hint else ''}. Fix: pass lvm.Problem(model, *data), or "
        "lvm.problem(name)."
    )
