"""A pendulum's latent dynamics: their law, the guide that looks back alone, and plans that lift the pendulum."""

from __future__ import annotations

import math

import pytest
import torch

import pyrolvm as lvm
from pyrolvm_models import world_model
from pyrolvm_models.world_model import Path


def test_a_path_is_scored_step_by_step_as_it_is_drawn() -> None:
    problem = lvm.problem("world_model", rows=5, steps=4, hidden=8)
    _, torque, world = problem.args
    law = Path(world, torque)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        z = law.rsample((3,))
        assert z.shape == (3, 5, 4, 3)
        total = torch.distributions.Normal(0.0, 1.0).log_prob(z[..., 0, :]).sum(-1)
        for t in range(3):
            mean = world.after(z[..., t, :], torque[:, t].expand(3, 5))
            total = total + torch.distributions.Normal(mean, world.log_step.exp()).log_prob(z[..., t + 1, :]).sum(-1)
        torch.testing.assert_close(law.log_prob(z), total)


def test_the_guide_sees_what_was_and_not_what_comes() -> None:
    problem = lvm.problem("world_model", rows=2, steps=8, hidden=8)
    y, torque, world = problem.args
    with torch.no_grad():
        before = world.encode(y, torque)[0]
        later = world.encode(torch.cat([y[:, :5], y[:, 5:] + 1], 1), torch.cat([torque[:, :4], torque[:, 4:] + 1], 1))[
            0
        ]
    torch.testing.assert_close(before[:, :5], later[:, :5])
    assert not torch.equal(before[:, 5:], later[:, 5:])


def test_the_pendulum_falls_from_upright_and_keeps_its_energy_nearly_when_it_swings_little() -> None:
    state = torch.tensor([0.01, 0.0])
    for _ in range(12):
        state = world_model.moved(state, torch.zeros(()))
    assert abs(float(state[0])) > 0.5  # away from upright
    hanging = torch.tensor([math.pi, 0.0])
    torch.testing.assert_close(world_model.moved(hanging, torch.zeros(())), hanging, atol=1e-5, rtol=0)
    with pytest.raises(lvm.ArgumentError, match="nothing moves"):
        lvm.problem("world_model", steps=1)


@pytest.mark.slow
def test_plans_with_the_learned_model_lift_the_pendulum() -> None:
    fit = lvm.fit(
        lvm.problem("world_model"), batch_size=128, num_particles=1, learning_rate=5e-3, max_steps=3000, tolerance=0, draws=4,
        schedule="warmup_cosine", progress=False,
    )  # fmt: skip
    height = world_model.control(fit, episodes=2)
    assert height.shape == (2, 60)
    assert float(height.max(1).values.min()) > 0.9
    assert float(height[:, 0].max()) < -0.8  # from hanging down
