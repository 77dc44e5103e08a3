"""``diagnose``: every check that a posterior's own draws allow, and the verdict they add up to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.errors import positive_int
from pyrolvm._base.habits import verb
from pyrolvm._base.importance import FEW_DRAWS, Weights, weigh, worth_of_chosen
from pyrolvm._base.numerics import Array
from pyrolvm._base.plain import jsonable
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._diagnosis.chains import judge_mixing, judge_never_moved, judge_sampler, mixing_table, superchains
from pyrolvm._diagnosis.collapse import collapse_steps, judge_collapse
from pyrolvm._diagnosis.exactness import exact_figures, judge_exact
from pyrolvm._diagnosis.likelihood import is_likelihood, judge_likelihood, likelihood_figures, likelihood_steps
from pyrolvm._diagnosis.modes import judge_chains_apart, judge_left_out, judge_modes
from pyrolvm._diagnosis.outside import judge_outside
from pyrolvm._diagnosis.points import judge_points, point_figures, point_steps
from pyrolvm._diagnosis.precision import judged_for_precision
from pyrolvm._diagnosis.program import judge_program
from pyrolvm._diagnosis.recorded import recorded, remedies
from pyrolvm._diagnosis.registered import Diagnostic, judge_by_others, judge_by_own
from pyrolvm._diagnosis.restarts import judge_restarts
from pyrolvm._diagnosis.reweighted import corrected_table, judge_reweighted, judge_tails, reweighted_table
from pyrolvm._diagnosis.spreads import judge_spreads
from pyrolvm._diagnosis.symmetry import judge_symmetry, symmetry_steps
from pyrolvm._diagnosis.trying import NUTS, left_to_try, tried
from pyrolvm._diagnosis.weighing import bound_unknown, judge_bound, judge_effective, judge_quantities, judge_weights
from pyrolvm._report.webpage import in_notebook, table
from pyrolvm._results.build import OUTSIDE
from pyrolvm._results.points import PointMass, read_points
from pyrolvm._results.reading import PosteriorLike, blocks, draws_group, is_exact, log_weights, stat, tree
from pyrolvm.family.protocol import traits_said

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Diagnosis", "diagnose"]

LONGER = "Look at the loss trace; run the fit longer (max_steps=) or with a smaller learning_rate."
NOTHING = Verdict("trusted")
"""What a check says that finds nothing."""

NO_DENSITY = 0.01
"""Draws of a heavy tail that may have no density, as far as it can be computed, which is a weight of zero."""


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What is known about one posterior without a reference to hold it against.

    Args:
        name: the posterior's name.
        table: one row per scalar quantity; the columns are described in :func:`diagnose`.
        figures: figures of the posterior as a whole, such as ``khat``, ``evidence`` or ``rhat`` (the largest).
        verdict: what it all adds up to.
        left_out: how many quantities the table leaves out, the least suspicious ones.
    """

    name: str
    table: pd.DataFrame
    figures: dict[str, float]
    verdict: Verdict
    left_out: int = 0

    def __str__(self) -> str:
        """Returns the verdict, the figures and the first rows of the table."""
        figures = "  ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        rows = self.table.head(20).to_string(float_format=lambda value: f"{value:.4g}") if len(self.table) else ""
        hidden = max(len(self.table) - 20, 0) + self.left_out
        more = f"... and {hidden} quantities more" if hidden else ""
        return "\n".join(part for part in (f"{self.name}: {self.verdict}", figures, rows, more) if part)

    def __repr__(self) -> str:
        return f"<Diagnosis of {self.name}: {self.verdict!r}>"

    def _repr_html_(self) -> str:
        figures = " &nbsp; ".join(f"{escape(name)} <b>{value:.4g}</b>" for name, value in self.figures.items())
        return in_notebook(
            f"<b>{escape(self.name)}</b> {html(self.verdict)}<p class=small>{figures}</p>{table(self.table)}"
        )

    def as_dict(self) -> dict[str, object]:
        """Returns the diagnosis as JSON types, with None for figures that do not exist."""
        rows = self.table.reset_index().to_dict(orient="records")
        return {
            "name": self.name,
            "verdict": jsonable(self.verdict.as_dict()),
            "figures": jsonable(self.figures),
            "left_out": self.left_out,
            "quantities": jsonable(rows),
        }


@verb
def diagnose(
    posterior: PosteriorLike | xr.DataTree, *, checks: Sequence[Diagnostic] = (), max_quantities: int = 500
) -> Diagnosis:
    """Judges one posterior by its own draws.

        >>> print(lvm.diagnose(fit))  # k-hat, evidence, what is wrong and what helps

    Where draws carry importance weights (variational fits), the checks are Pareto k-hat, evidence, ELBO, importance ESS
    and convergence of the optimisation; R-hat is never reported, since independent draws always pass it. Otherwise the
    draws are Markov chains, and the checks are R-hat, bulk and tail ESS, MCSE, E-BFMI, divergences and tree depth.

    ========================= ===================== ============================= ======================
    check                     trusted               doubtful                      failed
    ========================= ===================== ============================= ======================
    log weights                                                                   any NaN or infinite
    k-hat                     <= threshold          up to 1, or S < 100           > 1 (a)
    effective draws                                                               under 0.5%, if k-hat is high
    reweighted moments        within 0.1 sd, 10%    further (1.5 errors or more)
    optimisation              converged             stopped before it converged   loss ended non-finite
    draws                                           one chain without weights     any non-finite, stuck
    R-hat (largest)           <= 1.01               up to 1.1                     > 1.1
    ESS (smallest)            >= 100 a chain        under 100 a chain             under 10 a chain
    error of an sd            <= 5% (or named)
    divergences               none                  any                           > 10% of draws
    E-BFMI (smallest)         >= 0.3                < 0.3
    float32 against float64   within 0.5 nats (b)   further                       over 5 nats further
    tree depth saturated      <= 10% of draws       > 10% of draws
    ========================= ===================== ============================= ======================

    Draws of the posterior itself (``exact``) are trusted where log p - log q is the evidence at every one of them, to rounding.

    Of models with learnable parameters, local latents whose posterior mean is the same for every row are named as pruned; if none of a
    site's units varies, the site has collapsed and the verdict is "doubtful".

    Of a model without latents there is no posterior to judge: the verdict says whether the fit of its parameters converged, by
    held-out data where there were any.

    A guide with one value where the posterior has a density (``Delta``, MAP, a scale that collapsed) is a point estimate: "doubtful",
    without ELBO or evidence, whatever its weights would be.

    ``lp`` of a few stored draws that a fresh run of the model does not give, or gives otherwise each time, is "failed".

    Draws that :func:`pyrolvm.infer` has corrected are judged by the weights they were chosen by, and "trusted" from 1,000
    effective draws on, which put three standard errors within 0.1 sd and 10%; from 3,000 on where k-hat is above 0.5.

    Of a posterior that consists of copies of one mode (exchangeable components, free signs, rotations), found by trying the program,
    each draw is brought to one copy and judged there, since single labels and signs mean nothing; the verdict says what is
    exchangeable and how many copies the draws cover. Results of :func:`pyrolvm.infer` cover all copies equally.

    Where ascents before a method found several modes, a guide of one mode is doubtful, and so are chains that were in none of modes
    with 2% or more of the mass; unless the model names quantities that have the same values in all of them.

    (b) The range over draws of the difference of log densities, beyond rounding of sums; looked at where a fit ran in float32.

    (a) Doubtful if more than 90% of the draws are effective: then only the tails are wrong.
    The threshold of k-hat is min(1 - 1/log10(S), 0.7) for S draws. Identified ``quantities`` are judged in place of
    the sites where the model names them.

    When not to trust it: neither importance weights nor chains can see a mode in which no draw ever fell. k-hat judges
    all latent values together, so it is large in models with thousands of them even where each marginal is close:
    compare with NUTS then.

    Args:
        posterior: a result of ``fit``, ``nuts``, ``infer`` or ``exact``, or an ArviZ DataTree with dims (chain, draw).
        checks: further checks, each a function of the result's tree that returns an ``lvm.Verdict``, such as one of what only you know
            of your data. Those of installed distributions are made in any case.
        max_quantities: how many scalar quantities to tabulate; a cheap screen finds the most suspicious ones.

    Returns:
        A Diagnosis whose table has a row per scalar quantity. For importance weights the columns are ``mean``, ``sd``,
        ``mcse_mean``, ``mcse_sd``, ``q5``, ``median``, ``q95``, then ``psis_mean`` and ``psis_sd``, the moments after reweighting,
        ``psis_shift``, how many of those sds the mean lies from there, and ``psis_sd_ratio``, the sd over ``psis_sd``,
        both with ``_error``. For chains they are ``mean``, ``sd``, ``q5``,
        ``median``, ``q95``, ``mcse_mean``, ``mcse_sd``, ``ess_bulk``, ``ess_tail``, ``rhat`` and ``state``.

    Raises:
        ArgumentError: if the posterior has no draws to judge, or a check is none.

    References:
        Vehtari et al. (2024), https://arxiv.org/abs/1507.02646; Vehtari et al. (2021), https://arxiv.org/abs/1903.08008;
        Gelman et al. (2020), "Bayesian workflow", https://arxiv.org/abs/2011.01808
    """
    limit = positive_int("max_quantities", max_quantities)
    data = tree(posterior)
    name = str(getattr(posterior, "name", None) or data.name or "posterior")
    found = _diagnose(name, data, limit)
    verdict = found.verdict
    for more in (judge_program(data), recorded(data), judge_by_others(data), judge_by_own(data, checks)):
        verdict = verdict.and_also(more) if more != NOTHING else verdict
    return replace(found, verdict=judged_for_precision(verdict, data))


def _diagnose(name: str, data: xr.DataTree, limit: int) -> Diagnosis:
    """Judges a result by its kind."""
    if is_exact(data):
        return _diagnose_exact(name, data, limit)
    if is_likelihood(data):
        return _diagnose_likelihood(name, data)
    if points := read_points(data):
        return _diagnose_points(name, data, points, limit)
    if "proposal_stats" in data.children:
        return _diagnose_corrected(name, data, limit)
    weights = log_weights(data)
    if weights is None:
        return _diagnose_chains(name, data, limit)
    return _diagnose_weights(name, data, weights, limit)


def _diagnose_exact(name: str, data: xr.DataTree, limit: int) -> Diagnosis:
    """Judges draws that come with the evidence: log p - log q must be that at every one of them."""
    figures = exact_figures(data)
    table, left_out = corrected_table(data, figures["draws"], limit)
    verdict = Verdict.of([*judge_exact(data, figures), *judge_spreads(table), *_judge_finite(data)])
    return Diagnosis(name, table, figures, verdict, left_out)


def _diagnose_likelihood(name: str, data: xr.DataTree) -> Diagnosis:
    """Judges the fit of a model without latents, which has no draws."""
    import pandas as pd

    figures = likelihood_figures(data)
    reasons = list(judge_likelihood(data, figures))
    return Diagnosis(name, pd.DataFrame(), figures, Verdict.of(reasons, likelihood_steps(reasons)))


def _diagnose_points(name: str, data: xr.DataTree, points: PointMass, limit: int) -> Diagnosis:
    """Says of a point estimate that it is one, and whether it converged."""
    figures = point_figures(data)
    table, left_out = corrected_table(data, figures["draws"], limit)
    reasons = [*judge_points(data, points), *_judge_optimisation(data), *_judge_finite(data)]
    steps = point_steps(data)
    if any("steps" in reason.figures for reason in reasons):
        steps.append(LONGER)
    return Diagnosis(name, table, figures, Verdict.of(reasons, steps), left_out)


def _diagnose_weights(name: str, data: xr.DataTree, log_weight: Array, limit: int) -> Diagnosis:
    figures, normalised = weigh(log_weight, _rounding(data))
    share = float(data["posterior"].attrs.get(OUTSIDE, 0.0))
    if share and figures.num_bad == int(
        np.isneginf(log_weight).sum()
    ):  # weights of zero, which are known for what they are
        figures = replace(figures, num_bad=0, elbo=-math.inf)
    table, left_out = reweighted_table(data, normalised, limit)
    reasons = [
        *judge_outside(share),
        *judge_weights(figures),
        *judge_bound(figures, "doubtful"),
        *judge_reweighted(table, figures),
        *judge_spreads(table),
        *judge_tails(data, table, log_weight, figures),
        *_judge_optimisation(data),
        *_judge_finite(data),
        *judge_modes(data),
        *judge_left_out(data),
        *judge_symmetry(data),
        *judge_collapse(data),
    ]
    guide = str(data["posterior"].attrs.get("pyrolvm_guide", ""))
    steps = [
        *_steps_for_fit(figures, reasons, guide, data),
        *_steps_for_minibatches(data, reasons),
        *collapse_steps(reasons),
    ]
    steps += symmetry_steps(data)
    return Diagnosis(name, table, _figures(figures), Verdict.of(reasons, steps), left_out)


def _figures(weights: Weights) -> dict[str, float]:
    bound = {} if bound_unknown(weights) else {"elbo": weights.elbo, "elbo_error": weights.elbo_error}
    return {
        "khat": weights.khat,
        "khat_threshold": weights.threshold,
        **bound,
        "evidence": weights.evidence,
        "evidence_error": weights.evidence_error,
        "ess_importance": weights.ess,
        "draws": float(weights.num_draws),
    }


def _diagnose_corrected(name: str, data: xr.DataTree, limit: int) -> Diagnosis:
    """Judges draws that were chosen by importance weights: by the weights that they were chosen by."""
    log_weight = np.asarray(data["proposal_stats"]["log_weight"].values).reshape(-1)
    absent = np.isneginf(log_weight)
    if absent.mean() <= NO_DENSITY:
        log_weight = log_weight[~absent]
    figures, weights = weigh(log_weight)
    kept = data["posterior"].sizes["chain"] * data["posterior"].sizes["draw"]
    table, left_out = corrected_table(data, worth_of_chosen(weights, kept), limit)
    reasons = [
        *judge_weights(figures),
        *judge_bound(figures, "trusted"),
        *judge_effective(figures),
        *judge_quantities(data, figures),
        *judge_spreads(table),
        *_judge_optimisation(data),
        *_judge_finite(data),
        *judge_modes(data),
        *judge_left_out(data),
        *judge_symmetry(data),
        *judge_restarts(data),
    ]
    guide = str(data["posterior"].attrs.get("pyrolvm_guide", ""))
    verdict = Verdict.of(reasons, [*_steps_for_fit(figures, reasons, guide, data), *symmetry_steps(data)])
    told = {**_figures(figures), "draws": float(kept), "weighed": float(figures.num_draws)}
    return Diagnosis(name, table, told, verdict, left_out)


def _rounding(data: xr.DataTree) -> float:
    """Returns the rounding error in a log weight: that of log p and log q, which may be large numbers."""
    size = 0.0
    for name in ("lp", "log_q"):
        values = stat(data, name)
        if values is not None and values.dtype.kind == "f":
            magnitude = np.max(np.abs(values), initial=0.0, where=np.isfinite(values))
            size = max(size, 8 * float(np.finfo(values.dtype).eps) * float(magnitude))
    return size


def _judge_optimisation(data: xr.DataTree) -> Iterator[Reason]:
    if "optimization" not in data.children:
        return
    trace = data["optimization"]
    loss = np.asarray(trace["loss"].values).reshape(-1) if "loss" in trace.data_vars else np.zeros(0)
    why = str(trace.attrs.get("stop_reason", "") or "")
    note = f" ({why})" if why else ""
    if loss.size and not math.isfinite(float(loss[-1])):
        yield Reason("failed", f"The loss ended at {float(loss[-1])}{note}.", {"steps": loss.size})
    elif not int(trace.attrs.get("converged", 1)):
        yield Reason("doubtful", f"The optimisation stopped before it converged{note}.", {"steps": loss.size})


def _judge_finite(data: xr.DataTree) -> Iterator[Reason]:
    bad = [part.variable for part in blocks(data) if not np.isfinite(part.draws).all()]
    if bad:
        yield Reason(
            "failed", f"{', '.join(f'`{name}`' for name in bad)} has draws that are not finite.", {"sites": len(bad)}
        )


def _blames_guide(reason: Reason) -> bool:
    return bool(
        {"khat", "largest shift", "ess_importance", "largest quantity khat", "modes", "restarts"} & set(reason.figures)
    )


def _steps_for_minibatches(data: xr.DataTree, reasons: list[Reason]) -> Iterator[str]:
    """What reduces the noise of steps that saw a part of the rows, where the guide may be off by it."""
    seen = int(data["optimization"].attrs.get("batch_size", 0)) if "optimization" in data.children else 0
    if seen and any(reason.status != "trusted" for reason in reasons):
        yield (
            f'Steps on {seen:,} rows are noisy: end on small ones (schedule="cosine" with max_steps= and tolerance=0), '
            "or take a larger batch_size."
        )


def _steps_for_fit(weights: Weights, reasons: list[Reason], guide: str, data: xr.DataTree) -> Iterator[str]:
    if all(reason.status == "trusted" for reason in reasons):
        return
    own = "evaluations" in data["posterior"].attrs  # an algorithm of its own, which takes no steps
    if any("steps" in reason.figures for reason in reasons) and not own:
        yield LONGER
    if weights.num_bad:
        yield "Use a guide with the support of the model's sites, in float64, and check the model for overflow."
    elif weights.num_draws < FEW_DRAWS or weights.threshold < weights.khat <= 0.7:
        need = max(10 ** (1 / (1 - weights.khat)) if weights.khat < 0.7 else 0, 1000)
        yield f"Take more draws of the fitted guide: about {math.ceil(need / 100) * 100}."
    elif any("unclear" in key for reason in reasons for key in reason.figures):
        yield f"Take more draws of the fitted guide: about {4 * weights.num_draws}."
    elif any(reason.status != "trusted" and _blames_guide(reason) for reason in reasons):
        richer = traits_said(data["posterior"].attrs).richer
        if not richer:
            yield (
                "k-hat judges the latents of all rows at once, and is large with many rows even where each is close: look at "
                'the rows you need, or try guide="mean_field", which has parameters of its own for each row.'
            )
            return
        found = [f'Try guide="{richer}".'] if guide not in ("", richer) else []
        yield from left_to_try([*found, NUTS], tried(data))


def _diagnose_chains(name: str, data: xr.DataTree, limit: int) -> Diagnosis:
    sizes = data[draws_group(data)].sizes
    chains, draws = sizes["chain"], sizes["draw"]
    table, left_out = mixing_table(data, limit)
    reasons = [
        *judge_mixing(table, superchains(data) or chains, draws),
        *judge_never_moved(data),
        *judge_sampler(data),
        *judge_left_out(data),
        *judge_chains_apart(data),
        *judge_symmetry(data),
    ]
    verdict = Verdict.of(reasons, [*_steps_for_chains(reasons, chains, remedies(data)), *symmetry_steps(data)])
    figures = {"chains": float(chains), "draws": float(chains * draws)}
    for column, reduce in (("rhat", "max"), ("ess_bulk", "min"), ("ess_tail", "min")):
        if len(table) and table[column].notna().any():
            figures[column] = float(getattr(table[column], reduce)())
    for key in ("divergences", "bfmi", "saturated"):
        if key in verdict.figures:
            figures[key] = verdict.figures[key]
    return Diagnosis(name, table, figures, verdict, left_out)


def _steps_for_chains(reasons: list[Reason], chains: int, own: Mapping[str, str]) -> Iterator[str]:
    """What to do about chains; in the method's own words where it has some, since not all have the arguments of NUTS."""
    bad = [reason for reason in reasons if reason.status != "trusted"]
    names = {name for reason in bad for name in reason.figures}
    if own:
        yield from (step for name, step in own.items() if name in names)
        return
    if "quantities stuck" in names or "quantities moving" in names:
        yield "Start elsewhere (init=) or warm up longer (warmup=): a chain never left its start."
    if "quantities not finite" in names:
        yield "Find the site that overflows: its draws are not finite."
    if "mass of other modes" in names:
        yield "Carry particles through all modes, lvm.smc(problem), or start chains in each (init=)."
    if "rhat" in names:
        yield "Run longer (warmup=, draws=); if R-hat stays high, look for modes or switching labels (quantities=)."
    elif "ess_bulk" in names or "draws" in names:
        yield "Take more draws (draws=)."
    if "divergences" in names:
        yield "Raise target_accept to 0.95, then reparameterise (non-centred) where the divergences gather."
    if "bfmi" in names:
        yield "Reparameterise scales with heavy tails, or warm up longer (warmup=)."
    if chains == 1 and bad:
        yield "Run at least 4 chains (chains=4)."
