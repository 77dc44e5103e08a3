"""The page of one posterior: estimates, draws, the data beside replicated ones, rows left out, and what was tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.errors import PyrolvmError
from pyrolvm._check.discrepancy.html import draw as draw_check
from pyrolvm._check.discrepancy.inference import check
from pyrolvm._check.discrepancy.plots import CAPTIONS
from pyrolvm._compat.notebooks import html
from pyrolvm._report.origin import read
from pyrolvm._report.posterior import draw, losses
from pyrolvm._report.style import BAD, FAINT, INK, PALETTE, sheet, tidy
from pyrolvm._report.webpage import document, panels, picture, section, table
from pyrolvm._results.summary import chosen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyrolvm._results import LOO, Posterior

__all__ = ["page"]

ROWS, PANELS = 200, 12
OWN = 64
"""Unknowns of the rows themselves, up to which a page integrates them out; of hundreds it takes minutes."""

_READ = """
<b>mcse_mean</b> is the Monte Carlo error of a mean. Of chains, <b>rhat</b> near 1 says that they agree and <b>ess</b> how many
independent draws they are worth; of a guide's draws, <b>khat</b> says how far their importance weights can be believed: above 0.7, not
at all. Ranks of chains that agree are level; a chain with more low or high ranks than others is somewhere else. <b>elpd</b> is the log
density of each row given all others, summed: a comparison of models is by its differences.
"""


def page(posterior: Posterior) -> str:
    """The whole page."""
    shown = posterior.summary(max_quantities=ROWS)
    hidden = int(shown.attrs["left_out"])
    more = f"<p class=small>{hidden:,} quantities more: .summary() has them.</p>" if hidden else ""
    point = shown.empty
    sections = [
        section("Estimates", table(shown, most=ROWS, what="estimates"), more),
        section("Verdict", html(posterior.verdict)),
        "" if point else section("Marginals", _marginals(posterior)),
        section("Chains", "" if point else _ranks(posterior)),
        section("Optimisation", _losses(posterior)),
        section("Data beside replicated data", _told(lambda: _checked(posterior))),
        section("Each row from all others", _told(lambda: _left_out(posterior))),
        section("What was tried", _ladder(posterior)),
        section("How to read this", f"<p>{_READ}</p>"),
    ]
    origin = read(posterior.data["posterior"].attrs)
    title = f"{posterior.name} of {origin.problem or 'a model'}"
    return document(title, _lead(posterior), sections, [origin], verdict=posterior.verdict)


def _lead(posterior: Posterior) -> str:
    chains = posterior.data["posterior"].sizes.get("chain", 1)
    seconds = ", ".join(f"{name} {value:.2g}" for name, value in posterior.seconds.items())
    evidence = "" if posterior.evidence is None else f"; log evidence {posterior.evidence}"
    several = f" of {chains} chains" if chains > 1 else ""
    told = (
        f"{posterior.num_draws:,} draws{several}; seed {posterior.seed}; engine {posterior.engine}; seconds: {seconds}"
    )
    return f"{type(posterior).__name__}, {told}{evidence}"


def _marginals(posterior: Posterior) -> str:
    draws = chosen(posterior.data, None, PANELS)
    return panels(
        (f"Density of {name} with its mean and central 90%", draw("marginals", {name: values}, 0.9, None))
        for name, values in draws.items()
    )


def _ranks(posterior: Posterior) -> str:
    if posterior.data["posterior"].sizes.get("chain", 1) < 2:
        return ""
    draws = {name: one for name, one in chosen(posterior.data, None, PANELS).items() if not one[1]}
    return panels(
        (f"Ranks of the draws of {name} by chain", draw("ranks", {name: one}, 0.9, None)) for name, one in draws.items()
    )


def _losses(posterior: Posterior) -> str:
    if "optimization" not in posterior.data.children or "loss" not in posterior.data["optimization"].data_vars:
        return ""
    group = posterior.data["optimization"]
    reason = str(group.attrs.get("stop_reason", ""))
    caption = f"{reason[:1].upper()}{reason[1:]}." if reason else ""
    return picture("The loss by step", losses(np.asarray(group["loss"].values, dtype=np.float64)), caption)


def _told(make: Callable[[], str]) -> str:
    """A part of the page; or in words why this result has none."""
    try:
        return make()
    except PyrolvmError as error:
        return f"<p class=small>{escape(str(error))}</p>"


def _checked(posterior: Posterior) -> str:
    found = check(posterior)
    pictures = [picture(text, draw_check(found, kind), text) for kind, text in CAPTIONS.items()]
    return html(found.verdict) + "".join(pictures)


def _left_out(posterior: Posterior) -> str:
    own = _own(posterior)
    if own > OWN:
        return (
            f"<p class=small>{own:,} unknowns belong to the rows. <code>posterior.loo()</code> integrates them out, row by row, "
            "which takes longer than a page should.</p>"
        )
    found = posterior.loo()
    shown = picture(
        "k-hat of the weights of each row, and what it may be", _khats(found), "k-hat of the weights by row"
    )
    return f"<p>{escape(str(found))}</p>{html(found.verdict)}{shown}"


def _own(posterior: Posterior) -> int:
    """How many unknowns stand in plates of observed rows."""
    sites = () if posterior.problem is None else tuple(posterior.problem.sites.values())
    rows = {plate for site in sites if site.kind == "observed" for plate in site.plates}
    own = [site.unconstrained_shape for site in sites if rows & set(site.plates)]
    return sum(math.prod(shape) for shape in own if shape is not None)


def _khats(found: LOO) -> Figure:
    values = np.asarray(found.rows["khat"].values, dtype=np.float64).reshape(-1)
    above = ~(values <= found.threshold)
    shown = np.clip(np.nan_to_num(values, posinf=2.0), -0.5, 2.0)
    figure = sheet(7.0, 2.4)
    axes = figure.subplots()
    places = np.arange(len(values))
    axes.plot(places[~above], shown[~above], "o", color=PALETTE[0], markersize=3, markeredgewidth=0)
    axes.plot(places[above], shown[above], "o", color=BAD, markersize=4, markeredgewidth=0)
    axes.axhline(found.threshold, color=FAINT, linewidth=0.8)
    axes.set_xlabel("row", fontsize=8.5, color=INK)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("k-hat", fontsize=8.5, color=INK)
    tidy(axes)
    return figure


def _ladder(posterior: Posterior) -> str:
    if not posterior.ladder:
        return ""
    import pandas as pd

    return table(pd.DataFrame(posterior.ladder), what="methods that were tried")
