"""What a result keeps of how its draws were made: groups of its tree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyrolvm._methods.sparse.blocks import Blocks
from pyrolvm._methods.sparse.drawing import BlockDraws
from pyrolvm._methods.sparse.fields.coupled import Coupled
from pyrolvm._methods.sparse.fields.weighing import FieldDraws
from pyrolvm._methods.sparse.fine import Found
from pyrolvm._methods.sparse.pool import Pool
from pyrolvm._methods.sparse.rows import RowDraws
from pyrolvm._program.density.rowwise import Rowwise

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["integration", "of_blocks", "of_field", "of_rows", "proposal_stats"]


def proposal_stats(pool: Pool) -> xr.DataTree:
    """Group ``proposal_stats``: the weights that draws were chosen by."""
    import xarray as xr

    return xr.DataTree(
        xr.Dataset({"log_weight": (("chain", "draw"), pool.log_weight[None]), "khat": ((), pool.figures.khat)})
    )


def integration(told: xr.Dataset, pool: Pool, evaluations: int) -> xr.DataTree:
    """Group ``integration``: what a density was made of, and the figures of its weights."""
    import xarray as xr

    figures = pool.figures
    return xr.DataTree(
        told.assign_attrs(
            told.attrs,
            evidence=figures.evidence,
            evidence_error=math.hypot(figures.evidence_error, told.attrs.get("unsettled", 0.0)),
            khat=figures.khat,
            ess=figures.ess,
            rounds=pool.rounds,
            evaluations=evaluations,
        )
    )


def of_blocks(found: Found, drawn: BlockDraws, blocks: Blocks) -> xr.Dataset:
    """What is said of unknowns in blocks."""
    import xarray as xr

    return xr.Dataset({"share": ("block", drawn.share)}).assign_attrs(
        rule=found.rule.name,
        left=found.left,
        fitted=found.fitted,
        unsettled=found.unsettled,
        blocks=blocks.count,
        width=blocks.width,
        coupled=0,
        shared=len(blocks.layers[-1].shared),
        sites=", ".join(name for layer in blocks.layers for name in layer.sites),
        block_candidates=drawn.candidates,
    )


def of_rows(drawn: RowDraws, rows: Rowwise) -> xr.Dataset:
    """What is said of unknowns that all rows share."""
    import xarray as xr

    return xr.Dataset().assign_attrs(
        rule=f"{drawn.some:,} rows and the second degree of all", left=drawn.left, blocks=0, coupled=0, shared=rows.size,
        rows=rows.rows.size, passes=drawn.passes,
    )  # fmt: skip


def of_field(drawn: FieldDraws, coupled: Coupled, sites: list[str]) -> xr.Dataset:
    """What is said of unknowns that are coupled."""
    import xarray as xr

    pattern, annealing = coupled.pattern, drawn.annealing
    return xr.Dataset({"taken": ("window", drawn.taken)}).assign_attrs(
        rule=f"annealing in {annealing.steps} steps" if annealing.steps else "a Gaussian",
        left=drawn.drift,
        blocks=0,
        coupled=pattern.count,
        **pattern.layout.figures,
        shared=len(pattern.shared),
        sites=", ".join(sites),
        spread=annealing.spread,
        steps=annealing.steps,
    )
