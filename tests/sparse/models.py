"""Models in blocks, with data that a seed makes."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm


def normals(groups: int = 40, each: int = 3, seed: int = 1) -> lvm.Problem:
    """Means of groups around an unknown one, all scales known: every integral has a formula."""
    random = np.random.default_rng(seed)
    y = torch.as_tensor(0.5 + random.normal(size=(groups, 1)) + random.normal(size=(groups, each)))

    def model(y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        with pyro.plate("group", len(y), dim=-2):
            theta = pyro.sample("theta", dist.Normal(mean, 1.0))
            with pyro.plate("row", y.shape[1], dim=-1):
                pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    return lvm.Problem(model, y)


def counts(groups: int = 60, seed: int = 2) -> lvm.Problem:
    """Two counts of each group, which tell little of it."""
    random = np.random.default_rng(seed)
    rate = np.exp(0.4 + 0.7 * random.normal(size=groups))
    y = torch.as_tensor(random.poisson(rate[:, None], size=(groups, 2)).astype(float))
    group = torch.arange(groups).repeat_interleave(2)

    def model(group: torch.Tensor, y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        spread = pyro.sample("spread", dist.HalfNormal(1.0))
        with pyro.plate("groups", groups):
            effect = pyro.sample("effect", dist.Normal(0.0, spread))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(torch.exp(level + effect[group])), obs=y)

    return lvm.Problem(model, group, y.reshape(-1))


def nested(areas: int = 10, schools: int = 4, pupils: int = 3, seed: int = 3) -> lvm.Problem:
    """Schools in areas, all scales known."""
    random = np.random.default_rng(seed)
    area = torch.arange(areas).repeat_interleave(schools)
    school = torch.arange(areas * schools).repeat_interleave(pupils)
    at_area = 0.7 * random.normal(size=areas)
    at_school = at_area[area] + 0.5 * random.normal(size=areas * schools)
    y = torch.as_tensor(1.0 + at_school[school] + random.normal(size=len(school)))

    def model(area: torch.Tensor, school: torch.Tensor, y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        with pyro.plate("areas", areas):
            a = pyro.sample("a", dist.Normal(0.0, 0.7))
        with pyro.plate("schools", areas * schools):
            s = pyro.sample("s", dist.Normal(a[area], 0.5))
        with pyro.plate("pupils", len(y)):
            pyro.sample("y", dist.Normal(level + s[school], 1.0), obs=y)

    return lvm.Problem(model, area, school, y)


def in_regions(regions: int = 8, areas: int = 3, schools: int = 3, seed: int = 18) -> lvm.Problem:
    """Schools in areas in regions, all scales known: each level is centred on the one above."""
    random = np.random.default_rng(seed)
    region = torch.arange(regions).repeat_interleave(areas)
    area = torch.arange(regions * areas).repeat_interleave(schools)
    at_area = 0.8 * random.normal(size=regions)[region] + 0.7 * random.normal(size=len(region))
    y = torch.as_tensor(1.0 + at_area[area] + 0.5 * random.normal(size=len(area)) + random.normal(size=len(area)))

    def model(region: torch.Tensor, area: torch.Tensor, y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        with pyro.plate("regions", regions):
            r = pyro.sample("r", dist.Normal(level, 0.8))
        with pyro.plate("areas", len(region)):
            a = pyro.sample("a", dist.Normal(r[region], 0.7))
        with pyro.plate("schools", len(area)):
            s = pyro.sample("s", dist.Normal(a[area], 0.5))
            pyro.sample("y", dist.Normal(s, 1.0), obs=y)

    return lvm.Problem(model, region, area, y)


def crossed(persons: int = 30, items: int = 9, seed: int = 4) -> lvm.Problem:
    """Answers of persons to items: each person meets each item."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(persons, 1)) - random.normal(size=items)
    y = torch.as_tensor((random.random((persons, items)) < 1 / (1 + np.exp(-logits))).astype(float))

    def model(y: torch.Tensor) -> None:
        with pyro.plate("items", items, dim=-1):
            hard = pyro.sample("hard", dist.Normal(0.0, 1.5))
        with pyro.plate("persons", persons, dim=-2):
            able = pyro.sample("able", dist.Normal(0.0, 1.0))
        with pyro.plate("p", persons, dim=-2), pyro.plate("i", items, dim=-1):
            pyro.sample("y", dist.Bernoulli(logits=able - hard), obs=y)

    return lvm.Problem(model, y)


def two_sides(one: int = 64, other: int = 66, *, normal: bool = True, seed: int = 17) -> lvm.Problem:
    """Numbers, or yes-or-no answers, of each pair of members of two sides, none of which is small."""
    random = np.random.default_rng(seed)
    mean = 0.5 + 0.8 * random.normal(size=(one, 1)) + 0.8 * random.normal(size=other)
    y = mean + random.normal(size=mean.shape) if normal else (random.logistic(size=mean.shape) < mean).astype(float)

    def model(y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("rows", one, dim=-2):
            u = pyro.sample("u", dist.Normal(level, tau))
        with pyro.plate("columns", other, dim=-1):
            v = pyro.sample("v", dist.Normal(0.0, tau))
        with pyro.plate("r", one, dim=-2), pyro.plate("c", other, dim=-1):
            pyro.sample("y", dist.Normal(u + v, 1.0) if normal else dist.Bernoulli(logits=u + v), obs=y)

    return lvm.Problem(model, torch.as_tensor(y))


def slopes(groups: int = 25, each: int = 6, seed: int = 5) -> lvm.Problem:
    """An intercept and a slope of each group, correlated."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(groups, each))
    y = 0.5 + x * random.normal(1.0, 0.5, size=(groups, 1)) + random.normal(size=(groups, each))

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        middle = pyro.sample("middle", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        sd = pyro.sample("sd", dist.HalfNormal(1.0).expand([2]).to_event(1))
        root = pyro.sample("root", dist.LKJCholesky(2, 2.0))
        with pyro.plate("group", groups, dim=-1):
            line = pyro.sample("line", dist.MultivariateNormal(middle, scale_tril=sd[:, None] * root))
            mean = line[:, :1] + line[:, 1:] * x
            pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)

    return lvm.Problem(model, torch.as_tensor(x), torch.as_tensor(y))


def walk(steps: int = 30, seed: int = 6) -> lvm.Problem:
    """A random walk whose neighbours meet: no blocks."""
    random = np.random.default_rng(seed)
    y = torch.as_tensor(np.cumsum(0.3 * random.normal(size=steps)) + 0.5 * random.normal(size=steps))

    def model(y: torch.Tensor) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 3.0).expand([steps]).to_event(1))
        pyro.factor("steps", dist.Normal(0.0, 0.3).log_prob(x[1:] - x[:-1]).sum())
        with pyro.plate("t", steps):
            pyro.sample("y", dist.Normal(x, 0.5), obs=y)

    return lvm.Problem(model, y)


def regression(rows: int = 2_000, seed: int = 7) -> lvm.Problem:
    """A logistic regression whose predictors have scales from 0.01 to 100."""
    random = np.random.default_rng(seed)
    scales = 10.0 ** np.linspace(-2, 2, 5)
    x = random.normal(size=(rows, 5)) * scales
    y = (random.random(rows) < 1 / (1 + np.exp(-(x @ (0.5 / scales))))).astype(float)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 100.0).expand([5]).to_event(1))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    return lvm.Problem(model, torch.as_tensor(x), torch.as_tensor(y))


def mixed_up(unknowns: int = 110, seed: int = 13) -> lvm.Problem:
    """Unknowns that all meet all others."""
    random = np.random.default_rng(seed)
    weights, y = (
        torch.as_tensor(random.normal(size=(unknowns, unknowns))),
        torch.as_tensor(random.normal(size=unknowns)),
    )

    def model(y: torch.Tensor) -> None:
        with pyro.plate("each", unknowns):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", unknowns):
            pyro.sample("y", dist.Normal(weights @ z, 1.0), obs=y)

    return lvm.Problem(model, y)


def level(steps: int = 200, *, summed: bool, seed: int = 9) -> lvm.Problem:
    """A walk seen with noise, both scales unknown: places of the walk, or its steps, whose sums they are."""
    random = np.random.default_rng(seed)
    y = torch.as_tensor(np.cumsum(0.3 * random.normal(size=steps)) + 0.5 * random.normal(size=steps))
    real = dist.constraints.real

    def model(y: torch.Tensor) -> None:
        step = pyro.sample("step", dist.HalfNormal(1.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        if summed:
            with pyro.plate("steps", steps):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            x = pyro.deterministic("x", step * torch.cumsum(z, -1))
        else:
            x = pyro.sample("x", dist.ImproperUniform(real, (), (steps,)))
            before = torch.cat([x.new_zeros(1), x[:-1]])
            with pyro.plate("steps", steps):
                pyro.factor("walk", dist.Normal(before, step).log_prob(x))
        with pyro.plate("times", steps):
            pyro.sample("y", dist.Normal(x, noise), obs=y)

    return lvm.Problem(model, y)


def counted_walk(steps: int = 150, seed: int = 10) -> lvm.Problem:
    """Small counts on a walk, a third of them not seen."""
    random = np.random.default_rng(seed)
    level = 0.5 + np.cumsum(0.2 * random.normal(size=steps))
    seen = np.arange(steps) % 60 < 40
    y = torch.as_tensor(np.where(seen, random.poisson(np.exp(level)), 0).astype(float))

    def model(y: torch.Tensor, seen: torch.Tensor) -> None:
        start = pyro.sample("start", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.HalfNormal(0.5))
        with pyro.plate("steps", steps):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        x = pyro.deterministic("x", start + scale * torch.cumsum(z, -1))
        with pyro.plate("times", steps), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Poisson(torch.exp(x)), obs=y)

    return lvm.Problem(model, y, torch.as_tensor(seen))


def volatile(steps: int = 150, seed: int = 11) -> lvm.Problem:
    """Returns whose log volatility is an autoregression."""
    random = np.random.default_rng(seed)
    x = np.zeros(steps)
    for t in range(1, steps):
        x[t] = 0.9 * x[t - 1] + 0.4 * random.normal()
    y = torch.as_tensor(np.exp(x / 2) * random.normal(size=steps))
    real = dist.constraints.real

    def model(y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        stays = pyro.sample("stays", dist.Beta(9.0, 1.0))
        shock = pyro.sample("shock", dist.HalfNormal(0.5))
        x = pyro.sample("x", dist.ImproperUniform(real, (), (steps,)))
        pyro.factor("first", dist.Normal(mean, shock / torch.sqrt(1 - stays**2)).log_prob(x[0]))
        with pyro.plate("steps", steps - 1):
            pyro.factor("step", dist.Normal(mean + stays * (x[:-1] - mean), shock).log_prob(x[1:]))
        with pyro.plate("times", steps):
            pyro.sample("y", dist.Normal(0.0, torch.exp(x / 2)), obs=y)

    return lvm.Problem(model, y)


def neighbours(side: int = 11, *, joint: bool = False, shuffled: bool = False, seed: int = 12) -> lvm.Problem:
    """Counts on a grid of cells whose neighbours are alike, the cells in order or not, their prior in parts or in one piece."""
    random = np.random.default_rng(seed)
    number = random.permutation(side * side) if shuffled else np.arange(side * side)
    number = number.reshape(side, side)
    one = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    other = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    precision = 0.1 * np.eye(side * side)
    for i, j in ((one, other), (other, one)):
        np.add.at(precision, (i, i), 1.0)
        precision[i, j] = -1.0
    x = np.linalg.solve(np.linalg.cholesky(precision).T, random.normal(size=side * side))
    y = torch.as_tensor(random.poisson(np.exp(1.0 + x)).astype(float))
    matrix = torch.as_tensor(precision)
    i, j = torch.as_tensor(one), torch.as_tensor(other)

    def model(y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        tau = pyro.sample("tau", dist.Gamma(4.0, 4.0))
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (side * side,)))
        pyro.factor("volume", 0.5 * len(y) * torch.log(tau))
        if joint:
            pyro.factor("alike", -0.5 * tau * (x @ (matrix @ x)))
        else:
            with pyro.plate("edges", len(i)):
                pyro.factor("alike", -0.5 * tau * (x[i] - x[j]) ** 2)
            with pyro.plate("each", side * side):
                pyro.factor("size", -0.5 * tau * 0.1 * x**2)
        with pyro.plate("cells", side * side):
            pyro.sample("y", dist.Poisson(torch.exp(mean + x)), obs=y)

    return lvm.Problem(model, y)


def panel(groups: int = 20, steps: int = 10, seed: int = 14) -> lvm.Problem:
    """A walk of each group around a level of its own."""
    random = np.random.default_rng(seed)
    x = np.cumsum(0.3 * random.normal(size=(groups, steps)), axis=1) + random.normal(size=(groups, 1))
    y = torch.as_tensor(random.poisson(np.exp(x)).astype(float))

    def model(y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        spread = pyro.sample("spread", dist.HalfNormal(1.0))
        scale = pyro.sample("scale", dist.HalfNormal(0.5))
        with pyro.plate("groups", groups, dim=-2):
            level = pyro.sample("level", dist.Normal(mean, spread))
            with pyro.plate("steps", steps, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("y", dist.Poisson(torch.exp(level + scale * z.cumsum(-1))), obs=y)

    return lvm.Problem(model, y)


def looped(steps: int = 110, seed: int = 15) -> lvm.Problem:
    """An autoregression written as a loop, a site for each step."""
    y = torch.as_tensor(np.random.default_rng(seed).normal(size=steps))

    def model(y: torch.Tensor) -> None:
        stays = pyro.sample("stays", dist.Beta(9.0, 1.0))
        shock = pyro.sample("shock", dist.HalfNormal(0.5))
        x = torch.zeros((), dtype=y.dtype)
        for t in pyro.markov(range(len(y))):
            x = pyro.sample(f"x{t}", dist.Normal(stays * x, shock))
            pyro.sample(f"y{t}", dist.Normal(0.0, torch.exp(x / 2)), obs=y[t])

    return lvm.Problem(model, y)


def squares(steps: int = 120, seed: int = 16) -> lvm.Problem:
    """A walk of which only squares are seen: its sign is not known."""
    random = np.random.default_rng(seed)
    y = torch.as_tensor((1.5 + np.cumsum(0.1 * random.normal(size=steps))) ** 2 + 0.3 * random.normal(size=steps))

    def model(y: torch.Tensor) -> None:
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (steps,)))
        pyro.factor("first", dist.Normal(0.2, 1.0).log_prob(x[0]))
        with pyro.plate("steps", steps - 1):
            pyro.factor("step", dist.Normal(x[:-1], scale).log_prob(x[1:]))
        with pyro.plate("times", steps):
            pyro.sample("y", dist.Normal(x**2, 0.3), obs=y)

    return lvm.Problem(model, y)


def boundless(steps: int = 120) -> lvm.Problem:
    """A walk that is the more likely the farther it goes."""

    def model() -> None:
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (steps,)))
        with pyro.plate("steps", steps - 1):
            pyro.factor("step", dist.Normal(0.0, scale).log_prob(x[1:] - x[:-1]))
        with pyro.plate("times", steps):
            pyro.factor("away", x)

    return lvm.Problem(model)


def answers_in_families(places: int = 60, families: int = 5, seed: int = 18) -> lvm.Problem:
    """Two yes-or-no answers in each of many families of few places, which differ much: what three nodes integrate badly."""
    random = np.random.default_rng(seed)
    family = np.repeat(np.arange(places * families), 2)
    at = random.normal(size=places)[np.arange(places * families) // families] + 2.2 * random.normal(
        size=places * families
    )
    y = torch.as_tensor((random.random(len(family)) < 1 / (1 + np.exp(-at[family]))).astype(float))
    home, which = torch.arange(places * families) // families, torch.as_tensor(family)

    def model(home: torch.Tensor, which: torch.Tensor, y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        tau = pyro.sample("tau", dist.HalfNormal(2.0).expand([2]).to_event(1))
        with pyro.plate("places", places):
            place = pyro.sample("place", dist.Normal(mean, tau[0]))
        with pyro.plate("families", places * families):
            level = pyro.sample("level", dist.Normal(place[home], tau[1]))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=level[which]), obs=y)

    return lvm.Problem(model, home, which, y)


def questions(persons: int = 200, items: int = 40, seed: int = 19) -> lvm.Problem:
    """Yes-or-no answers of persons to questions that tell them apart more or less well, which is what moves a mode from its mean."""
    random = np.random.default_rng(seed)
    able, hard, steep = (
        random.normal(size=(persons, 1)),
        random.normal(size=items),
        np.exp(0.3 * random.normal(size=items)),
    )
    y = torch.as_tensor((random.random((persons, items)) < 1 / (1 + np.exp(-steep * (able - hard)))).astype(float))

    def model(y: torch.Tensor) -> None:
        spread = pyro.sample("spread", dist.HalfNormal(1.0))
        with pyro.plate("items", items):
            hard = pyro.sample("hard", dist.Normal(0.0, 2.0))
            steep = pyro.sample("steep", dist.LogNormal(0.0, spread))
        with pyro.plate("persons", persons, dim=-2):
            able = pyro.sample("able", dist.Normal(0.0, 1.0))
        with pyro.plate("who", persons, dim=-2), pyro.plate("what", items, dim=-1):
            pyro.sample("y", dist.Bernoulli(logits=steep * (able - hard)), obs=y)

    return lvm.Problem(model, y)


def few_areas(areas: int = 3, schools: int = 3, pupils: int = 10, seed: int = 1) -> lvm.Problem:
    """Schools in so few areas that the scale between areas may be zero, all scales unknown."""
    random = np.random.default_rng(seed)
    area = torch.arange(areas).repeat_interleave(schools)
    at_school = 1 + (0.6 * random.normal(size=areas))[area] + 0.4 * random.normal(size=areas * schools)
    y = torch.as_tensor(at_school[:, None] + random.normal(size=(areas * schools, pupils)))

    def model(area: torch.Tensor, y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 5.0))
        of_areas = pyro.sample("of_areas", dist.HalfNormal(1.0))
        of_schools = pyro.sample("of_schools", dist.HalfNormal(1.0))
        noise = pyro.sample("noise", dist.HalfNormal(2.0))
        with pyro.plate("areas", areas):
            a = pyro.sample("a", dist.Normal(level, of_areas))
        with pyro.plate("schools", len(area), dim=-2):
            s = pyro.sample("s", dist.Normal(a[area][:, None], of_schools))
            with pyro.plate("pupils", y.shape[1], dim=-1):
                pyro.sample("y", dist.Normal(s, noise), obs=y)

    return lvm.Problem(model, area, y)


def arms(arms: int = 3, groups: int = 12, rows: int = 90, seed: int = 4) -> lvm.Problem:
    """Counts of groups under a few treatments, of which each group has several."""
    random = np.random.default_rng(seed)
    arm, group = (torch.as_tensor(random.integers(0, many, rows)) for many in (arms, groups))
    rate = np.exp(0.4 + (0.5 * random.normal(size=groups))[group])
    y = torch.as_tensor(random.poisson(rate).astype(float))

    def model(arm: torch.Tensor, group: torch.Tensor, y: torch.Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        of_arms = pyro.sample("of_arms", dist.HalfNormal(1.0))
        of_groups = pyro.sample("of_groups", dist.HalfNormal(1.0))
        with pyro.plate("arms", arms):
            t = pyro.sample("t", dist.Normal(0.0, of_arms))
        with pyro.plate("groups", groups):
            g = pyro.sample("g", dist.Normal(level, of_groups))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(torch.exp(t[arm] + g[group])), obs=y)

    return lvm.Problem(model, arm, group, y)
