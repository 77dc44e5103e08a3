"""Discrete latents: mixtures, hidden Markov models, counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from tests.programs.cases import Case, grid, program

Y = grid(6)


@program
def mixture_of_normals():
    def model(y):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("kinds", 2):
            means = pyro.sample("means", dist.Normal(torch.tensor([-1.0, 1.0]), 0.5))
        with pyro.plate("rows", len(y)):
            kind = pyro.sample("kind", dist.Categorical(shares))
            pyro.sample("y", dist.Normal(means[kind], 0.5), obs=y)

    def guide(y):
        pyro.sample("shares", dist.Dirichlet(pyro.param("a", torch.ones(2), constraint=constraints.positive)))
        with pyro.plate("kinds", 2):
            pyro.sample("means", dist.Normal(pyro.param("m", torch.tensor([-1.0, 1.0])), 0.2))

    return Case(model, (Y,), guide=guide)


@program
def mixture_in_the_likelihood():
    def model(y):
        means = pyro.sample("means", dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1))
        law = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), dist.Normal(means, 0.5))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", law, obs=y)

    return Case(model, (Y,))


@program
def truncated_dirichlet_process():
    def model(y):
        with pyro.plate("sticks", 2):
            part = pyro.sample("part", dist.Beta(1.0, 2.0))
        with pyro.plate("kinds", 3):
            means = pyro.sample("means", dist.Normal(torch.tensor([-1.0, 0.0, 1.0]), 0.5))
        left = torch.cumprod(1 - part, 0)
        shares = torch.cat([part, torch.ones(1)]) * torch.cat([torch.ones(1), left])
        with pyro.plate("rows", len(y)):
            kind = pyro.sample("kind", dist.Categorical(shares))
            pyro.sample("y", dist.Normal(means[kind], 0.3), obs=y)

    def guide(y):
        with pyro.plate("sticks", 2):
            pyro.sample("part", dist.Beta(pyro.param("b", torch.ones(2), constraint=constraints.positive), 2.0))
        with pyro.plate("kinds", 3):
            pyro.sample("means", dist.Normal(pyro.param("m", torch.tensor([-1.0, 0.0, 1.0])), 0.3))

    return Case(model, (Y,), guide=guide)


@program
def markov_over_a_range():
    def model(y):
        stay = pyro.sample("stay", dist.Beta(4.0, 2.0))
        moves = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
        state = 0
        for t in pyro.markov(range(len(y))):
            state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Normal(2.0 * state - 1, 0.5), obs=y[t])

    def guide(y):
        pyro.sample("stay", dist.Beta(pyro.param("a", torch.tensor(4.0), constraint=constraints.positive), 2.0))

    return Case(model, (Y[:4],), guide=guide)


@program
def markov_of_many_sequences():
    def model(y, lengths):
        with pyro.plate("states", 2):
            moves = pyro.sample("moves", dist.Dirichlet(torch.eye(2) * 3 + 1))
        with pyro.plate("sequences", len(y), dim=-1):
            state = 0
            for t in pyro.markov(range(y.shape[1])):
                with pyro.poutine.mask(mask=t < lengths):
                    state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]), infer={"enumerate": "parallel"})
                    pyro.sample(f"y_{t}", dist.Normal(2.0 * state - 1, 0.5), obs=y[:, t])

    def guide(y, lengths):
        with pyro.plate("states", 2):
            pyro.sample("moves", dist.Dirichlet(pyro.param("c", torch.ones(2, 2), constraint=constraints.positive)))

    return Case(model, (grid(3, 3), torch.tensor([3, 2, 1])), guide=guide)


@program
def markov_with_parameters_alone():
    def model(y):
        moves = pyro.param("moves", torch.ones(2, 2) / 2, constraint=constraints.simplex)
        means = pyro.param("means", torch.tensor([-1.0, 1.0]))
        state = 0
        for t in pyro.markov(range(len(y))):
            state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Normal(means[state], 0.5), obs=y[t])

    return Case(model, (Y[:3],), guide=None, nuts=False)


@program
def discrete_hmm_distribution():
    def model(y):
        stay = pyro.sample("stay", dist.Beta(4.0, 2.0))
        moves = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
        emit = dist.Normal(torch.tensor([-1.0, 1.0]), 0.5)
        pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), moves.log(), emit, duration=len(y)), obs=y)

    return Case(model, (Y,))


@program
def enumerated_one_by_one():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        on = pyro.sample("on", dist.Bernoulli(0.3), infer={"enumerate": "sequential"})
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean + on, 0.5), obs=y)

    def guide(y):
        pyro.sample("mean", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.3))

    return Case(model, (Y,), guide=guide)


@program
def sprinkler_tables():
    def model(wet):
        chance = pyro.sample("chance", dist.Beta(2.0, 2.0))
        rain = pyro.sample("rain", dist.Bernoulli(chance))
        sprinkler = pyro.sample("sprinkler", dist.Bernoulli(0.6 - 0.5 * rain))
        with pyro.plate("rows", len(wet)):
            pyro.sample("wet", dist.Bernoulli(0.1 + 0.4 * rain + 0.4 * sprinkler), obs=wet)

    def guide(wet):
        pyro.sample("chance", dist.Beta(pyro.param("a", torch.tensor(2.0), constraint=constraints.positive), 2.0))

    return Case(model, ((Y > 0).float(),), guide=guide)


@program
def change_point():
    def model(y):
        before = pyro.sample("before", dist.Normal(-1.0, 1.0))
        after = pyro.sample("after", dist.Normal(1.0, 1.0))
        when = pyro.sample("when", dist.Categorical(torch.ones(len(y)) / len(y)))
        with pyro.plate("rows", len(y)):
            mean = torch.where(torch.arange(len(y)) < when, before, after)
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    def guide(y):
        pyro.sample("before", dist.Normal(pyro.param("b", torch.tensor(-1.0)), 0.3))
        pyro.sample("after", dist.Normal(pyro.param("a", torch.tensor(1.0)), 0.3))

    return Case(model, (Y,), guide=guide)


@program
def capture_and_recapture():
    def model(seen):
        survive = pyro.sample("survive", dist.Beta(2.0, 1.0))
        detect = pyro.sample("detect", dist.Beta(2.0, 2.0))
        with pyro.plate("animals", len(seen), dim=-1):
            alive: Tensor = torch.ones(len(seen))
            for t in pyro.markov(range(seen.shape[1])):
                alive = pyro.sample(f"alive_{t}", dist.Bernoulli(alive * survive), infer={"enumerate": "parallel"})
                pyro.sample(f"seen_{t}", dist.Bernoulli(alive * detect), obs=seen[:, t])

    def guide(seen):
        for name in ("survive", "detect"):
            pyro.sample(
                name, dist.Beta(pyro.param(f"{name}_a", torch.tensor(2.0), constraint=constraints.positive), 2.0)
            )

    return Case(model, ((grid(5, 3) > -0.2).float(),), guide=guide)


@program
def topics_of_words():
    def model(words):
        with pyro.plate("subjects", 2):
            topics = pyro.sample("topics", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("documents", words.shape[1]):
            shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
            with pyro.plate("places", words.shape[0]):
                topic = pyro.sample("topic", dist.Categorical(shares))
                pyro.sample("word", dist.Categorical(topics[topic]), obs=words)

    def guide(words):
        with pyro.plate("subjects", 2):
            pyro.sample("topics", dist.Dirichlet(pyro.param("t", torch.ones(2, 3), constraint=constraints.positive)))
        with pyro.plate("documents", words.shape[1]):
            pyro.sample("shares", dist.Dirichlet(pyro.param("s", torch.ones(2), constraint=constraints.positive)))

    return Case(model, (torch.arange(8).reshape(4, 2) % 3,), guide=guide)


@program
def annotators_with_errors():
    def model(votes):
        skill = pyro.sample("skill", dist.Beta(torch.full((votes.shape[1],), 4.0), 2.0).to_event(1))
        with pyro.plate("items", len(votes)):
            truth = pyro.sample("truth", dist.Bernoulli(0.5))
            right = truth.unsqueeze(-1) * skill + (1 - truth.unsqueeze(-1)) * (1 - skill)
            pyro.sample("votes", dist.Bernoulli(right).to_event(1), obs=votes)

    def guide(votes):
        a = pyro.param("a", torch.full((votes.shape[1],), 4.0), constraint=constraints.positive)
        pyro.sample("skill", dist.Beta(a, 2.0).to_event(1))

    return Case(model, ((grid(5, 2) > 0).float(),), guide=guide)


@program
def forecast_counts():
    def model(y):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)
        with pyro.plate("ahead", 3):
            pyro.sample("ahead_y", dist.Poisson(rate))

    def guide(y):
        pyro.sample("rate", dist.LogNormal(pyro.param("m", torch.tensor(0.5)), 0.3))

    return Case(model, (torch.tensor([1.0, 3.0, 2.0]),), guide=guide)


@program
def zero_inflated_counts():
    def model(y):
        gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.ZeroInflatedPoisson(rate, gate=gate), obs=y)

    return Case(model, (torch.tensor([0.0, 0.0, 3.0, 1.0, 0.0]),))


@program
def guide_that_enumerates():
    def model(y):
        with pyro.plate("rows", len(y)):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.5, 0.5])))
            z = pyro.sample("z", dist.Normal(2.0 * kind - 1, 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    def guide(y):
        logits = pyro.param("logits", torch.zeros(len(y), 2))
        with pyro.plate("rows", len(y)):
            kind = pyro.sample("kind", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(2))[kind], 0.5))

    return Case(model, (Y,), guide=guide, drawn=True)
