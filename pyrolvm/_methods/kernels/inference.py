"""``lvm.sample``: the field's samplers on the same captured density, many chains side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base.errors import (
    ArgumentError,
    CaptureError,
    checked_seed,
    positive_int,
    unknown_name,
)
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.numerics import Array
from pyrolvm._base.progress import Progress, Show
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._capture import selfcheck
from pyrolvm._capture.door import xla
from pyrolvm._compat import blackjax
from pyrolvm._diagnosis.recorded import record
from pyrolvm._methods.arguments import check_has_posterior, warn_of_subsamples
from pyrolvm._methods.kernels.chains import Drawn, draw, unpacked
from pyrolvm._methods.kernels.kinds import ENERGY_VARIANCE, KERNELS, Kernel, State
from pyrolvm._methods.kernels.tuning import Ensemble, Tuned, Whole, density_at, tune
from pyrolvm._methods.nuts.checkpoint import ChainKeeper
from pyrolvm._methods.nuts.finishing import require_draws, tree_of_chains
from pyrolvm._methods.nuts.inference import PRECONDITIONS, check_chains_fit, described
from pyrolvm._methods.nuts.potential import Disagreement, Program, check_draws, check_starts, numpy_dtype, program
from pyrolvm._methods.nuts.starts import find_starts, frame_engine, moments, sampling_frame
from pyrolvm._program.density import Joint, with_digits
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.steady import check_steady_model
from pyrolvm._results import Chains, Fit, store
from pyrolvm._results.afresh import check_afresh
from pyrolvm.family import Frame

__all__ = ["sample"]

SUPERCHAINS = 8
"""Starts of ``superchains="auto"``, as far as chains divide by them."""

LEAST_WARMUP = 60

STEPS = {
    "rhat": "Warm up longer (warmup=), and look for several modes or exchangeable labels if R-hat stays high.",
    "ess_bulk": "Take more draws (draws=) or more chains (chains=).",
    "draws": "Take more draws (draws=).",
    "divergences": 'Sample with lvm.nuts, which adapts to curvature, or reparameterise; kernel="barker" is the most robust here.',
    "bias": 'Take kernel="mams", whose draws are of the posterior itself.',
}
"""What to do about figures of these chains, by name."""


@verb
@at_the_door
def sample(
    problem: Problem,
    *,
    kernel: str = "auto",
    chains: int = 64,
    superchains: int | str = "auto",
    warmup: int = 300,
    draws: int = 100,
    init: Fit | Mapping[str, object] | None = None,
    precondition: str = "auto",
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    progress: Show = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    checkpoint_every: float | None = None,
) -> Chains:
    """Samples a problem's posterior by one of BlackJAX's kernels, with many short chains side by side.

        >>> chains = lvm.sample(problem, chains=64, seed=0)
        >>> print(chains.verdict)

    Needs BlackJAX (``pip install 'pyrolvm[kernels]'``) and a model that can be captured. All chains move at once through one call of
    the compiled density, in coordinates in which the posterior is about standard normal; what is tuned is tuned by all of them
    together. Chains that are many and short cannot be judged one by one: they start in groups from the same point, and nested R-hat
    asks whether groups agree.

    For a baseline of few long chains take :func:`pyrolvm.nuts`. Many chains pay where one gradient of many points costs little more
    than one of one point: on accelerators, and for small models here.

    Args:
        problem: a model with its data.
        kernel: how chains move: ``"mams"``, microcanonical trajectories that are accepted or rejected; ``"mclmc"``, the same without
            rejections, whose draws are biased by the size of its steps, and whose verdict says so; ``"chees"`` and ``"meads"``,
            Hamiltonian samplers that are tuned across chains; ``"barker"``, which takes one gradient a move and forgives wrong scales.
            ``"auto"`` is mams, and barker for one unknown, where there are no directions to go in.
        chains: how many, side by side.
        superchains: groups of chains that start at the same point, which must divide ``chains``; ``"auto"`` is 8 as far as they
            divide. As many as chains leaves each chain its own start.
        warmup: moves of each chain that tune coordinates, steps and lengths, and are dropped.
        draws: what is kept of each chain. A draw is as many moves as it takes the kernel to be elsewhere.
        init: where to start, as for :func:`pyrolvm.nuts`.
        precondition: the coordinates to begin with, as for :func:`pyrolvm.nuts`.
        device: as in :func:`pyrolvm.fit`; ``"auto"`` leaves the problem where its data are.
        dtype: a floating dtype to run in; by default the data's.
        seed: the same seed gives the same result.
        progress: whether to show a bar; or a function of ``(done, total, text)``, in draws of all chains.
        out: a folder to save the result in, and checkpoints on the way.
        resume: with ``out``: return the finished result that is there, or go on from the last checkpoint, if it is of the same model,
            data, options, seed and versions. The draws are then what they would have been. ``"any-version"`` goes on under other
            versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this run is finished.
        checkpoint_every: seconds between checkpoints; by default 60, or more where they would take over 1% of the time.

    Raises:
        ArgumentError: if an argument is out of range, BlackJAX is missing, or the kernel cannot move in so few unknowns.
        CaptureError: if the model cannot be captured, or its captured density is not Pyro's.
        ProblemError: if there is nothing continuous to sample, or a parameter without a prior and without a fit.
        FitError: if no start has a finite density, or the run is interrupted before the first kept draw.
        StoreError: if ``out`` holds another run, or another process writes to it.

    References:
        Robnik, De Luca, Silverstein, Seljak, *Microcanonical Hamiltonian Monte Carlo*, https://arxiv.org/abs/2212.08549;
        Robnik, Cohn-Gordon, Seljak, *Metropolis adjusted microcanonical Hamiltonian Monte Carlo*, https://arxiv.org/abs/2503.01707;
        Hoffman, Radul, Sountsov, *An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo*, AISTATS 2021;
        Hoffman and Sountsov, *Tuning-free generalized Hamiltonian Monte Carlo*, AISTATS 2022;
        Livingstone and Zanella, *The Barker proposal*, https://arxiv.org/abs/1908.11812;
        Margossian et al., *Nested R-hat: assessing the convergence of Markov chain Monte Carlo when running many short chains*,
        https://arxiv.org/abs/2110.13017;
        Cabezas et al., *BlackJAX: composable Bayesian inference in JAX*, https://arxiv.org/abs/2402.10797
    """
    given = dict(locals())
    check_problem(problem)
    asked = runs.order(out, resume, overwrite, checkpoint_every)
    if kernel not in ("auto", *KERNELS):
        raise unknown_name("kernel", kernel, ("auto", *KERNELS))
    single = problem.unconstrained_size < KERNELS["mams"].least
    chosen = KERNELS[("barker" if single else "mams") if kernel == "auto" else kernel]
    for name, value in (("chains", chains), ("draws", draws)):
        positive_int(name, value)
    positive_int("warmup", warmup, minimum=LEAST_WARMUP)
    groups = _groups(superchains, chains)
    seed = checked_seed(seed)
    if precondition not in PRECONDITIONS:
        raise unknown_name("precondition", str(precondition), PRECONDITIONS)
    check_has_posterior(problem, init, chosen.name)
    _check_kernel(chosen, problem, chains)
    warn_of_subsamples(problem, f"{chosen.name} on subsamples does not target the posterior")
    problem = problem.to(dtype=dtype, device=None if str(device) == "auto" else device)
    problem = problem if dtype is not None else with_digits(problem)
    check_chains_fit(problem, chains, draws)

    def work(run: runs.Run | None) -> Chains:
        keeper = None if run is None else ChainKeeper(run)
        return _run(problem, chosen, chains, groups, warmup, draws, init, precondition, seed, progress, keeper)

    return cast("Chains", store.keep(asked, sample, given, work, problem, kind="Chains", init=described(init)))


def _groups(superchains: int | str, chains: int) -> int:
    """How many groups of chains start at the same point.

    Raises:
        ArgumentError: if they do not divide the chains.
    """
    if superchains == "auto":
        return next(size for size in range(min(SUPERCHAINS, chains), 0, -1) if chains % size == 0)
    number = positive_int("superchains", cast("int", superchains))
    if chains % number:
        raise ArgumentError(
            f'superchains={number} does not divide chains={chains}. Fix: use a divisor, or superchains="auto".'
        )
    return number


def _check_kernel(kernel: Kernel, problem: Problem, chains: int) -> None:
    """Refuses what this kernel cannot do here.

    Raises:
        ArgumentError: with what it wants.
    """
    cause = blackjax.fault()
    if cause is not None:
        raise ArgumentError(f"lvm.sample runs on BlackJAX, but {cause}. Fix: pip install '{blackjax.WANTED}'.")
    if problem.unconstrained_size < kernel.least:
        raise ArgumentError(
            f"kernel {kernel.name!r} moves on directions, of which {problem.unconstrained_size} unknown has none. "
            'Fix: use kernel="barker", or lvm.nuts.'
        )
    if kernel.target is None and kernel.exact and (chains < 16 or chains % 4):
        raise ArgumentError(
            f"kernel {kernel.name!r} is tuned across chains, by four parts of at least four, got chains={chains}. "
            'Fix: use chains=64, or kernel="mams".'
        )


@dataclass(frozen=True)
class _Place:
    """Where chains start and move: points, coordinates, and words for them."""

    joint: Joint
    starts: Tensor
    whole: Whole
    words: dict[str, Any]
    frame: Frame | None


def _run(
    problem: Problem,
    kernel: Kernel,
    chains: int,
    groups: int,
    warmup: int,
    draws: int,
    init: object,
    precondition: str,
    seed: int,
    progress: Show,
    keeper: ChainKeeper | None,
) -> Chains:
    started = time.perf_counter()
    params = dict(init.params) if isinstance(init, Fit) else {}
    check_steady_model(problem)
    with problem.session(seed=seed, params=params):
        place = _placed(problem, init, groups, chains // groups, precondition, seed)
        if keeper is not None:
            keeper.set_up(place.starts, torch.as_tensor(place.whole.mean), torch.as_tensor(place.whole.root))
        context = _precision(problem)
        with context():
            selfcheck.require("jax")
            compiled = _captured(place)
            ensemble = _ensemble(kernel, compiled, chains, seed, warmup)
        set_up = time.perf_counter()
        tuned, drawn = _moved(problem, place, ensemble, draws, progress, context, keeper)
        sampled = time.perf_counter()
        require_draws(drawn.points.shape[1])
        points = torch.from_numpy(drawn.points).to(place.starts)
        check_draws(place.joint, points, -drawn.rows["lp"])
        attrs = {
            "inference_method": kernel.name, "engine": "jax", "kernel": kernel.name, "seed": seed, "warmup": warmup,
            "warmup_steps": tuned.gradients * chains, "superchains": groups, "draws_asked": draws,
            "sampling_time": sampled - set_up - drawn.compiling, **place.words,
        }  # fmt: skip
        tree = tree_of_chains(
            problem, place.joint, place.frame, points, _stats(drawn, tuned, kernel), attrs, interrupted=drawn.interrupted,
            spent=sampled - started, progress=progress,
        )  # fmt: skip
    record(tree, _of_kernel(kernel, drawn), STEPS)
    check_afresh(tree, problem, params, seed=seed)
    seconds = {
        "setup": set_up - started, "compile": drawn.compiling, "run": sampled - set_up - drawn.compiling,
        "draws": time.perf_counter() - sampled,
    }  # fmt: skip
    reason = f"the model can be captured; {chains} chains side by side" + (f"; {compiled.note}" * bool(compiled.note))
    return Chains(
        name=kernel.name, data=tree, problem=problem, params=params, seconds=seconds, engine="jax", engine_reason=reason,
        seed=seed,
    )  # fmt: skip


def _placed(problem: Problem, init: object, groups: int, each: int, precondition: str, seed: int) -> _Place:
    """Starts of all groups, and the coordinates of the frame, of the fit, or the plain ones."""
    frame, coordinates = sampling_frame(problem, precondition, seed)
    joint = Joint(problem) if frame is None else frame.target.joint
    starts = find_starts(joint, init, groups, seed, frame).repeat_interleave(each, dim=0)
    mean, covariance, dense = moments(joint, init, True if frame is not None else "auto", frame)
    if mean is None or covariance is None:
        whole = Whole(np.zeros(problem.unconstrained_size), np.ones(problem.unconstrained_size))
    elif dense:
        whole = Whole(mean.cpu().numpy(), np.linalg.cholesky(covariance.double().cpu().numpy()))
    else:
        whole = Whole(mean.cpu().numpy(), covariance.double().sqrt().cpu().numpy())
    words = {
        "sampled_in": coordinates, "frame_engine": frame_engine(frame.target if frame is not None else None),
        "frame_evaluations": 0 if frame is None else frame.target.evaluations,
    }  # fmt: skip
    return _Place(joint, starts, whole, words, frame)


def _precision(problem: Problem) -> Callable[[], AbstractContextManager[None]]:
    return lambda: xla().precision(problem.dtype, problem.device)


def _captured(place: _Place) -> Program:
    """The density on JAX.

    Raises:
        CaptureError: if there is none.
    """
    try:
        return program(place.joint, place.starts[0])
    except CaptureError as error:
        raise CaptureError(
            f"lvm.sample moves all chains through one compiled density, but {error} Fix: use lvm.nuts."
        ) from error


def _ensemble(kernel: Kernel, compiled: Program, chains: int, seed: int, warmup: int) -> Ensemble:
    import jax

    base = jax.random.PRNGKey(np.uint32(np.random.SeedSequence(seed).generate_state(1)[0]))
    keys = np.asarray(jax.vmap(lambda chain: jax.random.fold_in(base, chain))(np.arange(chains)))
    dtype = numpy_dtype(compiled.dtype)
    return Ensemble(kernel, compiled.function, compiled.constants, compiled.size, dtype, keys, warmup)


def _moved(
    problem: Problem,
    place: _Place,
    ensemble: Ensemble,
    draws: int,
    progress: Show,
    context: Callable[[], AbstractContextManager[None]],
    keeper: ChainKeeper | None,
) -> tuple[Tuned, Drawn]:
    """Tunes and draws, or goes on with what was tuned and drawn.

    Raises:
        Disagreement: if the density is not what Pyro computes.
    """
    kernel = ensemble.kernel
    with Progress(f"{kernel.name} on {problem.name}", len(ensemble.keys) * draws, progress) as bar:
        saved = None if keeper is None else keeper.begin(kernel.name)
        with context():
            starts = place.starts.double().cpu().numpy()
            _check_first(place, ensemble, starts)
            if saved is None:
                bar.update(0, lambda: "warmup")
                tuned, pieces = tune(ensemble, starts, place.whole), []
            else:
                tuned, pieces = unpacked(saved[0], _like(ensemble, place.whole)), saved[1]
        return tuned, draw(ensemble, tuned, draws, bar, context, keeper, pieces)


def _check_first(place: _Place, ensemble: Ensemble, starts: Array) -> None:
    """Compares density and gradient at two starts with Pyro's."""
    import jax

    some = np.unique(starts, axis=0)[:2].astype(ensemble.dtype)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(lambda z: ensemble.potential(z, *ensemble.data))))(some)
    try:
        check_starts(place.joint, torch.from_numpy(some).to(place.starts), np.asarray(values), np.asarray(gradients))
    except Disagreement as error:
        raise CaptureError(
            f"{error} Fix: use lvm.nuts, which then runs on stock Pyro, and report this model."
        ) from error


def _like(ensemble: Ensemble, whole: Whole) -> State:
    """States without values, for their structure."""
    import jax

    points = np.zeros((len(ensemble.keys), ensemble.size), ensemble.dtype)
    density = density_at(ensemble, whole.typed(ensemble.dtype), ensemble.data)
    return jax.eval_shape(jax.vmap(lambda key, x: ensemble.kernel.begin(key, x, density)), ensemble.keys, points)


def _stats(drawn: Drawn, tuned: Tuned, kernel: Kernel) -> dict[str, Array]:
    """Statistics by ArviZ's names."""
    rows = drawn.rows
    found = {
        "diverging": rows["diverging"].astype(bool),
        "n_steps": rows["gradients"].astype(int),
        "step_size": np.full(rows["lp"].shape, float(tuned.setting["step_size"])),
    }
    if kernel.exact:
        return found | {"acceptance_rate": rows["accept"].astype(float)}
    return found | {"energy_error": rows["error"].astype(float)}


def _of_kernel(kernel: Kernel, drawn: Drawn) -> Verdict:
    """What is to be said of the kernel itself."""
    if kernel.exact:
        return Verdict("trusted")
    error = float(np.nanmean(drawn.rows["error"]))
    text = (
        f"{kernel.name} rejects nothing: its draws are biased by the size of its steps, however many they are. The squared energy "
        f"error of a step is {error:.2g} an unknown (it is adapted to {ENERGY_VARIANCE:g})."
    )
    return Verdict.of([Reason("doubtful", text, {"bias": error})], [STEPS["bias"]])
