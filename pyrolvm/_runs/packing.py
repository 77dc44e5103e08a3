"""Nested Python values as JSON and tensors, and back: numbers to the last bit, and nothing that could run.

What is packed is ``None``, truth values, numbers, text, bytes, tensors, NumPy arrays, lists, tuples and dictionaries of such. Anything
else is an error, and no file can name a type.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import StoreError

__all__ = ["pack", "unpack", "write_tensors"]

_TAG = "!"


def pack(value: object, tensors: dict[str, Tensor]) -> object:
    """``value`` as what JSON holds; tensors go into ``tensors``, under names that it refers to.

    Raises:
        TypeError: if a part of it is of a type that is not packed.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and not isinstance(value, np.generic):
        return value  # JSON's text gives a float back to the last bit, and any integer
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach()
        return {_TAG: "tensor", "name": name, "device": value.device.type}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        name = str(len(tensors))
        tensors[name] = torch.from_numpy(np.array(array, order="C"))
        return {_TAG: "scalar" if isinstance(value, np.generic) else "array", "name": name}
    if isinstance(value, bytes):
        return {_TAG: "bytes", "text": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [pack(one, tensors) for one in value]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "items": [pack(one, tensors) for one in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and _TAG not in value:
            return {key: pack(one, tensors) for key, one in value.items()}
        items = [[pack(key, tensors), pack(one, tensors)] for key, one in value.items()]
        return {_TAG: "dict", "items": items}
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def unpack(value: object, tensors: Mapping[str, Tensor]) -> object:
    """What :func:`pack` was given.

    Raises:
        StoreError: if it is nothing that :func:`pack` makes.
    """
    if isinstance(value, list):
        return [unpack(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    try:
        if kind is None:
            return {key: unpack(one, tensors) for key, one in value.items()}
        if kind == "tensor":
            return tensors[value["name"]]
        if kind == "array":
            return tensors[value["name"]].numpy()
        if kind == "scalar":
            return tensors[value["name"]].numpy()[()]
        if kind == "bytes":
            return base64.b64decode(value["text"])
        if kind == "tuple":
            return tuple(unpack(one, tensors) for one in value["items"])
        if kind == "dict":
            return {unpack(key, tensors): unpack(one, tensors) for key, one in value["items"]}
    except (KeyError, TypeError, ValueError):
        pass
    raise StoreError(f"a stored value of kind {kind!r} cannot be read. Fix: restore the file, or run again.")


def write_tensors(tensors: Mapping[str, Tensor], file: BinaryIO) -> None:
    """Writes tensors as safetensors; those that share memory are written apart.

    Raises:
        OSError: if the disk does not take it.
    """
    from safetensors.torch import save

    file.write(save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}))
