"""Draws of the posterior itself: what is left to check is that they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Reason
from pyrolvm._results.reading import stat

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["exact_figures", "judge_exact"]

ROUNDING = 1e-8
"""Share of the log densities' size within which log p - log q counts as the same number."""


def exact_figures(data: xr.DataTree) -> dict[str, float]:
    """The evidence, the largest difference of log p - log q from it, and the number of draws."""
    evidence = float(data["sample_stats"]["log_evidence"])
    log_p, log_q = stat(data, "lp"), stat(data, "log_q")
    off = math.nan
    if log_p is not None and log_q is not None:
        with np.errstate(invalid="ignore"):
            off = float(np.max(np.abs(log_p - log_q - evidence)))
    sizes = data["posterior"].sizes
    return {"evidence": evidence, "evidence_error": off, "draws": float(sizes["chain"] * sizes["draw"])}


def judge_exact(data: xr.DataTree, figures: Mapping[str, float]) -> Iterator[Reason]:
    """Judges whether the draws' normalised density is the posterior's, and says what is known of it."""
    log_p = stat(data, "lp")
    size = 1 + (0.0 if log_p is None else float(np.max(np.abs(log_p)))) + abs(figures["evidence"])
    off = figures["evidence_error"]
    if not off <= ROUNDING * size:
        text = f"log p - log q differs from the evidence by up to {off:.3g} nats, so the draws are not the posterior's."
        yield Reason("failed", text, figures)
        return
    attrs = data["posterior"].attrs
    known = f" ({attrs['family']}): {attrs['because']}" if "because" in attrs else ""
    text = (
        f"The posterior is exact{known}. log p - log q is the evidence at all {figures['draws']:,.0f} draws, to {off:.1g} nats, "
        "and the draws are independent."
    )
    yield Reason("trusted", text, figures)
    held = str(attrs.get("parameters_held", ""))
    if held:
        yield Reason("trusted", f"It is the posterior given the learnable parameters ({held}), which are held fixed.")
