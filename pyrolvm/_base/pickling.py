"""Problems, guides and results in other processes: by ``pickle``, cloudpickle, joblib and multiprocessing, and by ``copy``.

What a user wrote is often a function of a script or a notebook, a lambda or a closure, which ``pickle`` cannot name. Such
objects therefore travel as bytes of cloudpickle's, whoever pickles them. Tensors go along by value: no memory is shared.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
import weakref
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide

from pyrolvm._base.errors import StoreError
from pyrolvm._base.passing import passed_over

__all__ = ["Portable", "dumps"]

_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)
"""Whether an object is part of one that is packed already, so that what both hold stays one thing."""


class Portable:
    """Pickles and copies an object by its attributes, which may be proxies of mappings; subclasses may name fewer."""

    def _attributes(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __getstate__(self) -> dict[str, Any]:
        """The attributes, mappings that cannot be changed as dictionaries, and which of them these are."""
        state = self._attributes()
        fixed = [name for name, value in state.items() if isinstance(value, MappingProxyType)]
        return {**state, **{name: dict(state[name]) for name in fixed}, "": fixed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        fixed = state.pop("")
        self.__dict__.update({**state, **{name: MappingProxyType(state[name]) for name in fixed}})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As bytes of its own; inside of such bytes, by its attributes.

        Raises:
            StoreError: if something in it cannot be pickled, which is named.
        """
        if _INSIDE.get():
            return _blank, (type(self),), self.__getstate__()
        try:
            return pickle.loads, (dumps(self),)
        except Exception as error:  # whatever an object says about itself when it is pickled
            raise StoreError(
                f"{type(self).__name__} {getattr(self, 'name', '')!r} cannot be pickled: {self._culprit()}"
                f"{type(error).__name__}: {error}. Fix: build it in the other process, from its data; a result can be saved "
                "there by result.save(path), and read here by lvm.load(path)."
            ) from error

    def __copy__(self) -> Any:
        """Another object with the same attributes."""
        new = _blank(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy that shares functions alone, and streams of data."""
        new = memo[id(self)] = _blank(type(self))
        state = self.__getstate__()
        if state.get("stream") is not None:
            memo[id(state["stream"])] = state["stream"]
        # A partial application is a function too; to copy what it holds would empty an AutoGuide, in the original as well.
        memo.update({id(value): value for value in state.values() if isinstance(value, functools.partial)})
        new.__setstate__(copy.deepcopy(state, memo))
        return new

    def _culprit(self) -> str:
        """The first attribute that cannot be pickled, in words."""
        for name, value in self._attributes().items():
            try:
                dumps(value)
            except Exception:
                passed_over("it is said which attribute holds what cannot be pickled")
                return f"its {name} holds what cannot, "
        return ""


def dumps(value: Any) -> bytes:
    """A value as bytes that ``pickle.loads`` reads; functions of scripts and notebooks go along by value."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, weakref.ReferenceType):
                return _weak(value)
            if isinstance(value, AutoGuide):  # whose own way takes the model out of the original, too
                return _blank, (type(value),), dict(value.__dict__), None, None, torch.nn.Module.__setstate__
            return super().reducer_override(value)

    file, token = io.BytesIO(), _INSIDE.set(True)
    try:
        Pickler(file).dump(value)
    finally:
        _INSIDE.reset(token)
    return file.getvalue()


def _blank(kind: type) -> Any:
    return object.__new__(kind)


def _weak(reference: weakref.ReferenceType[Any]) -> Any:
    """How to pickle a weak reference: Pyro's from parameters to themselves are dropped, as it makes them when it needs them."""
    referent = reference()
    if referent is None or isinstance(referent, torch.Tensor):
        return _nothing, ()
    return weakref.ref, (referent,)


class _Nothing:
    """What a weak reference was that is of no use any more."""

    def __call__(self) -> None:
        """Returns nothing, as a dead reference does."""


def _nothing() -> _Nothing:
    return _Nothing()
