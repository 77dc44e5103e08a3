"""Plates, shapes, scales and masks."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import easy_guide

from tests.programs.cases import Case, grid, program

Y = grid(8)
TABLE = grid(4, 3)


@program
def nested_plates():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("columns", 3):
            column = pyro.sample("column", dist.Normal(mean, 1.0))
            with pyro.plate("rows", 4):
                pyro.sample("y", dist.Normal(column, 0.5), obs=y)

    return Case(model, (TABLE,))


@program
def crossed_plates_that_are_reused():
    def model(y):
        rows, columns = pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            row = pyro.sample("row", dist.Normal(0.0, 1.0))
        with columns:
            column = pyro.sample("column", dist.Normal(0.0, 1.0))
        with rows, columns:
            pyro.sample("y", dist.Normal(row + column, 0.5), obs=y)

    return Case(model, (TABLE,))


@program
def stacked_plates():
    def model(y):
        with pyro.plate_stack("cell", (4, 3)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    return Case(model, (TABLE,))


@program
def far_dimension():
    def model(y):
        with pyro.plate("rows", 8, dim=-3):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y.reshape(8, 1, 1))

    return Case(model, (Y,))


@program
def subsampled_plate():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y), subsample_size=4) as index:
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y[index])

    return Case(model, (Y,), nuts=False)


@program
def subsample_statement():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y), subsample_size=4):
            batch = pyro.subsample(y, event_dim=0)
            pyro.sample("y", dist.Normal(mean, 0.5), obs=batch)

    return Case(model, (Y,), nuts=False)


@program
def sequential_plate():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        for i in pyro.plate("rows", len(y)):
            z = pyro.sample(f"z_{i}", dist.Normal(mean, 1.0))
            pyro.sample(f"y_{i}", dist.Normal(z, 0.5), obs=y[i])

    def guide(y):
        centre = pyro.param("centre", torch.zeros(len(y)))
        pyro.sample("mean", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.3))
        for i in pyro.plate("rows", len(y)):
            pyro.sample(f"z_{i}", dist.Normal(centre[i], 0.5))

    return Case(model, (Y[:4],), guide=guide)


@program
def plate_without_a_size():
    def model(y):
        with pyro.plate("rows"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(y)), 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    return Case(model, (Y,))


@program
def matrix_event():
    def model(y):
        loadings = pyro.sample("loadings", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
        with pyro.plate("rows", 4):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z @ loadings.T, 0.5).to_event(1), obs=y)

    return Case(model, (TABLE,))


@program
def expanded_by_hand():
    def model(y):
        with pyro.plate("rows", 4):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).expand_by([4]).to_event(1))
            pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)

    return Case(model, (TABLE,))


@program
def masked_rows():
    def model(y, seen):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)), poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(model, (Y, Y > -0.5))


@program
def distribution_with_a_mask():
    def model(y, seen):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5).mask(seen), obs=y)

    return Case(model, (Y, Y > -0.5))


@program
def partly_observed_site():
    def model(y, seen):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y, obs_mask=seen)

    return Case(model, (Y, Y > -0.5))


@program
def scaled_density():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)), poutine.scale(scale=2.5):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(model, (Y,))


@program
def factors_alone():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.factor("fit", -0.5 * ((y - mean) / 0.5).square().sum())

    return Case(model, (Y,))


@program
def deterministic_sites():
    def model(y):
        logit = pyro.sample("logit", dist.Normal(0.0, 1.5))
        share = pyro.deterministic("share", torch.sigmoid(logit))
        with pyro.plate("rows", len(y)):
            odds = pyro.deterministic("odds", share.expand(len(y)) / (1 - share))
            pyro.sample("y", dist.Bernoulli(odds / (1 + odds)), obs=(y > 0).float())

    return Case(model, (Y,))


@program
def guide_by_groups():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, scale), obs=y)

    @easy_guide(model)
    def guide(self, y):
        group = self.group(match="mean|scale")
        start = pyro.param("start", lambda: torch.zeros(group.event_shape))
        group.sample("all", dist.Normal(start, 0.3).to_event(1))

    return Case(model, (Y,), guide=guide)
