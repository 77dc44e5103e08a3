"""``lvm.fit``: from a problem and a guide to a variational posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from pyro.infer import ELBO

from pyrolvm import _runs as runs
from pyrolvm._base import budget, runtime
from pyrolvm._base.errors import (
    ArgumentError,
    ProblemError,
    checked_seed,
    positive_float,
    positive_int,
    unknown_name,
)
from pyrolvm._base.explain import at_the_door, told
from pyrolvm._base.habits import verb
from pyrolvm._base.machine import require_memory
from pyrolvm._base.progress import Progress, shown, stages
from pyrolvm._base.team import Team, team
from pyrolvm._diagnosis.modes import UNSEEN
from pyrolvm._methods.fit.checkpoint import Keeper
from pyrolvm._methods.fit.engines import ENGINES, Work, begin, begin_shared
from pyrolvm._methods.fit.engines import REGISTERED as registered_engines
from pyrolvm._methods.fit.instead import pointing_to_nuts
from pyrolvm._methods.fit.loop import AT_ONCE, Step, search
from pyrolvm._methods.fit.modules import buffers_of, changed_buffers, modules_of, settle
from pyrolvm._methods.fit.objectives import ParticleELBO, choose_objective
from pyrolvm._methods.fit.optimizer import Stepper
from pyrolvm._methods.fit.schedules import NAMED
from pyrolvm._methods.fit.starting import check_start, check_trainable, choose_device, draws_nothing, minibatches_of
from pyrolvm._methods.fit.stopping import Plateau, Schedule
from pyrolvm._methods.fit.together import check_shares, check_together, kept_together, own_device
from pyrolvm._methods.fit.validation import HeldOut, Validation, check, held_out
from pyrolvm._methods.modes import sought, uncovered
from pyrolvm._program.agreement import check_guide
from pyrolvm._program.batching import Batch, Minibatches
from pyrolvm._program.density import with_digits
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.steady import changes
from pyrolvm._program.streamed import Streamed
from pyrolvm._program.transforming import Transform
from pyrolvm._results import Fit, store
from pyrolvm._results.afresh import check_afresh
from pyrolvm._results.build import CHANGES, variational_tree
from pyrolvm._results.draws import finalized, registered
from pyrolvm._results.history import History
from pyrolvm._results.likelihood import likelihood_tree
from pyrolvm.family import Solution, frame_engine
from pyrolvm.family.choice import resolve
from pyrolvm.family.guide import Guide
from pyrolvm.family.protocol import Hooks

__all__ = ["fit"]

MAX_STEPS = 20_000

SHARE, LEAST_SECONDS = 2.0, 2.0
"""What evaluating draws one by one may cost, in units of what was spent before, and in seconds if that is more."""


@verb
@at_the_door
def fit(
    problem: Problem,
    guide: object = "auto",
    *,
    objective: str | ELBO | type[ELBO] = "auto",
    optimizer: object = None,
    learning_rate: float | None = None,
    schedule: str | Callable[[int], float] = "decay",
    clip_norm: float | None = None,
    max_steps: int | None = None,
    tolerance: float | None = None,
    num_particles: int | None = None,
    batch_size: int | None = None,
    batch_plate: str | None = None,
    transform: Callable[..., Mapping[str, object]] | None = None,
    validation: Mapping[str, object] | Problem | None = None,
    validate_every: int | None = None,
    patience: int | None = 10,
    draws: int | None = None,
    callbacks: Sequence[Callable[[Step], object]] = (),
    engine: str = "auto",
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    distributed: bool = False,
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    checkpoint_every: float | None = None,
) -> Fit:
    """Fits a guide to a problem by stochastic variational inference.

        >>> fit = lvm.fit(problem, "full_rank", seed=0)
        >>> fit.verdict.status, fit.evidence, fit.engine
        >>> fit.summary()

    The ELBO is maximised at a constant learning rate until the parameters circle around a point or the ELBO is measurably flat;
    then their average over the last half of the steps is kept. Parameters of networks are too many for that: for them the rate
    decays. The rate also decays where the budget ends first. Whether the fit got there is part of the result. The fit has
    parameters, random numbers and a Pyro parameter store of its own: nothing that ran
    before influences it, and modules of the model hold their old values afterwards.

    A model without latents is fitted by maximum likelihood of its parameters, the same way: the ELBO then is log p(data). The result
    has it by row, ``fit.sample(n)`` are new data, and ``fit.module("net")`` is the trained module. So is one whose latents are all
    discrete and summed out, as in a hidden Markov model with parameters: that is marginal maximum likelihood, and the result's
    draws of the latents are from their exact posterior given the parameters.

    Args:
        problem: a model with its data.
        guide: a registered name (``lvm.guides()``), ``lvm.guide(name, **options)``, a Pyro guide function, an AutoGuide
            class or instance; ``"auto"`` chooses by the problem's size and structure.
        objective: what is maximised: ``"auto"`` (analytic KL where the guide factorises, discrete latents summed out),
            ``"Trace_ELBO"``, ``"TraceMeanField_ELBO"``, ``"TraceEnum_ELBO"``, ``"StickingTheLanding_ELBO"`` (without the guide's
            score, which adds noise: what ``"auto"`` takes for Gaussian guides), any Pyro ELBO class or instance, or a name that
            another distribution registers.
        optimizer: ``None`` for Adam; a torch optimiser class or function of parameters; or a Pyro optimiser, whose
            schedule is then its own.
        learning_rate: the rate before the decay; by default 0.02 for Adam.
        schedule: how the rate changes: ``"decay"`` lowers it where no average is taken, ``"constant"`` never; ``"cosine"``,
            ``"linear"``, ``"warmup"`` and ``"warmup_cosine"`` follow the whole budget, whatever the ELBO does; or a function from
            the step to a multiple of the rate.
        clip_norm: bound on the gradient's norm.
        max_steps: the most steps to take; by default 20,000. ``tolerance=0`` takes them all.
        tolerance: how many nats of ELBO the plateau test may miss, by default 0.03 and 1e-4 of the ELBO's size (1e-3 with
            minibatches); 0 switches the test off.
        num_particles: draws a step; by default 16 where they run at once, 1 where they do not.
        batch_size: rows of the data a step takes; the density is scaled to the whole. ``None`` for all. Where up to 100 unknowns are
            shared by all rows and none scales another, as in a regression, and no option but draws and seed is given, no steps are
            taken: a few passes over all rows give the posterior, as :func:`pyrolvm.sparse` says, with draws chosen by weights. Where
            groups have unknowns of their own and share up to 60 others, they are integrated out likewise.
        batch_plate: which plate's rows, where several could be meant.
        transform: changes data in every step before guide and model see them, such as noise drawn anew: called with the model's
            arguments, those of the batch, it returns the new values of some of them by name. The result, and held-out data, are
            of the arguments as they are.
        validation: held-out data: a mapping from names of the model's arguments, or a problem of the same model. The parameters that
            do best on them are kept, and the course is in group ``optimization``.
        validate_every: steps between two looks at held-out data; by default a pass over the data, or 2% of the budget.
        patience: looks without improvement that end the fit; ``None`` to take all steps.
        draws: posterior draws to keep; by default 4,000, fewer where they would fill the memory.
        callbacks: functions of a ``Step``; one that returns ``True`` ends the search. One with an attribute
            ``every`` is called every so many steps. :mod:`pyrolvm.callbacks` has some.
        engine: what runs guide and model: ``"auto"`` chooses by problem and device: the captured program compiled from C (``"c"``),
            by XLA (``"jax"``) or by torch (``"torch"``), or stock Pyro (``"pyro"``), which runs what cannot be captured. The result
            says which, and why. Other distributions may register engines of their own.
        device: where to run: ``"cpu"``, ``"cuda"``, ...; ``"auto"`` leaves small problems where their data are and takes a GPU, where
            there is one, for models with learnable networks.
        dtype: a floating dtype to run in; by default the data's.
        distributed: whether the processes that ``torchrun`` or another launcher of ``torch.distributed`` started make the fit together.
            Each calls this with the same arguments and takes its share of the rows; all return the fit, the first one alone
            writes. It takes ``batch_size``, the rows that all of them take in a step, or unknowns that rows share, as above.
        seed: the same seed gives the same result.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in, and checkpoints on the way.
        resume: with ``out``: return the finished result that is there, or go on from the last checkpoint, if it is of the same model,
            data, guide, options, seed and versions. What is reached is then what it would have been without the interruption, to the
            last bit, on a processor. ``"any-version"`` goes on under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this run is finished.
        checkpoint_every: seconds between checkpoints; by default 60, or more where they would take over 1% of the time.

    Returns:
        The fitted posterior. An unconverged fit is a result with a verdict, not an error.

    Raises:
        ArgumentError: if an argument is out of range.
        GuideError: if guide and model do not fit.
        FitError: if the loss is not finite at the start.
        StoreError: if ``out`` holds another run, or another process writes to it.

    References:
        Hoffman et al., Stochastic Variational Inference, https://arxiv.org/abs/1206.7051
        Kucukelbir et al., Automatic Differentiation Variational Inference, https://arxiv.org/abs/1603.00788
    """
    given = dict(locals())
    check_problem(problem, streams=True)
    asked = runs.order(out, resume, overwrite, checkpoint_every)
    _check_arguments(engine, max_steps, num_particles, batch_size, draws, learning_rate, clip_norm, tolerance)
    seed = checked_seed(seed)
    if batch_plate is not None and batch_size is None:
        raise ArgumentError(
            f"batch_plate={batch_plate!r} is given without batch_size, so no rows are chosen. Fix: pass batch_size too."
        )
    check(validate_every, patience, validation)
    if not problem.latents and not problem.parameters:
        raise ProblemError(
            f"{problem.name} has neither latent sites nor learnable parameters, so there is nothing to fit. "
            "Fix: give its unknowns priors with pyro.sample, or make them parameters by pyro.param or pyro.module."
        )
    if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
        raise ArgumentError(
            f"callbacks must be a list of functions of a Step, got {callbacks!r}. Fix: pass callbacks=[my_function]."
        )
    recipe = resolve(guide, problem)
    latents = sum(site.numel for site in problem.latents)
    require_memory(
        f"{draws or 0:,} draws of {latents:,} latent values take, on both scales and in the result",
        3.0 * (draws or 0) * latents * problem.dtype.itemsize,
        "ask for fewer draws; lvm.Fit.sample gives more of them later, so many at a time.",
    )
    where = choose_device(device, problem)
    if distributed:
        check_together(distributed, engine, validation)
        where = own_device(where)
    problem = problem.to(dtype=dtype, device=where)
    parts = batch_size is not None or problem.stream is not None or distributed
    words = (guide, objective, engine, schedule) == ("auto", "auto", "auto", "decay")
    ours = words and problem.info.guide is None
    options = (
        optimizer, learning_rate, clip_norm, max_steps, tolerance, num_particles, transform, validation, validate_every,
    )  # fmt: skip
    free = parts and ours and not callbacks and all(option is None for option in options)
    problem = problem if dtype is not None or free else with_digits(problem)
    evaluated = None if validation is None else held_out(problem, validation, batch_plate)
    stepper = Stepper(optimizer, learning_rate, clip_norm)
    rates = _schedule(schedule, max_steps or MAX_STEPS, stepper)

    def work(run: runs.Run | None, share: Team | None = None) -> Fit:
        shows = progress if share is None or share.leads else False
        if free:
            from pyrolvm._methods.fit import without_steps  # most fits do without what it imports

            found = without_steps.found(
                problem, without_steps.Asked(batch_size, batch_plate, draws, seed, shows, share)
            )
            if found is not None:
                return found
        keeper = None if run is None and share is None else Keeper(run, share)
        wide = with_digits(problem) if free and dtype is None else problem
        make = partial(
            _run,
            wide, recipe, objective, stepper, rates, tolerance=tolerance, num_particles=num_particles, batch_size=batch_size,
            batch_plate=batch_plate, transform=transform, evaluated=evaluated, looks=(validate_every, patience),
            draws=draws, callbacks=callbacks, engine=engine, seed=seed, progress=shows, keeper=keeper, share=share,
        )  # fmt: skip
        return pointing_to_nuts(wide, make, ours=recipe.registered)

    fingerprint = None if evaluated is None else evaluated.fingerprint

    def keep(make: Callable[[runs.Run | None], Fit]) -> Fit:
        kept = store.keep(asked, fit, given, make, problem, kind="Fit", guide=recipe, validation=fingerprint)
        return cast("Fit", kept)

    if not distributed:
        return keep(work)
    with team() as share:
        about = store.identity("Fit", problem, recipe, seed, store.counted(fit, given))
        return kept_together(share, asked, about, keep, partial(work, share=share), problem, recipe)


def _run(
    problem: Problem,
    recipe: Guide,
    objective: object,
    stepper: Stepper,
    rates: Schedule,
    *,
    tolerance: float | None,
    num_particles: int | None,
    batch_size: int | None,
    batch_plate: str | None,
    transform: Callable[..., Mapping[str, object]] | None,
    evaluated: HeldOut | None,
    looks: tuple[int | None, int | None],
    draws: int | None,
    callbacks: Sequence[Callable[[Step], object]],
    engine: str,
    seed: int,
    progress: bool | Callable[[int, int, str], None],
    keeper: Keeper | None,
    share: Team | None,
) -> Fit:
    clock = _Clock()
    minibatches = minibatches_of(problem, batch_size, batch_plate)
    if share is not None:
        check_shares(problem, minibatches, share)
    change = None if transform is None else Transform(problem, transform)
    with problem.session(seed=seed, training=True):
        guide = registered(recipe.build(problem), recipe.name, None if recipe.registered else problem)
        before = buffers_of(problem, guide)
        prepare = Hooks(guide).prepare
        if prepare is not None:
            prepare(problem, seed=seed)
        batch = trial = problem.whole if minibatches is None else next(iter(minibatches))
        ran: tuple[object, object] | None = check_guide(problem, guide, recipe.name, batch)
        if change is not None:
            change.check(trial)
            trial, ran = change.apply(trial), None
        solve = Hooks(guide).solve
        if solve is not None:
            return _solved(
                problem, recipe, guide, solve, minibatches, draws=draws, seed=seed, clock=clock, progress=progress
            )
        check_trainable(problem, recipe)
        likelihood = not problem.latents or (bool(problem.parameters) and draws_nothing(problem, guide))
        if problem.latents:
            elbo, why, tried = choose_objective(
                objective, problem, guide, trial, 1 if likelihood else num_particles, ran
            )
        else:
            elbo, why, tried = ParticleELBO(vectorize=False), "log p(data): the model has no latents", None
        check_start(problem, guide, elbo, trial, tried)
        clock.lap("setup")
        used, reason = "pyro", "nothing to optimise"
        if runtime.parameters():
            work = Work(
                problem,
                guide,
                elbo,
                stepper,
                minibatches,
                seed,
                change,
                steady=minibatches is None and change is None,
                share=share,
            )
            if keeper is not None:
                keeper.hold(work)
            watch = None if evaluated is None else Validation.of(work, evaluated, *looks, rates.max_steps)
            most = min([AT_ONCE, *(int(getattr(callback, "every", 1)) for callback in callbacks)])
            shared = share is not None
            runner, reason = begin_shared(work, most) if shared else begin(engine, work, most, rates.max_steps)
            used = runner.name
            clock.lap("compile")
            with Progress(f"{recipe.name} on {problem.name}", rates.max_steps, progress) as bar:
                history = search(
                    work, runner,
                    plateau=_plateau(tolerance, minibatches is not None, rates), schedule=rates, callbacks=callbacks,
                    progress=bar, keeper=keeper, validation=watch,
                )  # fmt: skip
            if used != "pyro" or watch is not None:
                settle(work)
            buffers = changed_buffers(work, before)
        else:
            history = History(converged=True, reason="nothing to optimise: model and guide have no parameters")
            buffers = {}
        if likelihood:
            history.reason = history.reason.replace("the ELBO", "log p(data)").replace("The ELBO", "Log p(data)")
        changed = "" if not runtime.parameters() else getattr(runner, "changes", "") or _changed(problem, guide, batch)
        guide = finalized(problem, guide)
        params = {name: value.detach().clone() for name, value in runtime.parameters().items()} | buffers
        clock.lap("run")
        attrs = {
            "inference_method": "maximum_likelihood" if likelihood else "svi", "pyrolvm_guide": str(recipe), **recipe.traits.attrs(),
            "objective": why, "engine": used, "seed": seed, "frame_engine": frame_engine(problem),
            "sampling_time": clock.laps["run"], "modes": Hooks(guide).modes,
            "model_parameters": len(problem.parameters), **({CHANGES: changed} if changed else {}),
        }  # fmt: skip
        rows = batch_size if problem.stream is None else problem.stream.stream.batch_size
        allowed = max(SHARE * sum(clock.laps.values()), LEAST_SECONDS)
        with (
            runtime.evaluating(modules_of(problem, guide).values()),
            budget.finishing(allowed),
            shown(progress),
        ):
            if problem.latents:
                tree = variational_tree(
                    problem, guide, history,
                    draws=draws, num_particles=getattr(elbo, "num_particles", 1), batch_size=rows, attrs=attrs,
                )  # fmt: skip
                sought(problem, tree, seed)
                tree["posterior"].attrs.update(uncovered(problem, tree))
            else:
                tree = likelihood_tree(problem, history, batch_size=rows, attrs=attrs)
    if problem.latents:
        check_afresh(tree, problem, params, seed=seed)
    clock.lap("draws")
    return Fit(
        name=recipe.name,
        data=tree,
        problem=problem,
        guide=recipe,
        params=params,
        seconds=clock.laps,
        engine=used,
        engine_reason=reason,
        seed=seed,
    )


def _changed(problem: Problem, guide: Callable[..., object], batch: Batch) -> str:
    """What of guide and model is not the same in every run at the parameters that were reached; empty where everything is."""
    try:
        found = changes(problem, guide, batch)
    except Exception as error:  # said in its place
        return f"It fails in some runs: {told(error)}"
    return "" if found is None else f"Of the {found[0]}, {found[1]}"


def _solved(
    problem: Problem,
    recipe: Guide,
    guide: Callable[..., object],
    solve: Callable[..., Solution],
    minibatches: Minibatches | Streamed | None,
    *,
    draws: int | None,
    seed: int,
    clock: _Clock,
    progress: bool | Callable[[int, int, str], None],
) -> Fit:
    """The fit of a guide that has an algorithm of its own."""
    if minibatches is not None:
        raise ArgumentError(
            f"guide {recipe.name!r} has an algorithm of its own, which takes all rows at once. "
            "Fix: leave batch_size out, or use a guide that is trained by gradients, such as mean_field."
        )
    clock.lap("setup")
    with Progress(f"{recipe.name} on {problem.name}", 1, progress) as bar, stages(bar):
        solution = solve(problem, seed=seed)
        bar.update(1, lambda: f"ELBO {solution.elbos[-1]:.2f}")
    history = History.of(solution.elbos, converged=solution.converged, reason=solution.reason)
    params = {name: value.detach().clone() for name, value in runtime.parameters().items()}
    clock.lap("run")
    attrs = {
        "inference_method": "svi", "pyrolvm_guide": str(recipe), **recipe.traits.attrs(),
        "objective": "ELBO, by the guide's own algorithm",
        "engine": solution.engine, "frame_engine": frame_engine(problem), "seed": seed,
        "sampling_time": clock.laps["run"], "evaluations": solution.evaluations, UNSEEN: solution.unseen,
    }  # fmt: skip
    allowed = max(SHARE * sum(clock.laps.values()), LEAST_SECONDS)
    with budget.finishing(allowed), shown(progress):
        tree = variational_tree(problem, guide, history, draws=draws, num_particles=1, batch_size=None, attrs=attrs)
        tree["posterior"].attrs.update(uncovered(problem, tree))
    check_afresh(tree, problem, params, seed=seed)
    clock.lap("draws")
    return Fit(
        name=recipe.name, data=tree, problem=problem, guide=recipe, params=params, seconds=clock.laps,
        engine=solution.engine, engine_reason=solution.engine_reason, seed=seed,
    )  # fmt: skip


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _plateau(tolerance: float | None, parts: bool, rates: Schedule) -> Plateau | None:
    if tolerance is None and rates.whole:
        return None
    if tolerance is None:
        # The choice of rows adds noise in proportion to the ELBO, which no number of steps worth taking averages out.
        return Plateau(relative=1e-3) if parts else Plateau()
    return Plateau(absolute=tolerance, relative=0.0) if tolerance else None


def _schedule(schedule: str | Callable[[int], float], max_steps: int, stepper: Stepper) -> Schedule:
    if callable(schedule):
        return Schedule(max_steps, constant=True, custom=schedule)
    if schedule in NAMED:
        return Schedule(max_steps, constant=True, custom=NAMED[schedule](max_steps), whole=True)
    if schedule not in ("decay", "constant"):
        raise unknown_name("schedule", str(schedule), ("decay", "constant", *NAMED))
    return Schedule(max_steps, constant=schedule == "constant" or stepper.scheduled_by_caller)


def _check_arguments(
    engine: str,
    max_steps: int | None,
    num_particles: int | None,
    batch_size: int | None,
    draws: int | None,
    learning_rate: float | None,
    clip_norm: float | None,
    tolerance: float | None,
) -> None:
    if engine not in ("auto", *ENGINES):
        registered_engines.named(engine, "auto", *ENGINES)
    for name, value in (("max_steps", max_steps), ("num_particles", num_particles), ("batch_size", batch_size)):
        if value is not None:
            positive_int(name, value)
    if draws is not None:
        positive_int("draws", draws, minimum=2)
    for name, rate in (("learning_rate", learning_rate), ("clip_norm", clip_norm)):
        if rate is not None:
            positive_float(name, rate)
    if tolerance is not None and tolerance != 0:
        positive_float("tolerance", tolerance)
