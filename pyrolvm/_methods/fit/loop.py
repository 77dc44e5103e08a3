"""The search for the optimum: when to go on, when to slow down, when to stop. What takes the steps is an engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base import randomness, runtime
from pyrolvm._base.errors import FitError
from pyrolvm._base.explain import PASSES
from pyrolvm._base.interrupts import Held, Stopped, held
from pyrolvm._base.numerics import Array
from pyrolvm._base.progress import Progress
from pyrolvm._methods.fit.checkpoint import Keeper, Parts
from pyrolvm._methods.fit.engines.base import Engine, Work, write
from pyrolvm._methods.fit.iterates import Iterates
from pyrolvm._methods.fit.modules import settle
from pyrolvm._methods.fit.rescue import Rescue
from pyrolvm._methods.fit.stopping import STILL, Plateau, Schedule, improvement
from pyrolvm._methods.fit.validation import Validation
from pyrolvm._program.batching import Batch
from pyrolvm._program.peeling import innermost
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._results.history import History

__all__ = ["AT_ONCE", "Step", "blame", "search"]

PATIENCE = 20
CHECK_EVERY = 50
AT_ONCE = 500
"""The most steps of one call."""
RESPONSE = 0.1
"""Seconds that a call may take before the next one is shorter, so that progress shows and Ctrl-C is heard."""
COMPARED = 8
"""Estimates of the loss by which an average is compared with the last iterate."""
FEWEST = 100
"""A window of fewer steps says nothing about a plateau."""


@dataclass(frozen=True)
class Step:
    """What a callback sees after each step, or every so many if it has an attribute ``every``.

    A callback that returns ``True`` ends the search for a plateau. Between two calls, compiled engines take their steps at once.

    Attributes:
        step: the number of the step, from 0.
        loss: its loss.
        learning_rate: its rate.
        seconds: since the first step.
        parameters: gives the parameters as they are, unconstrained, by store name.
        history: all steps so far, and the looks at held-out data.
        problem: what is fitted; a callback runs inside its session, so that its model has the parameters as they are.
    """

    step: int
    loss: float
    learning_rate: float
    seconds: float
    parameters: Callable[[], dict[str, Tensor]]
    history: History | None = None
    problem: Problem | None = None

    @property
    def elbo(self) -> float:
        """The ELBO estimate of this step."""
        return -self.loss


def search(
    work: Work,
    engine: Engine,
    *,
    plateau: Plateau | None,
    schedule: Schedule,
    callbacks: Sequence[Callable[[Step], object]],
    progress: Progress,
    keeper: Keeper | None = None,
    validation: Validation | None = None,
) -> History:
    """Minimises the loss until the parameters settle or the ELBO is flat, and returns the history.

    Once the parameters circle around a point (``iterates.py``) and the ELBO no longer rises, their average is kept. If the
    ELBO is flat before that, as it is without noise, or the budget nears its end, the learning rate decays. The engine takes steps in
    blocks, which end where a decision is due, every 50th step (every 5% of the steps, later on), or at every step that a
    callback wants to see. A step whose loss or gradient is not finite is skipped. Where a decision is due and the last 20 steps
    were such, or the loss is far above the lowest so far, the search goes on from the best parameters at a tenth of the rate, up to
    three times (``rescue.py``); then 20 bad steps end it with that reason. With a rate that the caller has set for every
    step, a loss that rises is left alone. ``KeyboardInterrupt`` ends the search too, between two blocks, and keeps what was reached;
    a ``keeper`` then writes a checkpoint, as it does from time to time (``checkpoint.py``).
    With held-out data, the parameters that do best on them are kept.

    Raises:
        FitError: if not a single step had a finite loss.
    """
    rescue = Rescue(work.parameters(), judges=not (schedule.constant or schedule.custom is not None))
    with held() as pending:
        history = _search(work, engine, plateau, schedule, callbacks, progress, rescue, keeper, pending, validation)
        try:
            pending.let_through()
        except KeyboardInterrupt:  # in the last block: there is nothing left to stop
            history.interrupted = True
    if validation is not None:
        validation.finish(history)
    if rescue.times:
        history.reason += (
            f"; the steps diverged {rescue.times} time{'s' if rescue.times > 1 else ''}, and went on from the best parameters at "
            f"{rescue.factor:.3g} of the learning rate{rescue.culprit}"
        )
    return history


def _search(
    work: Work,
    engine: Engine,
    plateau: Plateau | None,
    schedule: Schedule,
    callbacks: Sequence[Callable[[Step], object]],
    progress: Progress,
    rescue: Rescue,
    keeper: Keeper | None,
    pending: Held,
    validation: Validation | None,
) -> History:
    history = History()
    iterates = Iterates.of(work.parameters()) if plateau is not None and schedule.custom is None else None
    started = time.perf_counter()
    step = bad = 0
    next_look = _check_after(0)
    size = CHECK_EVERY
    slower = 1.0
    parts = {"history": history, "iterates": iterates, "schedule": schedule, "rescue": rescue, "validation": validation}
    saved = None if keeper is None else keeper.bind(Parts(work, engine, parts, callbacks))
    if saved is not None:
        step, bad, next_look, slower = (saved[name] for name in ("step", "bad", "next_look", "slower"))
        started -= saved["seconds"]

    def here() -> dict[str, object]:
        seconds = time.perf_counter() - started
        return {"step": step, "bad": bad, "next_look": next_look, "slower": slower, "seconds": seconds}

    stopped = False
    between = False  # whether all parts are at the end of the same block
    try:
        while step < schedule.end:
            between = True
            pending.check() if step else pending.let_through()  # there is always something to keep
            if keeper is not None:
                keeper.look(here)
            between = False
            due = None if plateau is None or schedule.start is not None else _check_after(step)
            limit = min(size, engine.limit)
            if iterates is not None and schedule.start is None:
                limit = min(limit, iterates.stride - step % iterates.stride)
            seen = [*map(_every, callbacks), *([] if validation is None else [validation.every])]
            limit = min([limit, *(every - step % every for every in seen)])
            count = _block(step, limit, schedule, due, next_look)
            began = time.perf_counter()
            taken = engine.advance(step, [slower * schedule.factor(i) for i in range(step, step + count)])
            size = _next_size(size, time.perf_counter() - began)
            step += count
            history.add(taken)
            bad = _bad_in_a_row(bad, taken.good)
            diverged = False
            if step >= next_look or step >= schedule.end:  # a step that does not depend on how long the blocks are
                next_look = _check_after(step)
                diverged = bad >= PATIENCE or rescue.look(engine, history.losses, _start(work, history))
            if diverged:
                if bad >= PATIENCE:
                    engine.publish()
                    rescue.culprit = f". {_culprit(work)}"
                if rescue.back(engine):
                    slower, bad = rescue.factor, 0
                    iterates = parts["iterates"] = None if iterates is None else Iterates.of(work.parameters())
                    continue
                if bad >= PATIENCE:
                    engine.publish()
                    _give_up(work, history, bad)
                    return history
            stop = False
            called = [callback for callback in callbacks if step % _every(callback) == 0]
            if called and taken.good[-1]:
                engine.publish()
                seconds = time.perf_counter() - started
                state = Step(
                    step - 1, taken.losses[-1], taken.rates[-1], seconds, runtime.parameters, history, work.problem
                )  # fmt: skip
                leads = work.share is None or work.share.leads
                stop = leads and any([_told(callback, state) is True for callback in called])
                stop = stop if work.share is None else work.share.decided(stop)
            if validation is not None and step % validation.every == 0:
                engine.publish()
                if engine.name != "pyro":
                    settle(work)
                if validation.look(step, history):
                    history.converged, history.reason = True, validation.reason()
                    return history
            progress.update(step, lambda: _line(history, started), total=schedule.end)
            if iterates is not None and schedule.start is None:
                if step % iterates.stride == 0:
                    engine.publish()
                    iterates.note(step)
                if step == due and not stop and _settled(work, history, iterates, plateau):
                    return history
            if schedule.start is None:
                _maybe_decay(history, schedule, plateau, step, stop, due)
    except Stopped:
        stopped = True
        history.reason = f"the seconds of the budget were over after {len(history)} steps"
    except KeyboardInterrupt:
        if between and keeper is not None:
            keeper.look(here, now=True)
        history.interrupted = True
        history.reason = f"interrupted by the user after {len(history)} steps"
    engine.publish()
    if not history.interrupted and not stopped:
        if not len(history):
            _give_up(work, history, bad)
        _conclude(history, schedule, plateau)
    return history


def _told(callback: Callable[[Step], object], state: Step) -> object:
    """What a callback says; what it raises is the caller's own, and passes as it is."""
    try:
        return callback(state)
    except Exception as error:
        setattr(error, PASSES, True)
        raise


def _settled(work: Work, history: History, iterates: Iterates, plateau: Plateau | None) -> bool:
    """Whether the search is over: the ELBO does not rise, and the parameters' average, kept then, is no worse than the last ones.

    That it does not rise must be certain to within the plateau's tolerance, or the parameters must have settled.
    """
    flat = plateau is not None and plateau.reached(history.losses)
    if not (iterates.settled() or flat):
        return False
    steps = len(history) // 2
    rise, error = improvement(history.losses, steps)
    if not rise <= 2 * error:
        return False
    params = work.parameters()
    last, average = [p.detach().clone() for p in params], iterates.average()
    before = _losses(work)
    write(average, params)
    worse = _losses(work) - before
    if not worse.mean() <= 2 * worse.std(ddof=1) / math.sqrt(len(worse)):
        write(last, params)
        return False
    history.converged = True
    what = "the ELBO is flat" if flat else "the parameters have settled"
    history.reason = (
        f"{what}: over the last {steps} of {len(history)} steps the ELBO changed by {rise:+.2g} +- {error:.2g} nats, and the R-hat of "
        f"the parameters is {iterates.rhat():.2f}; their average over these steps is kept"
    )
    return True


def _losses(work: Work) -> Array:
    """The loss at the parameters as they are, with the same random numbers whenever it is asked for."""
    found, objective = [], cast(Any, work.objective)
    for seed in range(COMPARED):
        with randomness.random_state(seed, work.problem.device), torch.no_grad():
            batch = work.aside()
            with batch.active():
                found.append(float(objective.loss(work.problem.model, work.guide, *batch.args, **batch.kwargs)))
    return np.array(found)


def _start(work: Work, history: History) -> tuple[float, float] | None:
    """The loss before the first step with its standard error; ``None`` where rows or draws are too few to tell it."""
    known = work.minibatches is None and len(history) > 0 and math.isfinite(history.errors[0])
    return (float(history.losses[0]), float(history.errors[0])) if known else None


def _check_after(step: int) -> int:
    """The step at which to look for a plateau next."""
    every = max(1, step // (20 * CHECK_EVERY)) * CHECK_EVERY
    return (step // every + 1) * every


def _block(step: int, limit: int, schedule: Schedule, due: int | None, look: int) -> int:
    """How many steps may be taken before something is to be decided."""
    ends = [step + limit, schedule.end, look]
    if due is not None:
        ends.append(due)
    if schedule.start is None and step < schedule.latest_start:
        ends.append(schedule.latest_start)
    return min(ends) - step


def _every(callback: object) -> int:
    """How many steps pass between two calls of a callback."""
    return int(getattr(callback, "every", 1))


def _next_size(size: int, seconds: float) -> int:
    """How many steps the next call may take. It has no influence on what the steps are."""
    if seconds > RESPONSE:
        return max(1, size // 2)
    return min(AT_ONCE, 2 * size) if seconds < RESPONSE / 4 else size


def _bad_in_a_row(before: int, good: Array) -> int:
    """How many steps in a row, up to the last one, were skipped."""
    found = np.flatnonzero(good)
    return before + len(good) if not len(found) else len(good) - 1 - int(found[-1])


def _maybe_decay(
    history: History, schedule: Schedule, plateau: Plateau | None, step: int, stop: bool, due: int | None
) -> None:
    if stop:
        schedule.begin(step)
        history.reason = "a callback asked to stop"
        history.converged = True
        return
    if plateau is not None and step == due and plateau.reached(history.losses):
        window = max(plateau.minimum, int(0.4 * step))
        rise, error = improvement(history.losses, window)
        history.converged = True
        history.reason = (
            f"the ELBO is flat: it changed by {rise:+.3g} +- {error:.2g} nats over the last {window // 2} of {step} steps; "
            "then the learning rate decayed"
        )
        schedule.begin(step)
    elif step >= schedule.latest_start:
        schedule.begin(step)


def _conclude(history: History, schedule: Schedule, plateau: Plateau | None) -> None:
    if history.reason:
        history.reason += f" until step {len(history)}" if schedule.length else ""
        return
    before = history.losses[: schedule.start]
    window = int(0.4 * len(before))
    budget = f"max_steps={schedule.max_steps} reached"
    rise, error = improvement(before, window) if window else (0.0, 0.0)
    figures = f"{rise:.3g} +- {error:.2g} nats over {window // 2} steps"
    hidden = (plateau or Plateau()).tolerance(before, max(window, 1))
    if math.isfinite(rise) and rise > 2 * error and rise + 2 * error > STILL * hidden:
        history.reason = f"{budget} while the ELBO was still rising by {figures}"
    elif window < FEWEST:
        history.reason = f"{budget}, too few steps to tell whether the ELBO still rises"
    elif 2 * error > hidden:
        history.reason = f"{budget}. The ELBO changed by {figures}: its noise could hide more than {hidden:.2g} nats"
    else:
        history.reason = f"{budget}, and the ELBO is flat: it changed by {figures}"
        history.converged = True


def _line(history: History, started: float) -> str:
    rate = len(history) / max(time.perf_counter() - started, 1e-9)
    if not len(history):
        return "no finite loss yet"
    return f"ELBO {-history.losses[-50:].mean():.2f}  {rate:.0f} steps/s  lr {history.rates[-1]:.2g}"


def _give_up(work: Work, history: History, bad: int) -> None:
    culprit = _culprit(work)
    if not len(history):
        raise FitError(
            f"the loss of {work.problem.name!r} is not finite at any of the first {history.skipped} steps. {culprit} "
            "Fix: check that the prior and the data agree in scale, or start elsewhere with a smaller init_scale."
        )
    history.reason = (
        f"the loss or its gradient was not finite for {bad} steps in a row after step {len(history)}; the last good state is "
        f"kept. {culprit} Fix: lower learning_rate, set clip_norm, or bound the scale in the model."
    )


def _culprit(work: Work) -> str:
    """What is not finite at the parameters as they are, without moving the random numbers of the steps."""
    with randomness.random_state(work.seed, work.problem.device):
        return blame(work.problem, work.guide, work.aside())


def blame(problem: Problem, guide: Callable[..., object], batch: Batch) -> str:
    """Names the sites whose log density is not finite on a fresh draw, with the whole table if several are."""
    with batch.active(), torch.no_grad():
        guide_trace = poutine.trace(guide).get_trace(*batch.args, **batch.kwargs)
        model_trace = poutine.trace(poutine.replay(problem.model, trace=guide_trace)).get_trace(
            *batch.args, **batch.kwargs
        )
        model_trace.compute_log_prob()
        guide_trace.compute_log_prob()
    rows = {
        f"{label} {name!r}": float(node["log_prob_sum"])
        for label, trace in (("model", model_trace), ("guide", guide_trace))
        for name, node in trace.nodes.items()
        if is_random(node) and not is_deterministic(node)
    }
    bad = [name for name, value in rows.items() if not math.isfinite(value)]
    table = ", ".join(f"{name}: {value:.4g}" for name, value in rows.items())
    if bad:
        nodes = model_trace.nodes.items()
        hint = "".join(
            f" {name!r} is a Delta, a value and no unknown, which pyro.deterministic({name!r}, value) says."
            for name, node in nodes
            if f"model {name!r}" in bad and not node["is_observed"] and isinstance(innermost(node["fn"]), dist.Delta)
        )
        return f"Not finite: {', '.join(bad)}. Log densities by site: {table}.{hint}"
    return f"Every site is finite on a fresh draw ({table}), so the gradient is what overflows."
