r"""A world model to plan with: latent dynamics of a pendulum, learned under random torques, in which others are tried.

    z_n1     ~ Normal(0, I)                                          ``latent`` numbers: the state
    z_n,t+1  ~ Normal(z_nt + f(z_nt, u_nt), s)                       t = 1..T, ``u`` the torque, given
    y_nt     ~ Normal(g(z_nt), r)                                    what is seen: where the pendulum points, with noise

Graph: ``z_nt -> z_n,t+1``, ``z_nt -> y_nt``, ``u_nt -> z_n,t+1`` with a plate over the sequences. Speed is never seen: the state
has to hold it, and the guide, a network that reads the last eight observations and the torques between, has to find it.

Planning is model-based control: where the pendulum is is drawn from the guide, two hundred sequences of torques are tried by
drawing from the model, the best of them say where to look next (cross-entropy method), and the first torque of what comes out is
applied. Nothing but the model is asked what a torque would do. The goal, to swing the pendulum up and hold it there, is in no data:
it is said when a plan is made.

What variational inference loses: the guide's states are independent from step to step given what is seen, and it is a filter, which
knows nothing of what comes after. Both make the noise of a step look larger than it is.

Data: simulated, the equation of motion of a rod of 1 m and 1 kg with torques within 2 Nm, too weak to lift it at once; from random
states, under random torques, 16 steps of 0.1 s. Goals are not in them.

References:
    Hafner, D. et al. (2019). Learning latent dynamics for planning from pixels. ICML. https://arxiv.org/abs/1811.04551
    Krishnan, R. G., Shalit, U., Sontag, D. (2015). Deep Kalman filters. https://arxiv.org/abs/1511.05121
    Rubinstein, R. Y. (1999). The cross-entropy method for combinatorial and continuous optimization. Methodology and Computing in
        Applied Probability 1, 127-190. https://doi.org/10.1023/A:1010091220143
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import _data, _images
from pyrolvm_models._nets import dense

__all__ = ["World", "control", "moved", "plan", "seen", "sequences", "world_model"]

LIMIT = 2.0
"""The largest torque, Nm."""

WINDOW = 8
"""Observations that the guide reads."""

HALVES, STEP = 2, 0.05
"""Steps of the simulation to one of the model, and their seconds."""

FASTEST, NOISE = 8.0, 0.05
"""Radians a second at most, and the sd of what is seen."""


# --- the pendulum -----------------------------------------------------------------------------------------------------


def moved(state: Tensor, torque: Tensor) -> Tensor:
    """The state after a step: angle from upright and speed ``(..., 2)``, radians and radians a second, under a torque ``(...)``, Nm."""
    angle, speed = state.unbind(-1)
    for _ in range(HALVES):
        speed = (speed + (15.0 * angle.sin() + 3.0 * torque.clamp(-LIMIT, LIMIT)) * STEP).clamp(-FASTEST, FASTEST)
        angle = angle + speed * STEP
    return torch.stack([angle, speed], -1)


def seen(state: Tensor) -> Tensor:
    """Where the pendulum points ``(..., 2)``: up and aside."""
    return torch.stack([state[..., 0].cos(), state[..., 0].sin()], -1)


def sequences(count: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Observations ``(count, steps, 2)`` with noise, and the random torques ``(count, steps)`` after each."""
    generator = torch.Generator().manual_seed(seed)
    state = (2 * torch.rand(count, 2, generator=generator) - 1) * torch.tensor([math.pi, 6.0])
    torque = LIMIT * (2 * torch.rand(count, steps, generator=generator) - 1)
    found = []
    for t in range(steps):
        found.append(seen(state))
        state = moved(state, torque[:, t])
    y = torch.stack(found, 1)
    return y + NOISE * torch.randn(y.shape, generator=generator), torque


# --- the model --------------------------------------------------------------------------------------------------------


class World(nn.Module):
    """Networks of the dynamics, of what is seen of a state, and of the guide.

    Args:
        latent: numbers of a state.
        hidden: units of the hidden layers.
        generator: source of the initial weights.
    """

    def __init__(self, latent: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.latent = latent
        self.dynamics = dense(latent + 1, hidden, latent, generator, gain=0.1)
        self.picture = dense(latent, hidden, 2, generator)
        self.reader = dense(WINDOW * 4, hidden, 2 * latent, generator)
        self.log_step = nn.Parameter(torch.full((latent,), -1.0))
        self.log_noise = nn.Parameter(torch.full((2,), -1.0))

    def after(self, z: Tensor, torque: Tensor) -> Tensor:
        """The mean of the state after ``z`` ``(..., latent)`` under a torque ``(...)``."""
        change: Tensor = self.dynamics(torch.cat([z, torque.unsqueeze(-1)], -1))
        return z + change

    def encode(self, y: Tensor, torque: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of each state ``(..., t, latent)`` given observations ``(..., t, 2)`` and torques up to it."""
        there = torch.ones_like(torque).unsqueeze(-1)
        before = F.pad(torque, (1, 0))[..., :-1].unsqueeze(-1)
        known = F.pad(torch.cat([y, before, there], -1), (0, 0, WINDOW - 1, 0))
        steps = y.shape[-2]
        windows = torch.cat([known[..., i : i + steps, :] for i in range(WINDOW)], -1)
        loc, raw = self.reader(windows).chunk(2, -1)
        return loc, F.softplus(raw) + 1e-3


class Path(dist.TorchDistribution):
    """States one after the other, event shape ``(t, latent)``.

    Args:
        world: the networks.
        torque: after each state, ``(n, t)``.
        batch_shape: that of the sequences.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, world: Any, torque: Tensor, batch_shape: Any = None) -> None:
        self.world, self.torque = world, torque
        shape = torch.Size(torque.shape[:-1] if batch_shape is None else batch_shape)
        super().__init__(shape, torch.Size([torque.shape[-1], world.latent]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Path:
        """The same law for more sequences."""
        return Path(self.world, self.torque, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of paths ``(..., t, latent)``, shape ``(...)``."""
        torque = self.torque.expand(value.shape[:-1])
        mean = self.world.after(value[..., :-1, :], torque[..., :-1])
        first: Tensor = dist.Normal(torch.zeros_like(value[..., 0, :]), 1.0).log_prob(value[..., 0, :]).sum(-1)
        rest: Tensor = dist.Normal(mean, self.world.log_step.exp()).log_prob(value[..., 1:, :]).sum((-1, -2))
        return first + rest

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Paths of shape ``sample_shape + batch_shape + (t, latent)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        torque = self.torque.expand(*shape, self.torque.shape[-1])
        noise = torch.randn(*shape, *self.event_shape, dtype=torque.dtype, device=torque.device)
        states = [noise[..., 0, :]]
        for t in range(self.event_shape[0] - 1):
            states.append(
                self.world.after(states[-1], torque[..., t]) + self.world.log_step.exp() * noise[..., t + 1, :]
            )
        return torch.stack(states, -2)


def world_model(
    *,
    split: str = "train",
    rows: int = 1000,
    steps: int = 16,
    latent: int = 3,
    hidden: int | Sequence[int] = (64, 64),
    seed: int = 0,
) -> lvm.Problem:
    """A pendulum under random torques, as latent dynamics to plan with.

    Args:
        split: ``"train"``, or ``"test"``: other sequences.
        rows: How many sequences.
        steps: Observations of a sequence, at least 2.
        latent: Numbers of a state.
        hidden: Units of the hidden layers.
        seed: Seed of the initial weights.

    Returns:
        The problem.

    Raises:
        ArgumentError: An option is out of range.
    """
    owner = "world_model"
    _images.choose(owner, "split", split, ("train", "test"))
    for option, count in (("rows", rows), ("steps", steps), ("latent", latent)):
        _data.check_count(owner, option, count)
    if steps < 2:
        raise lvm.ArgumentError(f"option 'steps' of problem {owner!r} is 1: nothing moves. Fix: give 2 or more.")
    y, torque = sequences(rows, steps, seed=1 if split == "test" else 0)
    world = World(latent, _images.sizes(owner, "hidden", hidden), torch.Generator().manual_seed(seed))

    @lvm.model(
        dims={"z": ["data", "time", "state"], "y": ["data", "time", "direction"]},
        coords={"time": list(range(steps)), "state": list(range(latent)), "direction": ["up", "aside"]},
        guide=_read,
    )
    def pendulum(y: Tensor, torque: Tensor, world: Any) -> None:
        """Observations ``y`` ``(n, t, 2)`` of states that torques ``(n, t)`` move."""
        pyro.module("world", world)
        with pyro.plate("data", len(torque)):
            z = pyro.sample("z", Path(world, torque))
            pyro.sample("y", dist.Normal(world.picture(z), world.log_noise.exp()).to_event(2), obs=y)

    return lvm.Problem(pendulum, y, torque, world)


def _read(y: Tensor, torque: Tensor, world: Any) -> None:
    """The guide: each state given what has been seen up to it."""
    pyro.module("world", world)
    with pyro.plate("data", len(y)):
        loc, scale = world.encode(y, torque)
        pyro.sample("z", dist.Normal(loc, scale).to_event(2))


# --- planning ---------------------------------------------------------------------------------------------------------


def plan(
    start: Callable[[int], Tensor],
    after: Callable[[Tensor, Tensor], Tensor],
    height: Callable[[Tensor], Tensor],
    *,
    horizon: int = 20,
    tries: int = 200,
    rounds: int = 3,
    best: int = 20,
    draws: int = 5,
) -> Tensor:
    """The first of the torques that lift a pendulum most, by the cross-entropy method; draws from torch's generator.

    Args:
        start: draws so many states that the pendulum may be in.
        after: draws the states after states ``(n, draws, ...)`` under torques ``(n, draws)``, with noise that is the same for all n, so
            that no sequence of torques is better by luck.
        height: how high the pendulum points in states, from -1 to 1.
        horizon: steps to look ahead.
        tries: sequences of torques that are tried in a round.
        rounds: how often the best say where to look next.
        best: how many of them do.
        draws: courses of the model that a sequence of torques is tried in.

    Returns:
        The torque, shape ``()``.
    """
    mean, sd = torch.zeros(horizon), torch.full((horizon,), LIMIT)
    for _ in range(rounds):
        torque = (mean + sd * torch.randn(tries, horizon)).clamp(-LIMIT, LIMIT)
        state, score = start(draws).expand(tries, draws, -1), torch.zeros(tries)
        for t in range(horizon):
            state = after(state, torque[:, t : t + 1].expand(tries, draws))
            score = score + height(state).mean(-1)
        chosen = torque[score.topk(best).indices]
        mean, sd = chosen.mean(0), chosen.std(0) + 0.05
    return mean[0]


def control(fit: lvm.Fit | None, *, steps: int = 60, episodes: int = 1, seed: int = 0) -> Tensor:
    """How high the simulated pendulum points, from hanging down, under torques that are planned with a fitted model.

    Args:
        fit: A fit of :func:`world_model`; ``None`` plans with the simulation itself, of which the state is known: the most that
            planning can do.
        steps: Steps of 0.1 s.
        episodes: How often.
        seed: Makes the draws repeatable.

    Returns:
        The height after each step, from -1 to 1, shape ``(episodes, steps)``.

    Raises:
        UnknownNameError: ``fit`` is of another model.
        ArgumentError: A number is out of range.
    """
    for option, count in (("steps", steps), ("episodes", episodes)):
        _data.check_count("control", option, count, kind="function")
    world: Any = None if fit is None else fit.module("world")
    found = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(episodes):
            state = torch.tensor([math.pi, 0.0]) + 0.1 * torch.randn(2)
            looks, torques, heights = [seen(state) + NOISE * torch.randn(2)], [torch.zeros(())], []
            for _ in range(steps):
                if world is None:
                    torque = plan(lambda n, now=state: now.expand(n, 2), moved, lambda s: s[..., 0].cos())  # type: ignore[misc]
                else:
                    torque = _planned(world, torch.stack(looks[-WINDOW - 1 :]), torch.stack(torques[-WINDOW - 1 :]))
                state = moved(state, torque)
                torques[-1] = torque
                torques.append(torch.zeros(()))
                looks.append(seen(state) + NOISE * torch.randn(2))
                heights.append(state[0].cos())
            found.append(torch.stack(heights))
    return torch.stack(found)


def _planned(world: Any, looks: Tensor, torques: Tensor) -> Tensor:
    """The torque after some observations ``(t, 2)`` and the torques after each of them ``(t,)``, the last of which is to be found."""
    loc, scale = world.encode(looks, torques)
    noise = world.log_step.exp()

    def start(count: int) -> Tensor:
        return loc[-1] + scale[-1] * torch.randn(count, world.latent)

    def after(state: Tensor, torque: Tensor) -> Tensor:
        mean: Tensor = world.after(state, torque)
        return mean + noise * torch.randn(mean.shape[1:])

    def height(state: Tensor) -> Tensor:
        pointing: Tensor = world.picture(state)
        return pointing[..., 0]

    return plan(start, after, height)
