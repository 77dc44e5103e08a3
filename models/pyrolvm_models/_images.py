"""Images that deep models are shown by default, and checks of those that users bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data, datasets

__all__ = ["SOURCES", "SPLITS", "choose", "labels_of", "pixels_of", "places", "sizes", "source", "values"]

SOURCES: dict[str, Callable[[], datasets.Images]] = {
    "digits": datasets.digits,
    "mnist": datasets.mnist,
    "binarized_mnist": datasets.binarized_mnist,
    "omniglot": datasets.omniglot,
}
"""Sets of images by name."""

SPLITS = ("train", "valid", "test")


def choose(owner: str, option: str, value: Any, known: Any) -> str:
    """Returns an option that has to be one of some names.

    Raises:
        ArgumentError: It is none of them.
    """
    if value not in known:
        listing = ", ".join(repr(name) for name in known)
        raise lvm.ArgumentError(f"option {option!r} of problem {owner!r} is {value!r}. Fix: use one of {listing}.")
    return str(value)


def sizes(owner: str, option: str, value: Any) -> tuple[int, ...]:
    """Returns an option that is one or several sizes of layers, as a tuple.

    Raises:
        ArgumentError: It is neither.
    """
    found = (value,) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if not found:
        raise lvm.ArgumentError(
            f"option {option!r} of problem {owner!r} is {value!r}. Fix: give sizes of layers, for example (200, 200)."
        )
    return tuple(_data.check_count(owner, option, size) for size in found)


def source(owner: str, data: str, split: str, images: int | None) -> tuple[datasets.Images, Tensor, Tensor | None]:
    """Images by name: the set, the grey levels of one part ``(n, pixels)``, and its labels ``(n,)`` where there are any.

    Raises:
        ArgumentError: There is no such set or part, or it has fewer than ``images``.
    """
    found = SOURCES[choose(owner, "data", data, SOURCES)]()
    levels = found.part(choose(owner, "split", split, SPLITS))
    labels: Tensor | None = getattr(found, f"{split}_labels")
    if images is not None:
        count = _data.check_count(owner, "images", images, len(levels))
        levels, labels = levels[:count], None if labels is None else labels[:count]
    return found, levels, labels


def places(height: int, width: int) -> list[str]:
    """Names of pixels, by row and column, in the order of an image's numbers."""
    return [f"{row},{column}" for row in range(height) for column in range(width)]


def values(levels: Tensor, count: int, likelihood: str) -> Tensor:
    """Grey levels as a likelihood takes them: binary by a threshold at half of all levels, intensities in [0, 1], or as they are."""
    dtype = torch.get_default_dtype()
    if likelihood in ("bernoulli", "neighbours"):
        return (levels >= count // 2).to(dtype)
    return levels.to(dtype) / (count - 1) if likelihood == "gaussian" else levels.to(dtype)


def pixels_of(owner: str, x: Any, height: int | None, width: int | None) -> tuple[Tensor, int, int]:
    """Images ``(n, height, width)`` or ``(n, height * width)`` as rows of pixels, with their height and width.

    Raises:
        DataError: They are not such an array.
        ArgumentError: The sides do not fit the pixels.
    """
    array = torch.as_tensor(x)
    if array.dim() not in (2, 3) or not array.numel():
        raise lvm.DataError(
            f"{owner}: x has shape {tuple(array.shape)}, expected (images, height, width) or (images, height * width). "
            "Fix: reshape it; several channels are not supported."
        )
    array = array.to(torch.get_default_dtype()) if not array.is_floating_point() else array
    if array.dim() == 3:
        height, width = array.shape[1:]
        array = array.reshape(len(array), -1)
    pixels = array.shape[1]
    if height is None or width is None:
        side = round(pixels**0.5)
        height, width = (side, side) if side * side == pixels else (1, pixels)
    if height * width != pixels:
        raise lvm.ArgumentError(
            f"{owner}: images have {pixels} pixels, but height={height} times width={width} is {height * width}. "
            "Fix: give the sides of the images."
        )
    bad = ~torch.isfinite(array)
    if bool(bad.any()):
        row, pixel = (int(i) for i in bad.nonzero()[0])
        raise lvm.DataError(
            f"{owner}: pixel {pixel} of image {row} is {float(array[row, pixel])}, one of {int(bad.sum())} that are not finite. "
            "Fix: drop or repair these images."
        )
    return array, height, width


def labels_of(owner: str, labels: Any, rows: int, classes: int | None = None) -> tuple[Tensor, int]:
    """Class labels ``(rows,)`` as integers, and the number of classes, none of which is empty.

    Raises:
        DataError: They are not whole, too few or many, out of range, or a class has no row.
    """
    array = torch.as_tensor(labels)
    if array.dim() != 1 or len(array) != rows:
        raise lvm.DataError(
            f"{owner}: labels have shape {tuple(array.shape)}, expected ({rows},). Fix: give one for each image."
        )
    if array.is_floating_point() and bool((array != array.round()).any()):
        raise lvm.DataError(f"{owner}: labels are not whole numbers. Fix: number the classes from 0.")
    found = array.long()
    count = int(found.max()) + 1 if classes is None else classes
    bad = (found < 0) | (found >= count)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise lvm.DataError(
            f"{owner}: label {row} is {int(found[row])}, expected 0 to {count - 1}. Fix: number the classes from 0, or give classes=."
        )
    empty = (torch.bincount(found, minlength=count) == 0).nonzero().flatten().tolist()
    if empty:
        raise lvm.DataError(
            f"{owner}: class {empty[0]} has no image{'' if len(empty) == 1 else f', nor have {len(empty) - 1} more'}, of {count} "
            "classes. Fix: give at least one image of each, or number the classes without gaps."
        )
    return found, count
