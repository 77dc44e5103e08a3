"""Draws that lie outside the model's support."""

from __future__ import annotations

from collections.abc import Iterator

from pyrolvm._base.verdict import Reason

__all__ = ["judge_outside"]

HARDLY_ANY = 0.01
"""Up to this share of draws without a density the rest is the posterior, but for the mass that the guide wastes."""


def judge_outside(share: float) -> Iterator[Reason]:
    """Names the share of draws outside the support, if there are any."""
    if not share:
        return
    text = (
        f"{share:.2%} of the draws lie outside the model's support, where the posterior has none: they have weight zero"
    )
    figures = {"outside support": share}
    if share <= HARDLY_ANY:
        yield Reason("doubtful", f"{text}, and belong to no posterior. Leave them out.", figures)
    else:
        yield Reason("failed", f"{text}. The guide needs a distribution on that support.", figures)
