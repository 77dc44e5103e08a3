"""The methods of :func:`pyrolvm.evidence`, each from checked arguments to a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.progress import Progress
from pyrolvm._base.verdict import Reason, Status, Verdict
from pyrolvm._methods.evidence.annealing import Path, backward, forward, move
from pyrolvm._methods.evidence.bridge import Gaussian, averaged, bridged
from pyrolvm._methods.evidence.pilot import MOST_PARTICLES, PARTICLES, PER_UNKNOWN, Plan, pilot
from pyrolvm._methods.evidence.setting import Coordinates, gaussian_path, prior_path, stored_draws
from pyrolvm._program.density import Joint, map_draws
from pyrolvm._program.density.prior import prior_draws, prior_points, without_data
from pyrolvm._program.problem import Problem
from pyrolvm._program.simulate import Simulator
from pyrolvm._results import Evidence, Exact, Fit, Posterior
from pyrolvm._results.draws import draw_guide, rebuild
from pyrolvm._results.weights import from_weights

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["annealed", "bidirectional", "bridge", "guide_weights", "importance", "prior"]

Array = NDArray[np.float64]
Show = bool | Callable[[int, int, str], None]

CONFIRM = 10
"""Transitions at the posterior that part the particles which all start at one draw of it."""

LEAST_ESS = 100
"""Effective draws of the posterior that a bridge needs."""


def prior(problem: Problem, held: Mapping[str, Tensor], count: int, seed: int) -> Evidence:
    """The mean likelihood at prior draws."""
    with problem.session(seed=seed, params=held), torch.no_grad():
        drawn = prior_draws(problem, count)
        kept = {site.name: drawn[site.name] for site in problem.latents if not site.enumerable or not site.is_discrete}
        joint, alone = Joint(problem), Joint(without_data(problem))
        terms = map_draws(lambda one: {"all": joint.log_p(one), "prior": alone.log_p(one)}, kept)
    log_weight = (terms["all"].double() - terms["prior"].double()).cpu().numpy()
    remedy = "use method='ais', which comes from prior to posterior in many small steps, or a fit's guide in place of the prior"
    return from_weights(log_weight, "prior draws", exactly=True, remedy=remedy)


def guide_weights(fit: Fit | Exact, count: int, seed: int) -> tuple[Array, bool, float]:
    """Log weights of a fit's guide, shape ``(count,)``, whether their draws are fresh, and the size of their rounding errors.

    They are those that the fit has where it has lost its guide.
    """
    if isinstance(fit, Exact) or fit.guide is None or fit.problem is None:
        stats = fit.data["proposal_stats" if isinstance(fit, Fit) and fit.corrected else "sample_stats"]
        log_p, log_q = (np.asarray(stats[name].values).reshape(-1) for name in ("lp", "log_q"))
        fresh = False
    else:
        problem = fit.attached
        with problem.session(seed=seed + 1, params=fit.params), torch.no_grad():
            joint = Joint(problem)
            values, density = draw_guide(problem, rebuild(problem, fit.guide), count)
            log_p = map_draws(lambda one: {"log_p": joint.log_p(one)}, values)["log_p"].cpu().numpy()
        log_q, fresh = density.cpu().numpy(), True
    size = max(float(np.abs(part[np.isfinite(part)]).max(initial=0.0)) for part in (log_p, log_q))
    precision = float(np.finfo(log_p.dtype if log_p.dtype.kind == "f" else float).eps)
    with np.errstate(invalid="ignore"):
        difference = log_p.astype(np.float64) - log_q.astype(np.float64)
    return np.where(np.isneginf(log_p) | np.isposinf(log_q), -np.inf, difference), fresh, 8 * precision * size


def importance(log_weight: Array, fresh: bool, rounding: float) -> Evidence:
    """From the weights of a guide's draws."""
    remedy = (
        "use method='ais' on the same fit, or another guide: lvm.infer(problem) climbs to one that its weights trust"
    )
    name = "importance sampling" if fresh else "importance sampling, stored draws"
    return from_weights(log_weight, name, remedy=remedy, rounding=rounding)


def annealed(
    problem: Problem,
    posterior: Posterior | None,
    held: Mapping[str, Tensor],
    count: int,
    schedule: int | list[float] | None,
    seed: int,
    progress: Show,
) -> Evidence:
    """Annealed importance sampling from the prior, or from the Gaussian of a posterior's draws."""
    random = np.random.default_rng([seed, 1])
    already = 0  # densities that a frame was found with
    with problem.session(seed=seed, params=held):
        if posterior is None:
            coordinates = Coordinates.plain(problem)
            path, base = prior_path(problem, coordinates)
            start = prior_points(problem, base, count + _climbers(problem))
        else:
            coordinates = Coordinates.framed(problem, posterior.seed)
            already = coordinates.target.evaluations
            points = stored_draws(posterior, coordinates)
            path, gaussian = gaussian_path(points.reshape(-1, points.shape[-1]), coordinates)
            start = gaussian.sample(count + _climbers(problem), random)
        climbing, rest = start[count:], start[:count]
        plan = pilot(path, climbing, random, schedule)
        before = coordinates.target.evaluations - already
        log_weight = _climb(problem, path, rest, plan, random, progress)
        each = (coordinates.target.evaluations - already - before) / count
    name = "annealing from the prior" if posterior is None else f"annealing from {posterior.name}"
    remedy = f"take more rungs, schedule={2 * len(plan.rungs)}, or more draws"
    found = from_weights(log_weight, name, each=each, before=before, exactly=True, remedy=remedy)
    return _with(found, _about(plan))


def bidirectional(
    problem: Problem,
    held: Mapping[str, Tensor],
    count: int,
    schedule: int | list[float] | None,
    seed: int,
    progress: Show,
) -> Evidence:
    """Annealing up and down on data simulated from the model, whose latents are a draw of their posterior."""
    simulator = Simulator.of(problem)
    truth, observed = simulator.draw(seed)
    simulated = simulator.attach(observed)
    random = np.random.default_rng([seed, 2])
    with simulated.session(seed=seed, params=held):
        coordinates = Coordinates.plain(simulated)
        path, base = prior_path(simulated, coordinates)
        start = prior_points(simulated, base, count + _climbers(simulated))
        plan = pilot(path, start[count:], random, schedule)
        up = _climb(simulated, path, start[:count], plan, random, progress)
        one = coordinates.target.points(
            {site.name: truth[site.name].to(simulated.dtype)[None] for site in simulated.continuous}
        )
        cloud = path(np.repeat(one, count, axis=0))
        for _ in range(CONFIRM):
            cloud, _accepted = move(path, cloud, plan.rungs[-1], random)
        with Progress(f"annealing {simulated.name} down", len(plan.rungs), progress) as bar:
            down = backward(path, cloud.points, plan.rungs, random, lambda done: bar.update(done, lambda: "rungs"))
        evaluations = coordinates.target.evaluations
    lower = from_weights(up, "", exactly=True)
    upper = from_weights(-down, "", exactly=True)
    both = bridged(down[None], up)
    gap = -upper.value - lower.value
    figures = {
        "gap": gap, "lower_error": lower.error, "upper_error": upper.error, "ess_up": lower.figures["ess"],
        "ess_down": upper.figures["ess"], **_about(plan),
    }  # fmt: skip
    text = f"{len(plan.rungs)} rungs and {count:,} particles leave {gap:.2g} nats between the bounds."
    # Bounds that cross by more than their errors would say that the two directions are not of one path.
    wide = gap > 1.0 or not math.isfinite(gap)
    crossed = gap < -4 * math.hypot(lower.error, upper.error) - 1e-6
    status: Status = "failed" if crossed or not math.isfinite(gap) else "doubtful" if wide else "trusted"
    steps = [f"take more rungs, schedule={2 * len(plan.rungs)}, or more draws"] if status != "trusted" else []
    # The one exact draw is shared by all particles that go down, so the bridge's own error may be too small.
    error = max(both.error, abs(gap) / 2)
    return Evidence(
        both.value, error, "bidirectional annealing", Verdict.of([Reason(status, text, {"gap": gap})], steps),
        lower=lower.value, upper=-upper.value, figures=figures, trace=_two_sided(up, down, evaluations),
        evaluations=evaluations, problem=simulated,
    )  # fmt: skip


def _two_sided(up: Array, down: Array, evaluations: int) -> pd.DataFrame:
    """Both bounds from the first particles, twice as many in each row."""
    import pandas as pd

    count, rows = len(up), []
    for size in [count >> k for k in range(7, -1, -1) if count >> k >= 8]:
        low, high = from_weights(up[:size], "", exactly=True), from_weights(-down[:size], "", exactly=True)
        middle = (low.value - high.value) / 2
        row = {"draws": size, "evaluations": int(evaluations * size / count), "value": middle}
        rows.append(row | {"error": math.hypot(low.error, high.error) / 2, "lower": low.value, "upper": -high.value})
    return pd.DataFrame(rows)


def _climbers(problem: Problem) -> int:
    return min(max(PARTICLES, PER_UNKNOWN * problem.unconstrained_size), MOST_PARTICLES)


def _climb(
    problem: Problem, path: Path, start: Array, plan: Plan, random: np.random.Generator, progress: Show
) -> Array:
    with Progress(f"annealing {problem.name}", len(plan.rungs), progress) as bar:
        return forward(path, start, plan.rungs, random, lambda done: bar.update(done, lambda: "rungs"))


def _about(plan: Plan) -> dict[str, float]:
    return {"rungs": float(len(plan.rungs)), "path_length": plan.length, "acceptance": plan.acceptance}


def _with(found: Evidence, figures: Mapping[str, float]) -> Evidence:
    return replace(found, figures={**found.figures, **figures})


def bridge(posterior: Posterior, draws: int | None, seed: int) -> Evidence:
    """Bridge sampling between one half of a posterior's draws and the Gaussian of the other, and the other way round."""
    import pandas as pd

    problem = posterior.attached
    sizes = posterior.data["posterior"].sizes
    if int(sizes["draw"]) < 20:
        raise ArgumentError(
            f"{posterior.name} has {int(sizes['draw'])} draws a chain, of which a bridge needs 20 or more. Fix: draw more."
        )
    random = np.random.default_rng([seed, 3])
    with problem.session(seed=seed, params=posterior.params):
        coordinates = Coordinates.framed(problem, posterior.seed)
        already = coordinates.target.evaluations
        points = stored_draws(posterior, coordinates)
        half = points.shape[1] // 2
        halves = points[:, :half], points[:, half : 2 * half]
        count = draws or halves[0].shape[0] * half
        pairs = [_log_ratios(coordinates, one, other, count, random) for one, other in (halves, halves[::-1])]
        own = coordinates.target.evaluations - already
    found = averaged(*(bridged(*pair) for pair in pairs))
    spent = own + _spent(posterior)
    rows = []
    for k in range(5, -1, -1):
        some, few = half >> k, count >> k
        if some >= 8 and few >= 8:
            part = averaged(*(bridged(up[:, :some], down[:few]) for up, down in pairs))
            used = 2 * some * points.shape[0]
            rows.append({"draws": used, "evaluations": spent >> k, "value": part.value, "error": part.error})
    figures = {
        "ess": found.ess, "error_posterior": found.error_posterior, "error_proposal": found.error_proposal,
        "draws": float(half * len(points)), "proposal_draws": float(count),
    }  # fmt: skip
    verdict = _judged(posterior, found.converged, found.ess, found.error, half * len(points))
    return Evidence(
        found.value, found.error, f"bridge sampling of {posterior.name}", verdict, figures=figures, trace=pd.DataFrame(rows),
        evaluations=spent,
    )  # fmt: skip


def _log_ratios(
    coordinates: Coordinates, fitted: Array, kept: Array, count: int, random: np.random.Generator
) -> tuple[Array, Array]:
    """Log p - log g at posterior draws ``(chains, draws)`` and at draws of the Gaussian g of others."""
    size = kept.shape[-1]
    proposal = Gaussian.of(fitted.reshape(-1, size))
    found = []
    for points in (kept.reshape(-1, size), proposal.sample(count, random)):
        value = coordinates.target.values(points)
        found.append(np.asarray(value - proposal(points)[0]))
    return found[0].reshape(kept.shape[:2]), found[1]


def _spent(posterior: Posterior) -> int:
    """Densities that a posterior's draws took, as far as it says."""
    stats, attrs = posterior.data["sample_stats"], posterior.data["posterior"].attrs
    steps = int(stats["n_steps"].sum()) if "n_steps" in stats else 0
    return steps + int(attrs.get("warmup_steps", 0))


def _judged(posterior: Posterior, converged: bool, ess: float, error: float, draws: int) -> Verdict:
    """A bridge is as good as the draws that it starts from."""
    figures = {"ess": ess, "error": error}
    reasons, steps = [], []
    if not converged or not math.isfinite(error):
        reasons.append(
            Reason("failed", "The iteration did not settle: posterior and proposal hardly overlap.", figures)
        )
        steps.append("use method='ais'")
    elif ess < LEAST_ESS or error > 0.3:
        reasons.append(
            Reason("doubtful", f"{ess:,.0f} of {draws:,} draws are effective for the bridge: too few.", figures)
        )
        steps.append("draw more, or use method='ais'")
    else:
        reasons.append(Reason("trusted", f"{ess:,.0f} of {draws:,} draws are effective for the bridge.", figures))
    own = posterior.verdict.status
    if own == "trusted":
        reasons.append(Reason("trusted", f"The draws of {posterior.name} are trusted."))
    else:
        text = f"The draws of {posterior.name} are {own}, and the bridge takes them for the posterior's."
        reasons.append(Reason(own, text))
        steps.append("see the verdict of the posterior")
    return Verdict.of(reasons, steps)
