"""What an encoder reads: the data that belong to the rows of a plate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyrolvm import GuideError, Problem
from pyrolvm_guides._layout import Layout

__all__ = ["Features", "row_plates"]

_CLIP = 10.0


def row_plates(layout: Layout, problem: Problem) -> list[str]:
    """The plates with latent sites and data, the largest first."""
    local = {name for latent in layout.latents for name in latent.plates}
    known = [name for name in layout.plates if name in local and (_keys(layout, problem, name) or _sites(layout, name))]
    return sorted(known, key=lambda name: -layout.plates[name].size)


def _arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    return {**{str(i): value for i, value in enumerate(args)}, **kwargs}


def _keys(layout: Layout, problem: Problem, plate: str) -> list[str]:
    given = _arguments(problem.args, problem.kwargs)
    return [key for key in layout.rows_of(plate) if isinstance(given[key], Tensor)]


def _sites(layout: Layout, plate: str) -> list[str]:
    size = layout.plates[plate].size
    names = []
    for name, (value, event_dim, plates) in layout.observed.items():
        axis = layout.plates[plate].dim - event_dim
        if plate in plates and value.dim() >= -axis and value.shape[axis] == size:
            names.append(name)
    return names


class Features(nn.Module):
    """Standardised features of the rows of one plate.

    They come from the tensor arguments whose leading dimension is the plate's size; if there is none, from the
    observed sites inside the plate, kept from the time the guide was built.

    Args:
        layout: the model's layout.
        problem: the model with its data.
        plate: the plate's name.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, layout: Layout, problem: Problem, plate: str) -> None:
        super().__init__()
        self.like = layout.start
        self.plate = plate
        self.size = layout.plates[plate].size
        self.keys = _keys(layout, problem, plate)
        kept = None
        if not self.keys:
            kept = torch.cat([self._observed(layout, name) for name in _sites(layout, plate)], dim=-1)
        self.register_buffer("kept", kept, persistent=False)
        rows = self._data(problem.args, problem.kwargs)
        self.width = rows.shape[-1]
        sd = rows.std(dim=0, correction=0)
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("sd", torch.where(sd > 0, sd, torch.ones_like(sd)))

    def forward(self, indices: Tensor, args: Any, kwargs: Any) -> Tensor:
        """Features of the rows of a call.

        Args:
            indices: the rows that the plate shows, shape ``(b,)``.
            args: positional arguments of the call, whole or sliced to these rows.
            kwargs: keyword arguments of the call.

        Returns:
            Shape ``(b, width)``.

        Raises:
            GuideError: if the arguments do not have these rows.
        """
        rows = self._data(args, kwargs)
        count = len(indices)
        if len(rows) != count:
            if len(rows) == self.size:
                rows = rows[indices]
            elif count != self.size:
                raise GuideError(
                    f"plate {self.plate!r} shows {count} rows, but the arguments that guide 'amortized' reads have "
                    f"{len(rows)}. Fix: slice every row-aligned argument alike."
                )
        return ((rows - self.mean) / self.sd).clamp(-_CLIP, _CLIP)

    def even(self, problem: Problem) -> None:
        """Takes the standard deviation of a column with two values to be that of a fair coin between them.

        A pixel that is hardly ever on would be ten of its own deviations from its mean where it is on: those rows are learnt by heart.
        """
        rows = self._data(problem.args, problem.kwargs)
        low, high = rows.min(dim=0).values, rows.max(dim=0).values
        binary = ((rows == low) | (rows == high)).all(dim=0) & (high > low)
        self.sd = torch.where(binary, (high - low) / 2, self.sd)

    def count(self, args: Any, kwargs: Any) -> int:
        """The number of rows that a call brings."""
        return len(self._data(args, kwargs))

    def _data(self, args: Any, kwargs: Any) -> Tensor:
        """The rows of a call, or those that were kept."""
        return self.kept if isinstance(self.kept, Tensor) else self._rows(args, kwargs)

    def _rows(self, args: Any, kwargs: Any) -> Tensor:
        given = _arguments(args, kwargs)
        missing = [key for key in self.keys if key not in given]
        if missing:
            raise GuideError(
                f"guide 'amortized' reads argument {missing[0]!r}, which this call does not have. "
                "Fix: call it with positional and keyword arguments as in the problem it was built for."
            )
        parts = [given[key].to(self.like) for key in self.keys]
        return torch.cat([part.reshape(len(part), -1) for part in parts], dim=-1)

    def _observed(self, layout: Layout, name: str) -> Tensor:
        value, event_dim, _ = layout.observed[name]
        rows = value.movedim(layout.plates[self.plate].dim - event_dim, 0).to(self.like)
        return rows.reshape(len(rows), -1)
