"""The optimisation loop on stock Pyro: one step is one run of guide and model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyrolvm import runtime
from pyrolvm.errors import FitError
from pyrolvm.program.batching import Batch
from pyrolvm.program.inspection import is_deterministic, is_random
from pyrolvm.program.problem import Problem
from pyrolvm.progress import Progress
from pyrolvm.vi.objective import ParticleELBO
from pyrolvm.vi.optimizer import Stepper
from pyrolvm.vi.stopping import Plateau, Schedule, improvement

__all__ = ["History", "Step", "optimise"]

PATIENCE = 20
CHECK_EVERY = 50
FEWEST = 100
"""A window of fewer steps says nothing about a plateau."""


@dataclass(frozen=True)
class Step:
    """What a callback sees after each step. A callback that returns ``True`` ends the search for a plateau."""

    step: int
    loss: float
    learning_rate: float
    seconds: float
    parameters: Callable[[], dict[str, Tensor]]

    @property
    def elbo(self) -> float:
        """The ELBO estimate of this step."""
        return -self.loss


@dataclass
class History:
    """What happened, step by step, and why it ended."""

    losses: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    converged: bool = False
    interrupted: bool = False
    reason: str = ""
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.losses)


def optimise(
    problem: Problem,
    guide: Callable[..., Any],
    objective: ELBO,
    stepper: Stepper,
    batches: Iterator[Batch],
    *,
    plateau: Plateau | None,
    schedule: Schedule,
    callbacks: Sequence[Callable[[Step], Any]],
    progress: Progress,
) -> History:
    """Minimises the loss until its plateau, lets the learning rate follow its schedule, and returns the history.

    A step whose loss or gradient is not finite is skipped, so that the parameters keep the last good state; after 20 of
    them in a row the run ends with that reason. ``KeyboardInterrupt`` ends it too, and keeps what was reached.

    Raises:
        FitError: if not a single step had a finite loss.
    """
    history = History()
    started = time.perf_counter()
    bad = 0
    try:
        for step in range(schedule.max_steps):
            if step >= schedule.end:
                break
            batch = next(batches)
            loss, error = _loss_and_grads(objective, problem, guide, batch)
            params = list(runtime.parameters().values())
            if not _finite(loss, params):
                bad += 1
                history.skipped += 1
                _give_up(problem, guide, batch, history, bad)
                if history.reason:
                    return history
                for p in params:
                    p.grad = None
                continue
            bad = 0
            stepper.step(params, schedule.factor(step))
            history.losses.append(loss)
            history.errors.append(error)
            history.rates.append(stepper.learning_rate)
            state = Step(step, loss, stepper.learning_rate, time.perf_counter() - started, runtime.parameters)
            stop = any([callback(state) is True for callback in callbacks])
            progress.update(step + 1, lambda: _line(history, started), total=schedule.end)
            if schedule.start is None:
                _maybe_decay(history, schedule, plateau, step + 1, stop)
    except KeyboardInterrupt:
        history.interrupted = True
        history.reason = f"interrupted by the user after {len(history)} steps"
        return history
    _conclude(history, schedule, plateau)
    return history


def _loss_and_grads(objective: ELBO, problem: Problem, guide: Callable[..., Any], batch: Batch) -> tuple[float, float]:
    with batch.active():
        if isinstance(objective, ParticleELBO):
            values = objective.particles(problem.model, guide, *batch.args, **batch.kwargs)
            loss = -values.mean()
            if loss.requires_grad:
                loss.backward()
            error = float(values.detach().std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
            return float(loss.detach()), error
        stock: Any = objective  # Pyro's base class does not declare the methods that all its ELBOs have
        return float(stock.loss_and_grads(problem.model, guide, *batch.args, **batch.kwargs)), math.nan


def _finite(loss: float, params: Sequence[Tensor]) -> bool:
    if not math.isfinite(loss):
        return False
    grads = [p.grad for p in params if p.grad is not None]
    return not grads or bool(torch.stack([torch.isfinite(g).all() for g in grads]).all())


def _maybe_decay(history: History, schedule: Schedule, plateau: Plateau | None, step: int, stop: bool) -> None:
    if stop:
        schedule.begin(step)
        history.reason = "a callback asked to stop"
        history.converged = True
        return
    if plateau is not None and step % CHECK_EVERY == 0 and plateau.reached(history.losses):
        window = max(plateau.minimum, int(0.4 * step))
        rise, error = improvement(history.losses, window)
        history.converged = True
        history.reason = (
            f"the ELBO is flat: it rose by {rise:.3g} +- {error:.2g} nats over the last {window // 2} of {step} steps; "
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
    if math.isfinite(rise) and rise > 2 * error:
        history.reason = f"{budget} while the ELBO was still rising by {figures}"
    elif window < FEWEST:
        history.reason = f"{budget}, too few steps to tell whether the ELBO still rises"
    elif 2 * error > hidden:
        history.reason = f"{budget}. The ELBO rose by {figures}: its noise could hide more than {hidden:.2g} nats"
    else:
        history.reason = f"{budget}, and the ELBO is flat: it rose by {figures}"
        history.converged = True


def _line(history: History, started: float) -> str:
    recent = [loss for loss in history.losses[-50:] if math.isfinite(loss)]
    rate = len(history) / max(time.perf_counter() - started, 1e-9)
    elbo = -sum(recent) / max(len(recent), 1)
    return f"ELBO {elbo:.2f}  {rate:.0f} steps/s  lr {history.rates[-1]:.2g}"


def _give_up(problem: Problem, guide: Callable[..., Any], batch: Batch, history: History, bad: int) -> None:
    if bad < PATIENCE:
        return
    culprit = _blame(problem, guide, batch)
    if not history.losses:
        raise FitError(
            f"the loss of {problem.name!r} is not finite at any of the first {bad} steps. {culprit} "
            "Fix: check that the prior and the data agree in scale, or start elsewhere with a smaller init_scale."
        )
    history.reason = (
        f"the loss or its gradient was not finite for {bad} steps in a row after step {len(history)}; the last good state is "
        f"kept. {culprit} Fix: lower learning_rate, set clip_norm, or bound the scale in the model."
    )


def _blame(problem: Problem, guide: Callable[..., Any], batch: Batch) -> str:
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
        return f"Not finite: {', '.join(bad)}. Log densities by site: {table}."
    return f"Every site is finite on a fresh draw ({table}), so the gradient is what overflows."
