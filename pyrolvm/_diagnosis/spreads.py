"""Whether draws tell the spread of a quantity: where tails are heavy it takes more of them than its mean does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyrolvm._base.verdict import Reason
from pyrolvm._base.wording import named

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["judge_spreads"]

ROUGH = 0.05
"""The Monte Carlo error of an sd, as a share of it, from which on two of them are more than 10%. Of a Gaussian 200 draws tell as much,
of the exponential of one with an sd of one some ten thousand."""


def judge_spreads(table: pd.DataFrame) -> Iterator[Reason]:
    """Names the quantities whose sd these draws do not tell; all else about them, and all about others, they may well tell.

    Args:
        table: a row for each quantity, with columns ``sd`` and ``mcse_sd``.
    """
    if not len(table):
        return
    share = (table["mcse_sd"] / table["sd"]).sort_values(ascending=False)
    rough = share.index[share > ROUGH]
    if len(rough):
        text = (
            f"The sd of {named(rough)} is not known well: its own Monte Carlo error is {float(share.iloc[0]):.0%} of it. Tails are "
            "heavy, or few draws are at a far mode: look at quantiles, or take more draws."
        )
        yield Reason("trusted", text, {"rough sds": float(len(rough)), "largest error of an sd": float(share.iloc[0])})
