"""Judges a fit of a model without latents: whether it converged, and what held-out data say of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Reason

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["is_likelihood", "judge_likelihood", "likelihood_figures", "likelihood_steps"]

STILL = 0.9
"""The best look at held-out data must come before this share of the steps, or the fit might have gone on improving."""


def is_likelihood(data: xr.DataTree) -> bool:
    """Whether a result is of a model without latents."""
    return str(data["posterior"].attrs.get("inference_method")) == "maximum_likelihood"


def likelihood_figures(data: xr.DataTree) -> dict[str, float]:
    """Log p(data), in all and by row, and the same of held-out data where there were any."""
    log_p = float(np.asarray(data["sample_stats"]["lp"].values).mean())
    found = {"log_p": log_p}
    rows = _rows(data)
    if rows > 1:
        found["log_p_row"] = log_p / rows
    attrs = data["optimization"].attrs
    if "validation_best" in attrs:
        found["held_out_row"] = -float(attrs["validation_best"]) / float(attrs["loss_rows"])
        found["held_out_rows"] = float(attrs["validation_rows"])
    return found


def judge_likelihood(data: xr.DataTree, figures: dict[str, float]) -> Iterator[Reason]:
    """Judges convergence by held-out data where there are any, and else by the loss; says how far the two are apart."""
    if not np.isfinite(figures["log_p"]):
        yield Reason("failed", f"log p(data) is {figures['log_p']}.", {"log_p": figures["log_p"]})
        return
    group = data["optimization"]
    converged, why = bool(group.attrs.get("converged", 1)), str(group.attrs.get("stop_reason", ""))
    note = f" ({why})" if why else ""
    if "held_out_row" in figures:
        steps, best = group.sizes["step"], int(group.attrs["validation_best_step"])
        figure = {"held_out_row": figures["held_out_row"], "best_step": float(best)}
        text = (
            f"{figures['held_out_row']:.4g} nats a row on {figures['held_out_rows']:,.0f} held-out rows, at step {best} of "
            f"{steps}, whose parameters are kept"
        )
        if best > STILL * steps and not converged:
            yield Reason(
                "doubtful", f"The fit stopped while held-out data were still doing better: {text}{note}.", figure
            )
        else:
            yield Reason("trusted", f"Held-out data did not do better after that: {text}{note}.", figure)
        if "log_p_row" in figures:
            gap = figures["log_p_row"] - figures["held_out_row"]
            how = f"{abs(gap):.3g} {'more' if gap >= 0 else 'fewer'}"
            yield Reason(
                "trusted",
                f"The data that it was fitted to have {figures['log_p_row']:.4g} nats a row, {how}.",
                {"log_p_row": figures["log_p_row"], "gap": gap},
            )
        return
    if not converged:
        yield Reason(
            "doubtful", f"The optimisation stopped before it converged{note}.", {"steps": float(group.sizes["step"])}
        )
    else:
        yield Reason("trusted", f"The optimisation converged{note}.", {"steps": float(group.sizes["step"])})
    text = "Nothing is known of data that it was not fitted to: log p(data) alone rises with every parameter that is added."
    yield Reason("trusted", text, {"log_p": figures["log_p"]})


def likelihood_steps(reasons: list[Reason]) -> Iterator[str]:
    """What to do next."""
    if any(reason.status != "trusted" for reason in reasons):
        yield "Fit longer (max_steps=), or with another learning_rate or schedule."
    if not any("held_out_row" in reason.figures for reason in reasons):
        yield "Pass held-out data (validation=), which also end the fit in time."


def _rows(data: xr.DataTree) -> int:
    """The number of observations that have a density of their own; 1 if none have."""
    if "log_likelihood" not in data.children:
        return 1
    sizes = [values.isel(chain=0, draw=0).size for values in data["log_likelihood"].data_vars.values()]
    return max(sizes, default=1)
