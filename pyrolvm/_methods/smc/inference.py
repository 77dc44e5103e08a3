"""``lvm.smc``: tempered sequential Monte Carlo, for posteriors of several modes and for the evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base import budget
from pyrolvm._base.errors import checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.interrupts import Stopped, held
from pyrolvm._base.progress import Progress, Show, shown
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._diagnosis.recorded import record
from pyrolvm._methods.arguments import held_parameters, warn_of_subsamples
from pyrolvm._methods.smc.arguments import (
    between,
    check_memory,
    check_particles,
    started,
)
from pyrolvm._methods.smc.copies import Copies
from pyrolvm._methods.smc.evidence import estimate
from pyrolvm._methods.smc.judge import STEPS, judge, mode_shares
from pyrolvm._methods.smc.keeper import Keeper
from pyrolvm._methods.smc.result import Particles
from pyrolvm._methods.smc.sampler import Swarm, begin, climb
from pyrolvm._methods.smc.setting import Setting, check_problem_for_smc
from pyrolvm._methods.smc.tree import Spread, dealt, particles_tree, spread
from pyrolvm._methods.smc.walk import Settings
from pyrolvm._methods.table import result_type
from pyrolvm._program.density import with_digits
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.steady import check_steady_model
from pyrolvm._program.symmetry import find_symmetries
from pyrolvm._results import Posterior, store
from pyrolvm._results.afresh import check_afresh

__all__ = ["smc"]

OF_MODES = {"modes", "rhat", "restarts"}
"""Figures of a posterior's verdict that say that it may be of one mode of several."""

SHARE, LEAST_SECONDS = 0.5, 10.0
"""What groups of a result may take, as a share of the run and at least: draws are evaluated one by one only so long."""


@verb
@at_the_door
def smc(
    problem: Problem,
    *,
    particles: int = 2048,
    islands: int = 4,
    start: str | Posterior = "prior",
    ess: float = 0.5,
    forget: float = 0.2,
    max_moves: int = 50,
    params: Posterior | Mapping[str, Tensor] | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    progress: Show = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    checkpoint_every: float | None = None,
) -> Particles:
    """Samples a problem's posterior, and estimates its evidence, by tempered sequential Monte Carlo.

        >>> particles = lvm.smc(problem, particles=512, seed=0)
        >>> particles.evidence  # beside the draws, with its error

    Particles go from the prior to the posterior in stages, of which each takes in more of the likelihood; what they are at each stage
    says how far the next one goes and how to move there. For posteriors of several modes, whose shares come out right, and for the
    evidence. It evaluates some hundred thousand densities with gradients, all particles at once, so the model has to be captured or to
    run for many draws at once.

    Discrete latents with finitely many values are summed out, and drawn afterwards given the rest. A model that
    subsamples by itself is run on all its rows. Draws of a posterior that consists of copies of one mode (exchangeable components, free
    signs), found by trying the program, are spread over all copies.

    Args:
        problem: a model with its data.
        particles: how many, of all islands together; a multiple of ``islands``. They are the draws.
        islands: parts of the particles whose shares do not mix: how they differ shows what chance does. They are the result's chains.
        start: ``"prior"``, or a posterior: a law about its draws, wider than they are. Of a mode that this posterior has missed,
            particles find what is near. A fit's learnable parameters are held at their fitted values.
        ess: the effective share of the particles that a stage leaves, between 0 and 1; nearer to 1 makes more and smaller steps.
        forget: the largest correlation with where particles were, of any coordinate, at which they stop to move.
        max_moves: Hamiltonian moves of a stage at most.
        params: values at which learnable model parameters are held, as for :func:`pyrolvm.exact`; by default those of ``start``.
        device: as in :func:`pyrolvm.fit`; ``"auto"`` leaves the problem where its data are.
        dtype: a floating dtype to run in; by default the data's.
        seed: makes the run repeatable.
        progress: whether to show a bar; or a function of ``(done, total, text)``, in thousandths of the path.
        out: a folder to save the result in, and the particles on the way.
        resume: with ``out``: return the finished result that is there, or go on from the last checkpoint, if it is of the same
            model, data, options, seed and versions. The result is then what it would have been. ``"any-version"`` goes on under
            other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this run is finished.
        checkpoint_every: seconds between checkpoints, which are between stages; by default 60, or more where they would take over 1% of
            the time.

    Raises:
        ArgumentError: if an argument is out of range, or rows come from a stream.
        ProblemError: if there is nothing continuous to move in, a discrete latent cannot be summed out, a prior is improper (the
            site is named), or there are parameters without a prior and without values.
        FitError: if the density can only be run for one draw at a time, or the particles do not arrive.
        StoreError: if ``out`` holds another run, or another process writes to it.

    References:
        Del Moral, Doucet, Jasra, *Sequential Monte Carlo samplers*, https://doi.org/10.1111/j.1467-9868.2006.00553.x;
        Buchholz, Chopin, Jacob, *Adaptive tuning of Hamiltonian Monte Carlo within sequential Monte Carlo*,
        https://arxiv.org/abs/1808.07730;
        Lee and Whiteley, *Variance estimation in the particle filter*, https://arxiv.org/abs/1509.00394
    """
    given = dict(locals())
    check_problem(problem)
    asked = runs.order(out, resume, overwrite, checkpoint_every)
    settings = Settings(
        between("ess", ess, 0.5), between("forget", forget, 0.2), positive_int("max_moves", max_moves, minimum=2)
    )
    check_particles(particles, islands)
    seed = checked_seed(seed)
    posterior = started(start, problem)
    held_at = held_parameters(problem, posterior if params is None else params)
    check_problem_for_smc(problem, held_at)
    warn_of_subsamples(problem, "particles on subsamples do not go to the posterior")
    problem = problem.to(dtype=dtype, device=None if str(device) == "auto" else device)
    problem = problem if dtype is not None else with_digits(problem)
    check_memory(problem, particles)

    def work(run: runs.Run | None) -> Particles:
        return _run(problem, particles, islands, settings, posterior, held_at, seed, progress, Keeper(run))

    kept = store.keep(asked, smc, given, work, problem, kind="Particles", kinds=result_type, params=held_at)
    return cast("Particles", kept)


def _run(
    problem: Problem,
    particles: int,
    islands: int,
    settings: Settings,
    posterior: Posterior | None,
    params: dict[str, Tensor],
    seed: int,
    progress: Show,
    keeper: Keeper,
) -> Particles:
    began = time.perf_counter()
    check_steady_model(problem)
    symmetries = find_symmetries(problem)
    with problem.session(seed=seed, params=params):
        setting = Setting.of(problem, posterior)
        target = setting.target
        copies = Copies(symmetries, target, seed) if setting.from_prior and symmetries.blocks else None
        points = setting.start(problem, particles, np.random.default_rng([seed, 11]))
        first = begin(setting.path, points, islands)
        alive = np.isfinite(first.cloud.ratio).reshape(islands, -1).sum(axis=1)
        set_up = time.perf_counter()
        swarm = _climbed(problem, setting, keeper.begin(first), settings, seed, copies, progress, keeper)
        arrived = time.perf_counter()
        which = dealt(swarm)
        found = spread(
            setting.draws(swarm.cloud.points[which.reshape(-1)]), symmetries, seed, everywhere=setting.from_prior
        )
        estimated = estimate(swarm, more=found.hidden or 0.0)
        shares = mode_shares(swarm)
        verdict = judge(swarm, settings, estimated, shares, alive).and_also(_of_start(posterior, found))
        attrs = {
            "inference_method": "smc", "engine": target.engine, "seed": seed, "start": posterior.name if posterior else "prior",
            "stages": len(swarm.stages), "evaluations": sum(stage.evaluations for stage in swarm.stages),
            "sampling_time": arrived - set_up,
        }  # fmt: skip
        with budget.finishing(max(SHARE * (arrived - began), LEAST_SECONDS)), shown(progress):
            tree = particles_tree(problem, swarm, which, found, estimated, shares, attrs)
    record(tree, verdict, STEPS)
    check_afresh(tree, problem, params, seed=seed)
    return Particles(
        name="smc", data=tree, problem=problem, params=params, engine=target.engine, engine_reason=target.reason, seed=seed,
        seconds={"setup": set_up - began, "run": arrived - set_up, "draws": time.perf_counter() - arrived},
    )  # fmt: skip


def _climbed(
    problem: Problem,
    setting: Setting,
    swarm: Swarm,
    settings: Settings,
    seed: int,
    copies: Copies | None,
    progress: Show,
    keeper: Keeper,
) -> Swarm:
    """The particles at the posterior.

    Raises:
        KeyboardInterrupt: if that is asked for; the particles after the last stage are kept, where there is a folder for them.
        Spent: if the seconds of a budget are over.
    """
    with held() as pending, Progress(f"smc on {problem.name}", 1000, progress) as bar:
        for now in climb(setting.path, swarm, settings, seed, copies):
            swarm = now
            bar.update(
                _done(swarm.beta),
                partial("inverse temperature {:.2g}, {} stages".format, swarm.beta, len(swarm.stages)),
            )
            if swarm.beta == 1:
                break
            keeper.look(swarm)
            try:
                pending.check()
            except Stopped:
                keeper.look(swarm, now=True)
                raise budget.Spent(
                    "the seconds of the budget are over before particles were at the posterior. Fix: raise budget."
                ) from None
            except BaseException:
                keeper.look(swarm, now=True)
                raise
    return swarm


def _done(beta: float) -> int:
    """How far it is to an inverse temperature, in thousandths of the path, if the way goes by its root."""
    return int(1000 * beta**0.25)


def _of_start(posterior: Posterior | None, found: Spread) -> Verdict:
    """What a start at a posterior leaves open: modes that it has missed, and copies of it."""
    if posterior is None:
        return Verdict("trusted")
    reasons = []
    for reason in posterior.verdict.reasons:
        if reason.status != "trusted" and OF_MODES & set(reason.figures):
            text = f"The start may have missed a mode: {reason.text}"
            reasons.append(Reason("doubtful", text, {"modes of the start": 0.0}))
    if found.hidden is None:
        text = "The start is in some copies of the posterior, and perhaps not in all: so is the evidence."
        reasons.append(Reason("doubtful", text, {"copies counted": 0.0}))
    elif found.hidden:
        text = f"The start is in one copy of the posterior; {found.hidden:.2f} nats of the evidence are of the other copies."
        reasons.append(Reason("trusted", text, {"nats of other copies": found.hidden}))
    doubtful = any(reason.status != "trusted" for reason in reasons)
    return Verdict.of(reasons, ['Start from the prior (start="prior").'] if doubtful else [])
