"""What is said of modes apart: those that a guide may not cover or no draw is at, and those that quantities do not tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Reason
from pyrolvm._base.wording import told
from pyrolvm._diagnosis.chains import RHAT_FAILED, worst_first
from pyrolvm._results.copies import copies
from pyrolvm._results.reading import blocks, draws_group
from pyrolvm._results.tables import chain_rows
from pyrolvm.family.protocol import traits_said

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LEFT_OUT", "UNLIKE", "UNSEEN", "judge_chains_apart", "judge_left_out", "judge_modes"]

UNLIKE = "modes_unlike"
"""Attribute of draws: how many of its modes have other values of the model's quantities."""

LEFT_OUT = "modes_left_out"
"""Attribute of chains: the share of the posterior's mass at modes that ascents found and that no draw is near to."""

UNSEEN = "modes_unseen"
"""Attribute of draws: the share of ascents that are expected to end at modes that none of those made ended at."""

LOOKED_AT = 200
"""Elements of sites at most whose chains are compared."""


def judge_modes(data: xr.DataTree) -> Iterator[Reason]:
    """Judges guides by what the ascents before them saw; weights are blind to a mode without draws."""
    attrs = data["posterior"].attrs
    unseen = float(attrs.get(UNSEEN, 0.0))
    if unseen:
        yield Reason(
            "doubtful",
            f"Ascents from several starts went on to end at new modes: of more of them about {unseen:.0%} would end at modes that were "
            "not found, and no draw is there.",
            {"unseen modes": unseen},
        )
    modes, guide = int(attrs.get("modes", 0)), str(attrs.get("pyrolvm_guide", "")).split("(")[0]
    if modes <= max(copies(data), 1) or not traits_said(attrs).one_mode:
        return
    text, figures = f"Ascents from several starts ended at {modes} modes apart", {"modes": float(modes)}
    if draws_group(data) == "posterior":
        yield Reason("doubtful", f"{text}; `{guide}` may cover one of them only.", figures)
        return
    unlike = attrs.get(UNLIKE)
    if unlike is not None and int(unlike):
        also = f"{int(unlike)} of which have other values of the model's quantities"
        yield Reason("doubtful", f"{text}, {also}; `{guide}` may cover one of them only.", figures)
    elif unlike is not None:
        yield Reason(
            "trusted",
            f"{text}, in which the model's quantities have the same values: these are judged. `{guide}` may cover one mode only, and "
            "its single sites, ELBO and evidence are of what it covers.",
            {"modes alike": float(modes)},
        )


def judge_left_out(data: xr.DataTree) -> Iterator[Reason]:
    """Judges draws by the modes that ascents found before them: R-hat and weights are blind to a mode in which no draw is."""
    attrs = data["posterior"].attrs
    if traits_said(attrs).one_mode:  # of which modes are counted: judge_modes
        return
    share = float(attrs.get(LEFT_OUT, 0.0))
    alike = draws_group(data) != "posterior" and int(attrs.get(UNLIKE, 1)) == 0
    if share and copies(data) == 1 and not alike:
        yield Reason(
            "doubtful",
            f"Ascents from several starts found modes with about {share:.0%} of the posterior's mass in which no draw is.",
            {"mass of other modes": share},
        )


def judge_chains_apart(data: xr.DataTree) -> Iterator[Reason]:
    """Says where chains are in different modes that the model's quantities, which are judged, do not tell apart."""
    if draws_group(data) == "posterior" or copies(data) > 1 or data["posterior"].sizes["chain"] < 2:
        return
    if data["posterior"].sizes["draw"] < 4:
        return
    parts, _ = worst_first([part for part in blocks(data, "posterior") if not part.discrete], LOOKED_AT)
    tables = [chain_rows(part) for part in parts]
    high = max((float(np.nanmax(table["rhat"], initial=0.0)) for table in tables), default=0.0)
    if high <= RHAT_FAILED:
        return
    names = ", ".join(
        f"`{part.variable}`" for part, table in zip(parts, tables, strict=True) if (table["rhat"] > RHAT_FAILED).any()
    )
    yield Reason(
        "trusted",
        f"Chains are in different modes of {names} (R-hat is up to {told(high, RHAT_FAILED, 2)}): the model's quantities are judged, "
        "and single values of these sites mean nothing.",
        {"rhat of sites": high},
    )
