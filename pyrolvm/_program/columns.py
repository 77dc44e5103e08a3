"""A table as a model sees it."""

from __future__ import annotations

__all__ = ["Columns"]


class Columns(dict[object, object]):
    """A table as a model sees it: ``table["x"]`` and ``table.x`` are columns, as tensors, and ``len(table)`` is the number of rows."""

    def __len__(self) -> int:
        return next((len(column) for column in self.values() if hasattr(column, "__len__")), 0)

    def __getattr__(self, name: str) -> object:
        if name in self:
            return self[name]
        raise AttributeError(
            f"a table in a model has columns ({', '.join(map(str, self))}) and a length, and no {name!r}: its columns are tensors"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return Columns, (dict(self),)
