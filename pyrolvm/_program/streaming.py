"""Data that do not fit in memory: the columns of a torch ``Dataset`` or ``DataLoader`` as arguments of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyrolvm._base import randomness
from pyrolvm._base.errors import ArgumentError, DataError, positive_int
from pyrolvm._base.habits import verb

__all__ = ["Column", "Passes", "Source", "Stream", "heads", "stream"]

READ = 65_536
"""Rows that are read at a time from a data set of tensors, which may be mapped from a file."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches that come one after another; see :func:`stream`.

    Attributes:
        loader: what gives them.
        size: rows in all.
        head: the first batch, column by column, each of shape ``(batch_size, ...)``.
    """

    loader: Any
    size: int
    head: tuple[Tensor, ...]

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        return len(self.head[0])

    def whole(self) -> Iterator[tuple[Tensor, ...]]:
        """Every row once, batch by batch: those of a last, shorter batch too, and in order, where the data set can be asked for both.

        Raises:
            DataError: if items are no tensors.
        """
        loader = self.loader
        rows: Any = getattr(loader, "dataset", None)
        if isinstance(rows, TensorDataset):
            for start in range(0, len(rows), READ):
                yield _columns(rows[start : start + READ])
            return
        if isinstance(loader, DataLoader) and loader.batch_size is not None:
            loader = DataLoader(
                rows, batch_size=loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn
            )
        for batch in loader:
            yield _columns(batch)

    def __iter__(self) -> Iterator[Column]:
        """Its columns, as arguments of a model: ``lvm.Problem(model, *lvm.stream(dataset, batch_size=100))``."""
        return (Column(self, i) for i in range(len(self.head)))


class Passes:
    """Batches of a stream in endless passes, from a place that can be noted and gone back to.

    Batches of fewer rows, such as the last of a pass, are left out. The order follows the generators of torch, NumPy and Python, so
    that a seed repeats it.

    Args:
        stream: the stream.
        made: what becomes of the columns of a batch.
    """

    def __init__(self, stream: Stream, made: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
        self.stream, self.made = stream, made
        self._pass: Iterator[Any] | None = None
        self._began: dict[str, Any] = {}
        self._taken, self._whole = 0, False

    def __iter__(self) -> Passes:
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        """The tensors of the next batch.

        Raises:
            DataError: if a pass has no batch of the size of the first one.
        """
        while True:
            if self._pass is None:
                self._began, self._taken, self._whole = randomness.random_states(), 0, False
                self._pass = iter(self.stream.loader)
            for batch in self._pass:
                self._taken += 1
                columns = _columns(batch)
                if len(columns[0]) == self.stream.batch_size:
                    self._whole = True
                    return self.made(columns)
            if not self._whole:
                raise DataError(
                    f"a pass over the stream had no batch of {self.stream.batch_size} rows. Fix: give a dataset that can be read "
                    "again, and is no shorter the second time."
                )
            self._pass = None

    def state(self) -> dict[str, Any]:
        """The random numbers that the pass began with, and how many batches were taken since."""
        return {"began": self._began, "taken": self._taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Begins the same pass again and reads over the batches that were taken; random numbers of others stay as they are."""
        if not state["began"]:
            return
        self._began, self._taken, self._whole = dict(state["began"]), state["taken"], True
        with randomness.random_state(0):
            randomness.restore_random_states(self._began)
            self._pass = iter(self.stream.loader)
            for _ in range(self._taken):
                next(self._pass, None)


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a stream, as an argument of a model."""

    stream: Stream
    index: int


@dataclass(frozen=True)
class Source:
    """Which arguments of a problem come from a stream.

    Attributes:
        stream: the stream.
        columns: the stream's column of each argument that comes from it.
    """

    stream: Stream
    columns: Mapping[str, int]

    @property
    def size(self) -> int:
        """Rows in all."""
        return self.stream.size


@verb
def stream(
    dataset: Any, *, batch_size: int | None = None, size: int | None = None, shuffle: bool = True, workers: int = 0
) -> Stream:
    """Data of a model that are read batch by batch, for a data set that does not fit in memory.

        >>> images = lvm.stream(dataset, batch_size=128)
        >>> problem = lvm.Problem(model, *images, decoder)  # a column of the data set for each argument
        >>> fit = lvm.fit(problem)

    A fit scales each batch to all ``size`` rows. All else, such as the density of each row in the result, is of the first
    batch alone, which the problem holds. So latents have to be those of rows; or a few that all rows share, as in a regression, whose
    posterior passes over all rows give. These read a data set in order, the last rows too, and it must be the same in every pass.

    Args:
        dataset: a torch ``Dataset`` whose items are tensors, numbers or tuples of them; an ``IterableDataset``; or a
            ``DataLoader``, whose batches are taken as they come.
        batch_size: rows of a batch; not for a ``DataLoader``, which has its own.
        size: rows in all, where the data set cannot tell.
        shuffle: whether each pass takes the rows in another order; an ``IterableDataset`` has its own.
        workers: processes that read ahead; 0 for none.

    Raises:
        ArgumentError: if the size is unknown, or an argument is out of range.
        DataError: if items are no tensors, or there are fewer rows than ``batch_size``.
    """
    if size is not None:
        positive_int("size", size)
    loader = _loader(dataset, batch_size, shuffle, workers)
    with randomness.random_state(0):
        first = next(iter(loader), None)
    if first is None:
        raise DataError(
            f"the stream of {type(dataset).__name__} has no batch of {batch_size} rows. Fix: lower batch_size, or give more rows."
        )
    head = _columns(first)
    total = _size(dataset, size)
    if total < len(head[0]):
        raise ArgumentError(
            f"size={total} is less than the {len(head[0])} rows of the first batch. Fix: pass the number of all rows."
        )
    return Stream(loader, total, head)


def heads(bound: Mapping[str, Any]) -> tuple[dict[str, Any], Source | None]:
    """Arguments with the first batch in place of a stream's columns, and where those come from.

    Raises:
        ArgumentError: if a whole stream of several columns is one argument, or there are columns of two streams.
    """
    found: dict[str, Column] = {}
    for name, value in bound.items():
        if isinstance(value, Stream):
            if len(value.head) > 1:
                raise ArgumentError(
                    f"argument {name!r} is a stream of {len(value.head)} columns. Fix: pass *stream, an argument for each column."
                )
            found[name] = Column(value, 0)
        elif isinstance(value, Column):
            found[name] = value
    if not found:
        return dict(bound), None
    if len({id(column.stream) for column in found.values()}) > 1:
        raise ArgumentError(
            f"arguments {', '.join(map(repr, found))} come from different streams, whose rows need not match. "
            "Fix: make one stream, of a dataset whose items are tuples."
        )
    first = next(iter(found.values())).stream
    given = {name: first.head[found[name].index] if name in found else value for name, value in bound.items()}
    return given, Source(first, {name: column.index for name, column in found.items()})


def _loader(dataset: Any, batch_size: int | None, shuffle: bool, workers: int) -> Any:
    if isinstance(dataset, DataLoader):
        if batch_size is not None:
            raise ArgumentError("batch_size is given beside a DataLoader, which has its own. Fix: leave it out.")
        return dataset
    if batch_size is None:
        raise ArgumentError("stream needs batch_size, the rows of a batch. Fix: pass for example batch_size=128.")
    positive_int("batch_size", batch_size)
    positive_int("workers", workers, minimum=0)
    iterable = isinstance(dataset, IterableDataset)
    if not iterable and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ArgumentError(
            f"stream takes a torch Dataset, IterableDataset or DataLoader, got {type(dataset).__name__}. "
            "Fix: give it __len__ and __getitem__, or wrap tensors in torch.utils.data.TensorDataset."
        )
    return DataLoader(
        dataset, batch_size=batch_size, shuffle=None if iterable else shuffle, num_workers=workers, drop_last=True
    )


def _size(dataset: Any, size: int | None) -> int:
    if size is not None:
        return size
    rows: Any = dataset.dataset if isinstance(dataset, DataLoader) else dataset
    try:
        return len(rows)
    except TypeError:
        raise ArgumentError(
            f"a {type(rows).__name__} does not tell how many rows it has, which scales each batch. Fix: pass size=, the rows in all."
        ) from None


def _columns(batch: Any) -> tuple[Tensor, ...]:
    """The columns of a batch.

    Raises:
        DataError: if they are not tensors of the same length.
    """
    columns = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
    for i, column in enumerate(columns):
        if not isinstance(column, Tensor) or not column.dim():
            raise DataError(
                f"column {i} of the stream's batches is a {type(column).__name__}, expected a tensor with a row for each item. "
                "Fix: let the dataset give tensors, numbers or tuples of them."
            )
    if len({len(column) for column in columns}) > 1:
        raise DataError(
            f"columns of the stream's batches have {', '.join(str(len(column)) for column in columns)} rows. "
            "Fix: give each item a row in every column."
        )
    return columns
