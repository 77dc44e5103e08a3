"""``lvm.nuts``: the No-U-Turn sampler on the same problem, without rewriting the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pyrolvm import _runs as runs
from pyrolvm._base import budget
from pyrolvm._base.errors import (
    ArgumentError,
    CaptureError,
    checked_seed,
    positive_int,
    unknown_name,
)
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.machine import require_memory
from pyrolvm._base.progress import Progress, Show
from pyrolvm._methods.arguments import check_has_posterior, warn_of_subsamples
from pyrolvm._methods.nuts import engines, nutpie_kernel
from pyrolvm._methods.nuts.base import Raw, Settings
from pyrolvm._methods.nuts.checkpoint import ChainKeeper
from pyrolvm._methods.nuts.finishing import require_draws, tree_of_chains
from pyrolvm._methods.nuts.metric import STRETCHING, Learnt, Unmoved, learn, why_not
from pyrolvm._methods.nuts.starts import find_starts, frame_engine, moments, sampling_frame
from pyrolvm._program.density import Joint, with_digits
from pyrolvm._program.density.target import Target
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.steady import check_steady_model
from pyrolvm._results import Chains, Fit, store
from pyrolvm._results.afresh import check_afresh
from pyrolvm.family import Frame
from pyrolvm.family.frame import PAYS_UNKNOWNS

__all__ = ["nuts"]

PRECONDITIONS = ("auto", "frame", "none")
"""What ``precondition`` may be of any sampler."""
LOW_RANK = "low_rank"

WARMUP, FRAMED = 1_000, 300
"""Transitions of ``warmup="auto"``: without a frame, and in one, where step sizes alone have to be found.

With 300 in place of 1,000, 12 posteriors of posteriordb and the hard set were trusted twice each and as near to their references, by
half the gradients before the first kept draw.
"""

ACCEPTS = (0.8, 0.95, 0.99)
"""Acceptance probabilities of ``target_accept="auto"``: of the first run, and of others as long as the last diverged."""

LEARNT = 0.9
"""The same where a metric of many unknowns is learnt: what is left to the scales of scales takes longer trajectories.

Of 4 chains of 1,000 draws the least effective ones are 1,385 with it and 842 with 0.8 on a volatility of 1,003 unknowns (20 and 18 CPU
s), 888 and 543 on children of 1,595 mothers (32 and 26), and 2,367 and 2,342 on answers of 500 persons (62 and 48).
"""

AGAIN_SECONDS = 30.0
"""Seconds of an ordinary processor that the gradients of a chain may have taken for another run to be no matter."""

UNKNOWN, NUMBER = 1e-9, 2e-8
"""Seconds of an ordinary processor for an entry of a dense mass matrix, and for a coordinate or a number of the data where no frame
has a density of the problem."""

AGAIN_SHARE = 0.1
"""The share of draws that diverge from which on the next run takes the smallest steps of all.

Of a level that walks for 100 steps in a loop, whose scale is between a half and twice its mode, 20% diverged at 0.8 and R-hat was 1.2;
at 0.95 there were a few, and at 0.99 none.
"""


@verb
@at_the_door
def nuts(
    problem: Problem,
    *,
    chains: int = 4,
    warmup: int | str = "auto",
    draws: int = 1000,
    target_accept: float | str = "auto",
    max_tree_depth: int = 10,
    init: Fit | Mapping[str, object] | None = None,
    dense_mass: bool | str = "auto",
    precondition: str = "auto",
    engine: str = "auto",
    kernel: str = "auto",
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    checkpoint_every: float | None = None,
) -> Chains:
    """Samples a problem's posterior with NUTS, several chains.

        >>> chains = lvm.nuts(problem, chains=4, draws=500, seed=0)
        >>> chains.summary()[["mean", "sd", "rhat"]]

    Discrete latents with finitely many values are summed out, and drawn afterwards given the rest. A model that
    subsamples by itself is run on all its rows. An interrupt (Ctrl-C) keeps the draws that all chains have.

    Args:
        problem: a model with its data.
        chains: independent chains; at least two are needed for a trusted verdict.
        warmup: transitions of each chain that adapt step size and mass matrix, and are dropped; ``"auto"`` is 300 in a frame, whose
            scales are known, and else 1,000.
        draws: transitions of each chain that are kept.
        target_accept: mean acceptance probability to adapt to, between 0 and 1; nearer to 1 is slower and diverges less. ``"auto"``
            is 0.8, and 0.9 where scales are learnt of more than 500 unknowns; where draws of chains in a frame diverge and the
            gradients of a chain take at most 30 seconds of an ordinary processor, whatever else this one does, all chains are run
            again at 0.95, then 0.99, or at 0.99 where more than 10% do, from the same starts, and the verdict says so.
        max_tree_depth: bound on the doublings of a trajectory.
        init: where to start: a :class:`~pyrolvm._results.Fit`, or values by site; by default draws of the frame, or without one
            uniform in (-2, 2) on the unconstrained scale. Of a fit, chains take starts from its draws, the first mass matrix from
            their covariance where there is no frame, and learnable model parameters.
        dense_mass: whether the mass matrix has all entries: ``True``, or its diagonal only, ``False``; ``"auto"`` takes all
            where few unknowns are strongly correlated in the frame or the fit.
        precondition: the coordinates to sample in: ``"frame"`` samples in coordinates in which the posterior is nearly standard
            normal, found by ascents and natural gradients before the first transition; ``"low_rank"`` in units of scales and in the
            few directions that they leave long or short, learnt from draws and scores of all chains in the first half of the warmup,
            for more than 500 unknowns by nutpie on engine ``"c"``; ``"none"`` in plain unconstrained space. ``"auto"`` takes the frame
            up to 500 unknowns and 50,000 observed numbers, and above the low rank where it can. Draws are of the model's own sites
            all the same, and of the same posterior: the coordinates change how fast chains move, not where to.
        engine: what runs the model: ``"c"`` compiles the captured model's gradient from C, ``"jax"`` by XLA, ``"pyro"`` runs the
            model as it is; ``"auto"`` takes the first that can. ``engine_reason`` of the result tells which and why.
        kernel: the sampler: ``"nutpie"`` runs on engine ``"c"``, and on ``"jax"`` with a call into
            Python for each gradient; ``"numpyro"`` on ``"jax"``. ``"auto"`` is nutpie where the gradient
            can be compiled from C, else NumPyro's.
        device: where to run, as in :func:`pyrolvm.fit`; ``"auto"`` leaves the problem where its data are.
        dtype: a floating dtype to run in; by default the data's.
        seed: the same seed gives the same result.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in, and checkpoints on the way: where each chain is, and its draws as they come.
        resume: with ``out``: return the finished result that is there, or go on from the last checkpoint, if it is of the same model,
            data, options, seed and versions. The draws are then what they would have been without the interruption, to the last
            bit, on a processor; chains of nutpie, which cannot be taken up in the middle, are run again from their start unless they
            were done. ``"any-version"`` goes on under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this run is finished.
        checkpoint_every: seconds between checkpoints; by default 60, or more where they would take over 1% of the time.

    Raises:
        ArgumentError: if an argument is out of range, or ``precondition="low_rank"`` cannot be had.
        CaptureError: if engine ``"c"`` or ``"jax"`` or a kernel is asked for and the model cannot be captured.
        ProblemError: if there is nothing continuous to sample, or a parameter without a prior and without a fit.
        FitError: if no start has a finite density, or the run is interrupted before the first kept draw.
        StoreError: if ``out`` holds another run, or another process writes to it.

    References:
        Hoffman and Gelman, The No-U-Turn Sampler, https://arxiv.org/abs/1111.4246
        Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo, https://arxiv.org/abs/1701.02434
        Seyboldt, Carlson, Carpenter, Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence,
        https://arxiv.org/abs/2603.18845
    """
    given = dict(locals())
    check_problem(problem)
    asked = runs.order(out, resume, overwrite, checkpoint_every)
    most = WARMUP if isinstance(warmup, str) and warmup == "auto" else positive_int("warmup", warmup, minimum=0)
    engines.check(engine, kernel, most)
    if not isinstance(dense_mass, bool) and dense_mass != "auto":
        raise ArgumentError(
            f'dense_mass must be True, False or "auto", got {dense_mass!r}. Fix: use dense_mass="auto".'
        )
    for name, value in (("chains", chains), ("draws", draws), ("max_tree_depth", max_tree_depth)):
        positive_int(name, value)
    seed = checked_seed(seed)
    _check_accept(target_accept)
    if precondition not in (*PRECONDITIONS, LOW_RANK):
        raise unknown_name("precondition", str(precondition), (*PRECONDITIONS, LOW_RANK))
    check_has_posterior(problem, init, "NUTS")
    warn_of_subsamples(problem, "NUTS on subsamples does not target the posterior")
    problem = problem.to(dtype=dtype, device=None if str(device) == "auto" else device)
    problem = problem if dtype is not None else with_digits(problem)
    check_chains_fit(problem, chains, draws, dense_mass)

    accept = ACCEPTS[0] if isinstance(target_accept, str) else float(target_accept)

    def work(run: runs.Run | None) -> Chains:
        keeper = None if run is None else ChainKeeper(run)
        return _run(
            problem, chains, Settings(most, draws, accept, max_tree_depth, Progress("", 0, False), keeper=keeper), init,
            again=target_accept == "auto", short=warmup == "auto", dense_mass=dense_mass, precondition=precondition,
            engine=engine, kernel=kernel, seed=seed, progress=progress,
        )  # fmt: skip

    return cast("Chains", store.keep(asked, nuts, given, work, problem, kind="Chains", init=described(init)))


def _check_accept(target_accept: Any) -> None:
    """Refuses what is no acceptance probability.

    Raises:
        ArgumentError: if it is neither ``"auto"`` nor a number between 0 and 1.
    """
    number = isinstance(target_accept, int | float) and not isinstance(target_accept, bool)
    if not (number and 0 < target_accept < 1) and target_accept != "auto":
        raise ArgumentError(
            f'target_accept must be "auto" or lie between 0 and 1, got {target_accept!r}. '
            "Fix: use 0.8, or 0.95 to diverge less."
        )


def check_chains_fit(problem: Problem, chains: int, draws: int, dense_mass: bool | str = False) -> None:
    """Refuses more draws, or a larger mass matrix, than there is room for.

    Raises:
        ArgumentError: with what they take and what is free.
    """
    size, item = problem.unconstrained_size, problem.dtype.itemsize
    require_memory(
        f"{chains} chains of {draws:,} draws of {size:,} unknowns take, as the kernel keeps them, on both scales and in the result",
        4.0 * chains * draws * size * item,
        "ask for fewer draws or chains, or pass dtype=torch.float32.",
    )
    if dense_mass is True:
        require_memory(
            f"dense mass matrices of {size:,} unknowns with their roots take, for {chains} chains",
            3.0 * chains * size**2 * item,
            'leave dense_mass at "auto", which takes the diagonal here.',
        )


def described(init: object) -> object:
    """What chains start from, as a run's identity holds it."""
    return {"fit": init.seed, **init.params} if isinstance(init, Fit) else init


def _run(
    problem: Problem,
    chains: int,
    settings: Settings,
    init: object,
    *,
    again: bool,
    short: bool,
    dense_mass: bool | str,
    precondition: str,
    engine: str,
    kernel: str,
    seed: int,
    progress: bool | Callable[[int, int, str], None],
) -> Chains:
    warmup, draws = settings.warmup, settings.draws
    started = time.perf_counter()
    params = dict(init.params) if isinstance(init, Fit) else {}
    check_steady_model(problem)
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(chains)]
    with problem.session(seed=seed, params=params):
        frame, learnt, coordinates = _coordinates(
            problem,
            init,
            chains,
            settings,
            precondition,
            seed,
            progress,
            engine=engine,
            kernel=kernel,
            dense_mass=dense_mass,
        )
        if frame is not None and short:
            settings = replace(settings, warmup=FRAMED)
            warmup = FRAMED
        if learnt is None:
            joint = Joint(problem) if frame is None else frame.target.joint
            starts = find_starts(joint, init, chains, seed, frame)
            mean, covariance, dense = moments(joint, init, dense_mass, frame)
            target = None if frame is None else frame.target
        else:
            target, joint, starts, dense = learnt.target, learnt.target.joint, learnt.starts, False
            mean, covariance = (torch.from_numpy(part) for part in (learnt.metric.mean, learnt.metric.variances))
            accept = LEARNT if again else settings.target_accept
            settings = replace(settings, warmup=learnt.left, metric=learnt.metric, target_accept=accept)
        set_up = time.perf_counter()

        def ran(settings: Settings, what: str) -> engines.Outcome:
            with Progress(what, chains * (settings.warmup + draws), progress) as bar:
                return engines.run(
                    joint, starts, seeds, replace(settings, progress=bar), engine=engine, kernel=kernel,
                    native=target.native if target else None, doubt=target.disowned.get("c", "") if target else "",
                )  # fmt: skip

        settings = replace(settings, dense=dense, mean=mean, covariance=covariance)
        if settings.keeper is not None:
            basis = None if learnt is None else torch.from_numpy(learnt.metric.basis)
            settings.keeper.set_up(starts, mean, covariance, *([] if basis is None else [basis]))
        outcome, before, thrown = ran(settings, f"nuts on {problem.name}"), [], 0
        for accept in ACCEPTS[1:] if again and target is not None else ():
            effort = _effort(outcome.raw, target, problem, settings)
            if not _diverged(outcome.raw, effort, time.perf_counter() - set_up):
                break
            if _share(outcome.raw) > AGAIN_SHARE and accept != ACCEPTS[-1]:
                continue
            careful = replace(settings, target_accept=accept, keeper=None)
            another = ran(careful, f"nuts on {problem.name} again, with smaller steps")
            if another.raw.interrupted:
                break
            before += [f"{int(outcome.raw.stats['diverging'].sum()):,} at {settings.target_accept:g}"]
            thrown += _steps(outcome.raw)
            outcome, settings = another, careful
        raw = outcome.raw
        require_draws(raw.draws.shape[1])
        sampled = time.perf_counter()
        compiling = raw.seconds.get("compile", 0.0)
        attrs = {
            "inference_method": "nuts", "engine": outcome.engine, "kernel": outcome.kernel, "seed": seed, "warmup": warmup,
            "warmup_steps": int(raw.warmup_steps.sum() + (0 if learnt is None else learnt.steps.sum())),
            "target_accept": settings.target_accept, "dense_mass": int(dense),
            "sampled_in": coordinates, "frame_engine": frame_engine(target),
            **({} if learnt is None else {"directions": learnt.metric.basis.shape[1]}),
            "frame_evaluations": 0 if target is None else target.evaluations,
            "draws_asked": draws, "effort": _effort(raw, target, problem, settings),
            "sampling_time": sampled - set_up - compiling,
            **({"divergences_before": ", ".join(before), "steps_before": thrown} if before else {}),
        }  # fmt: skip
        tree = tree_of_chains(
            problem, joint, frame, raw.draws, raw.stats, attrs, interrupted=raw.interrupted, spent=sampled - started,
            progress=progress,
        )  # fmt: skip
    check_afresh(tree, problem, params, seed=seed)
    seconds = {
        "setup": set_up - started, "compile": compiling, "run": sampled - set_up - compiling,
        "draws": time.perf_counter() - sampled,
    }  # fmt: skip
    return Chains(
        name="nuts", data=tree, problem=problem, params=params, seconds=seconds,
        engine=outcome.engine, engine_reason=outcome.reason, seed=seed,
    )  # fmt: skip


def _coordinates(
    problem: Problem,
    init: object,
    chains: int,
    settings: Settings,
    precondition: str,
    seed: int,
    progress: Show,
    *,
    engine: str,
    kernel: str,
    dense_mass: bool | str,
) -> tuple[Frame | None, Learnt | None, str]:
    """The frame to sample in or what was learnt instead, if any, and what the coordinates are, or why they are the plain ones.

    Raises:
        ArgumentError: if ``precondition="low_rank"`` was asked for and cannot be had.
    """
    if precondition != LOW_RANK:
        asked = "none" if (precondition, engine) == ("auto", "pyro") else precondition
        frame, coordinates = sampling_frame(problem, asked, seed)
        if frame is not None or asked != "auto":
            return frame, None, coordinates
    absent = why_not(problem, settings, engine=engine, kernel=kernel, dense_mass=dense_mass)
    if not absent:
        try:
            learnt = learn(problem, init, chains, settings, seed, progress)
            return None, learnt, f"low rank: scales and {learnt.metric.basis.shape[1]} directions"
        except (CaptureError, nutpie_kernel.Stopped, Unmoved) as error:
            absent = str(error)
    if precondition == LOW_RANK:
        raise ArgumentError(f'precondition="low_rank" cannot be had: {absent}. Fix: use precondition="auto".')
    return None, None, coordinates if problem.unconstrained_size <= PAYS_UNKNOWNS else f"unconstrained: {absent}"


def _share(raw: Raw) -> float:
    """Of the draws that diverged."""
    return float(raw.stats["diverging"].mean()) if raw.draws.shape[1] else 0.0


def _diverged(raw: Raw, effort: float, seconds: float) -> bool:
    """Whether to run chains again with smaller steps: they take little effort, and some of their draws diverged."""
    done = not raw.interrupted and not budget.spent() and 2 * seconds < budget.left()
    return done and _share(raw) > 0 and effort <= AGAIN_SECONDS


def _steps(raw: Raw) -> int:
    """The leapfrog steps of all chains."""
    return int(raw.stats["n_steps"].sum() + raw.warmup_steps.sum())


def _effort(raw: Raw, target: Target | None, problem: Problem, settings: Settings) -> float:
    """Seconds of an ordinary processor that the gradients of a chain take, of the mean chain."""
    steps = _steps(raw) / len(raw.draws)
    size = problem.unconstrained_size
    each = NUMBER * (size + sum(site.numel for site in problem.observed)) if target is None else target.each.of(1)
    directions = 0 if settings.metric is None else settings.metric.basis.size
    return steps * (each + STRETCHING * directions + (UNKNOWN * size**2 if settings.dense else 0.0))
