"""``lvm.evidence``: the log marginal likelihood of the data by one of several methods, or by several at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, ProblemError, checked_seed, positive_int, unknown_name
from pyrolvm._base.habits import verb
from pyrolvm._methods.evidence import estimators
from pyrolvm._methods.evidence.result import Evidences
from pyrolvm._methods.evidence.setting import check_evidence
from pyrolvm._methods.evidence.storage import CODEC, COMMAND
from pyrolvm._methods.exact import exact
from pyrolvm._methods.fit import fit
from pyrolvm._methods.nuts import nuts
from pyrolvm._program.density.prior import check_proper
from pyrolvm._program.origin import origin_of
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._results import Chains, Evidence, Exact, Fit, Posterior, store
from pyrolvm._results.weights import bound_of_weights
from pyrolvm.family import frame_pays

__all__ = ["METHODS", "evidence"]

METHODS = ("exact", "prior", "importance", "iw_bound", "ais", "bidirectional", "bridge")
"""What ``method`` may be, besides ``"auto"``."""

DRAWS = {"prior": 10_000, "importance": 10_000, "iw_bound": 16_384, "ais": 1_000, "bidirectional": 1_000, "bridge": 0}
"""Draws or particles that a method takes by default; of a bridge's proposal, as many as there are of the posterior."""

BASES = ("auto", "prior", "posterior")

Show = bool | Callable[[int, int, str], None]


@overload
def evidence(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
    subject: Problem | Posterior,
    method: str = ...,
    *,
    draws: int | None = ...,
    base: str = ...,
    schedule: int | Sequence[float] | None = ...,
    params: Posterior | Mapping[str, Tensor] | None = ...,
    seed: int = ...,
    progress: Show = ...,
    out: str | Path | None = ...,
    resume: bool | str = ...,
    overwrite: bool = ...,
) -> Evidence: ...
@overload
def evidence(
    subject: Problem | Posterior,
    method: Sequence[str],
    *,
    draws: int | None = ...,
    base: str = ...,
    schedule: int | Sequence[float] | None = ...,
    params: Posterior | Mapping[str, Tensor] | None = ...,
    seed: int = ...,
    progress: Show = ...,
    out: str | Path | None = ...,
    resume: bool | str = ...,
    overwrite: bool = ...,
) -> Evidences: ...
@verb
def evidence(
    subject: Problem | Posterior,
    method: str | Sequence[str] = "auto",
    *,
    draws: int | None = None,
    base: str = "auto",
    schedule: int | Sequence[float] | None = None,
    params: Posterior | Mapping[str, Tensor] | None = None,
    seed: int = 0,
    progress: Show = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> Evidence | Evidences:
    r"""Estimates the log marginal likelihood :math:`\log p(y) = \log \int p(y, z)\,dz` of a problem's data, in nats, with its error.

        >>> lvm.evidence(problem, method="ais", seed=0)

    ================= ========================================================================== ==================
    method            how                                                                        gives
    ================= ========================================================================== ==================
    ``exact``         :func:`pyrolvm.exact`, where the model's structure allows it               the value
    ``prior``         mean likelihood at prior draws; for a few unknowns and vague data alone    an estimate
    ``importance``    weights of a guide's draws, Pareto smoothed                                an estimate
    ``iw_bound``      the bound of K draws of a guide, K = 1, 2, 4, ...                          a lower bound
    ``ais``           annealed importance sampling, Hamiltonian moves, adaptive rungs            an estimate
    ``bidirectional`` annealing both ways on data simulated from the model                       both bounds
    ``bridge``        bridge sampling between posterior draws and a Gaussian                     an estimate
    ================= ========================================================================== ==================

    Discrete latents with finitely many values are summed out. Each result has a verdict, which says so where the error cannot be
    believed. No method sees a mode that none of its draws fell in.

    Args:
        subject: a problem, or a posterior of it. ``importance`` and ``iw_bound`` draw from a fit's guide, corrected or not, and
            ``bridge`` takes the draws of any posterior. Of a problem alone they first fit guide ``student`` (``"auto"`` where that
            one is too dear), or run NUTS, with default settings.
        method: one of the table, or several for an :class:`~pyrolvm.Evidences`; ``"auto"`` is ``"importance"`` for a
            fit, ``"bridge"`` for chains, and for a problem ``"exact"`` where it applies, else ``"ais"``.
        draws: draws, or annealed particles, or of a bridge's proposal; by default 10,000 (1,000 particles, as many as the posterior's).
        base: where annealing starts: at the ``"prior"``, or at the Gaussian with mean and covariance of a ``"posterior"``'s draws;
            ``"auto"`` takes the posterior where one is given.
        schedule: how many rungs annealing has, or their shares of the likelihood, rising to 1; by default found by a pilot run.
        params: values at which learnable parameters of a problem are held, as for :func:`pyrolvm.exact`.
        seed: makes it repeatable.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in, of several methods each as soon as it is there.
        resume: with ``out``: return the finished result that is there, or go on with the methods that are missing, if it is of the
            same problem, options and seed; what was killed is run again. ``"any-version"`` under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this one is finished.

    Raises:
        ArgumentError: if an argument is out of range, or does not suit the method.
        UnknownNameError: if there is no such method.
        ProblemError: if the evidence is not defined, since a prior is improper; the site is named. If ``exact`` does not apply, or
            ``bidirectional`` cannot simulate data.
        FitError: if a method cannot go on.

    References:
        Grosse, Ghahramani, Adams, *Sandwiching the marginal likelihood using bidirectional Monte Carlo*,
        https://arxiv.org/abs/1511.02543;
        Neal, *Annealed importance sampling*, https://arxiv.org/abs/physics/9803008;
        Gronau et al., *A tutorial on bridge sampling*, https://arxiv.org/abs/1703.05984;
        Vehtari et al., *Pareto smoothed importance sampling*, https://arxiv.org/abs/1507.02646;
        Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders*, https://arxiv.org/abs/1509.00519
    """
    given = dict(locals())
    posterior = subject if isinstance(subject, Posterior) else None
    problem = posterior.attached if posterior is not None else check_problem(subject)
    asked = runs.order(out, resume, overwrite)
    seed = checked_seed(seed)
    words = store.counted(evidence, given)
    asks = {"of": subject, "methods": method if isinstance(method, str) else list(method), **words}
    about = {} if out is None else store.identity("Evidence", problem, None, seed, asks)

    def work(run: runs.Run | None) -> Evidence | Evidences:
        if isinstance(method, str):
            return _one(posterior, problem, method, seed=seed, progress=progress, **words)
        return _several(subject, problem, list(method), seed=seed, progress=progress, run=run, **words)

    return runs.run(asked, COMMAND, about, CODEC, work)


def _one(
    posterior: Posterior | None,
    problem: Problem,
    method: str,
    *,
    draws: int | None,
    base: str,
    schedule: int | Sequence[float] | None,
    params: Posterior | Mapping[str, Tensor] | None,
    seed: int,
    progress: Show,
) -> Evidence:
    if method not in ("auto", *METHODS):
        raise unknown_name("evidence method", method, ("auto", *METHODS))
    if draws is not None:
        positive_int("draws", draws, minimum=8)
    if base not in BASES:
        raise unknown_name("base", str(base), BASES)
    rungs = _rungs(schedule)
    held = _held(problem, posterior, params)
    chosen = _auto(problem, posterior) if method == "auto" else method
    _check_point(posterior, chosen, base)
    if schedule is not None and chosen not in ("ais", "bidirectional"):
        raise ArgumentError(f"method {chosen!r} has no schedule. Fix: leave it out, or use method='ais'.")
    started = time.perf_counter()

    def of(found: Evidence) -> Evidence:
        return replace(found, seconds=time.perf_counter() - started, origin=origin_of(problem))

    if chosen == "exact":
        return of(_exactly(problem, posterior, held, seed))
    if chosen == "auto":
        try:
            return of(_exactly(problem, posterior, held, seed))
        except ProblemError:
            chosen = "ais"
    check_evidence(problem, held, chosen)
    found = _run(problem, posterior, chosen, draws, base, rungs, held, seed, progress)
    return of(found)


def _several(
    subject: Problem | Posterior,
    problem: Problem,
    methods: list[str],
    *,
    draws: int | None,
    base: str,
    schedule: int | Sequence[float] | None,
    params: Posterior | Mapping[str, Tensor] | None,
    seed: int,
    progress: Show,
    run: runs.Run | None,
) -> Evidences:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise unknown_name("evidence method", unknown[0], METHODS)
    if "bidirectional" in methods:
        raise ArgumentError(
            "bidirectional is of simulated data, whose evidence is another one than that of the problem's. Fix: call it by itself."
        )
    found: dict[str, Evidence] = {}
    for name in methods:
        rungs = schedule if name == "ais" else None
        kept = runs.Order() if run is None else run.stage(name)
        found[name] = evidence(
            subject, name, draws=draws, base=base, schedule=rungs, params=params, seed=seed, progress=progress, out=kept.out,
            resume=kept.resume,
        )  # fmt: skip
    exact = found["exact"].value if "exact" in found else None
    if exact is None:
        held = _held(problem, subject if isinstance(subject, Posterior) else None, params)
        try:
            exact = _exactly(problem, None, held, seed).value
        except ProblemError:
            exact = None
    return Evidences(found, exact)


def _rungs(schedule: int | Sequence[float] | None) -> int | list[float] | None:
    """A schedule, checked.

    Raises:
        ArgumentError: if it is not a count of at least 2, or does not rise from above 0 to 1.
    """
    if schedule is None:
        return None
    if not isinstance(schedule, Sequence | np.ndarray | Tensor):
        return positive_int("schedule", schedule, minimum=2)
    betas = [float(beta) for beta in schedule]
    rising = all(a < b for a, b in zip([0.0, *betas], betas, strict=False))
    if not betas or not rising or betas[-1] != 1.0:
        raise ArgumentError(
            f"schedule must rise from above 0 to 1, got {betas if len(betas) < 6 else f'{betas[:4]} and so on to {betas[-1]}'}. "
            "Fix: pass for example [0.01, 0.1, 0.3, 0.6, 1.0], or a number of rungs."
        )
    return betas


def _held(
    problem: Problem, posterior: Posterior | None, params: Posterior | Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Values of learnable parameters.

    Raises:
        ArgumentError: if both a posterior and parameters are given.
    """
    if posterior is not None:
        if params is not None:
            raise ArgumentError("params are those of the posterior that is given. Fix: leave params out.")
        return dict(posterior.params)
    given = params.params if isinstance(params, Posterior) else dict(params or {})
    return {name: value for name, value in given.items() if name in problem.parameters}


def _auto(problem: Problem, posterior: Posterior | None) -> str:
    if posterior is None:
        return "auto"
    return "exact" if isinstance(posterior, Exact) else "importance" if isinstance(posterior, Fit) else "bridge"


def _check_point(posterior: Posterior | None, method: str, base: str) -> None:
    """Refuses methods that take a point for draws of a density.

    Raises:
        ArgumentError: with the methods that do not need one.
    """
    if not isinstance(posterior, Fit) or not posterior.point_estimate:
        return
    if method in ("importance", "iw_bound", "bridge") or (method == "ais" and base == "posterior"):
        raise ArgumentError(
            f"{posterior.name} is a point estimate: its draws have no density, so method {method!r} has no weights. "
            "Fix: use method='ais', or lvm.evidence(problem), which need no guide."
        )


def _exactly(problem: Problem, posterior: Posterior | None, held: Mapping[str, Tensor], seed: int) -> Evidence:
    if isinstance(posterior, Exact):
        return posterior.evidence
    with problem.session(seed=0, params=held):
        check_proper(problem)
    return exact(problem, draws=200, params=held, seed=seed, progress=False).evidence


def _run(
    problem: Problem,
    posterior: Posterior | None,
    method: str,
    draws: int | None,
    base: str,
    rungs: int | list[float] | None,
    held: Mapping[str, Tensor],
    seed: int,
    progress: Show,
) -> Evidence:
    count = draws or DRAWS[method]
    if base == "posterior" and posterior is None:
        raise ArgumentError("base='posterior' needs a posterior. Fix: pass lvm.fit(problem) instead of the problem.")
    if base != "auto" and method != "ais":
        raise ArgumentError(f"method {method!r} has no base. Fix: leave base out, or use method='ais'.")
    if method == "bidirectional":
        return estimators.bidirectional(problem, held, count, rungs, seed, progress)
    if method == "prior":
        return estimators.prior(problem, held, count, seed)
    if method == "ais":
        point = isinstance(posterior, Fit) and posterior.point_estimate
        chosen = posterior if base != "prior" and not point else None
        return estimators.annealed(problem, chosen, held, count, rungs, seed, progress)
    if method == "bridge":
        return estimators.bridge(_sampled(problem, posterior, held, seed, progress), draws, seed)
    fit = _fitted(problem, posterior, held, method, seed, progress)
    weights, fresh, rounding = estimators.guide_weights(fit, count, seed)
    if method == "importance":
        return estimators.importance(weights, fresh, rounding)
    return bound_of_weights(weights, seed=seed, rounding=rounding)


def _sampled(
    problem: Problem, posterior: Posterior | None, held: Mapping[str, Tensor], seed: int, progress: Show
) -> Posterior:
    """Draws to build a bridge from: those given, or NUTS."""
    if posterior is not None:
        return posterior
    if problem.parameters:
        raise ProblemError(
            f"{problem.name} has learnable parameters, at which NUTS has to hold it. "
            "Fix: pass lvm.nuts(problem, init=fit) instead of the problem."
        )
    return nuts(problem, seed=seed, progress=progress)


def _fitted(
    problem: Problem,
    posterior: Posterior | None,
    held: Mapping[str, Tensor],
    method: str,
    seed: int,
    progress: Show,
) -> Fit | Exact:
    """A guide to draw from: the one given, or one fitted now.

    Raises:
        ArgumentError: if the posterior has none.
    """
    if isinstance(posterior, Fit | Exact):
        return posterior
    if isinstance(posterior, Chains):
        raise ArgumentError(
            f"{posterior.name} has no density that its draws are from, so method {method!r} has no weights. "
            "Fix: use method='bridge', or pass a fit."
        )
    if problem.parameters:
        raise ProblemError(
            f"{problem.name} has learnable parameters, which a fit moves. Fix: pass the fit instead of the problem."
        )
    guide = "student" if frame_pays(problem) else "auto"
    return fit(problem, guide, seed=seed, progress=progress)
