"""Linear regressions: with flat priors, whose posteriors have a closed form, and with proper ones."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.posteriordb._data import Data, Maker, fields, tensor

Design = Callable[[Data], tuple[Tensor, Tensor]]
"""Makes the design matrix ``(n, k)``, its first column ones, and the outcome ``(n,)`` of a data set."""


def flat(x: Tensor, y: Tensor) -> None:
    """The posteriors of ``nes``, ``earnings``, ``mesquite`` and ``kidscore_interaction_c``: flat coefficients, flat scale."""
    beta = pyro.sample("beta", dist.ImproperUniform(dist.constraints.real_vector, (), (x.shape[1],)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def flat_cauchy(x: Tensor, y: Tensor) -> None:
    """The posteriors ``kidiq-kidscore_interaction`` and ``kidiq-kidscore_momiq``: flat coefficients, half-Cauchy scale."""
    beta = pyro.sample("beta", dist.ImproperUniform(dist.constraints.real_vector, (), (x.shape[1],)))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def proper(x: Tensor, y: Tensor) -> None:
    """The posteriors ``sblrc-blr`` and ``sblri-blr``: normal coefficients, half-normal scale, no intercept."""
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def trend(x: Tensor, y: Tensor, alpha_prior: Tensor, beta_prior: Tensor) -> None:
    """The posterior ``kilpisjarvi_mod-kilpisjarvi``: intercept and slope of years that are not centred.

    Args:
        x: years, shape ``(n,)``.
        y: temperatures, shape ``(n,)``.
        alpha_prior: mean and standard deviation of the intercept.
        beta_prior: mean and standard deviation of the slope.
    """
    alpha = pyro.sample("alpha", dist.Normal(alpha_prior[0], alpha_prior[1]))
    beta = pyro.sample("beta", dist.Normal(beta_prior[0], beta_prior[1]))
    sigma = pyro.sample("sigma", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def diamonds(x: Tensor, y: Tensor) -> None:
    """The posterior ``diamonds-diamonds``: 24 centred, nearly collinear predictors and an intercept.

    Args:
        x: centred predictors, shape ``(n, k)``.
        y: log prices, shape ``(n,)``.
    """
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    intercept = pyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    # Twice the density of a Student t, which is the half Student t on what is positive.
    sigma = pyro.sample("sigma", dist.ImproperUniform(dist.constraints.positive, (), ()))
    pyro.factor("sigma_prior", dist.StudentT(3.0, 0.0, 10.0).log_prob(sigma))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(intercept + x @ b, sigma), obs=y)


# --- data -------------------------------------------------------------------------------------------------------------


def _with_ones(*columns: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(columns[0]), *columns], dim=1)


def _nes(data: Data) -> tuple[Tensor, Tensor]:
    ideology, race, age, education, gender, income = fields(
        data, "real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income"
    )
    ages = [(age == group).double() for group in (2, 3, 4)]
    return _with_ones(ideology, race, *ages, education, gender, income), tensor(data["partyid7"])


def _earnings_by_height(data: Data) -> tuple[Tensor, Tensor]:
    earn, height = fields(data, "earn", "height")
    return _with_ones(height), earn


def _log10_earnings(data: Data) -> tuple[Tensor, Tensor]:
    earn, height = fields(data, "earn", "height")
    return _with_ones(height), earn.log10()


def _log_earnings_interaction(data: Data) -> tuple[Tensor, Tensor]:
    earn, height, male = fields(data, "earn", "height", "male")
    return _with_ones(height, male, height * male), earn.log()


def _log_earnings_log_height(data: Data) -> tuple[Tensor, Tensor]:
    earn, height, male = fields(data, "earn", "height", "male")
    return _with_ones(height.log(), male), earn.log()


def _kidscore_interaction(data: Data) -> tuple[Tensor, Tensor]:
    score, school, iq = fields(data, "kid_score", "mom_hs", "mom_iq")
    return _with_ones(school, iq, school * iq), score


def _kidscore_iq(data: Data) -> tuple[Tensor, Tensor]:
    score, iq = fields(data, "kid_score", "mom_iq")
    return _with_ones(iq), score


def _kidscore_centred(data: Data) -> tuple[Tensor, Tensor]:
    score, school, iq = fields(data, "kid_score", "mom_hs", "mom_iq")
    school, iq = school - school.mean(), iq - iq.mean()
    return _with_ones(school, iq, school * iq), score


def _mesquite(data: Data) -> tuple[Tensor, Tensor]:
    weight, *columns = fields(data, "weight", "diam1", "diam2", "canopy_height", "total_height", "density", "group")
    return _with_ones(*columns), weight


def _log_mesquite(data: Data) -> tuple[Tensor, Tensor]:
    weight, diam1, diam2, canopy, total, density, group = fields(
        data, "weight", "diam1", "diam2", "canopy_height", "total_height", "density", "group"
    )
    area = diam1 * diam2
    columns = ((area * canopy).log(), area.log(), (diam1 / diam2).log(), total.log(), density.log(), group)
    return _with_ones(*columns), weight.log()


def _diamonds(data: Data) -> lvm.Problem:
    x = tensor(data["X"])[:, 1:]
    return lvm.Problem(diamonds, x - x.mean(0), tensor(data["Y"]))


def _trend(data: Data) -> lvm.Problem:
    priors = tensor([[data["pmualpha"], data["psalpha"]], [data["pmubeta"], data["psbeta"]]])
    return lvm.Problem(trend, *fields(data, "x", "y"), priors[0], priors[1])


def _proper(data: Data) -> lvm.Problem:
    return lvm.Problem(proper, *fields(data, "X", "y"))


def _maker(model: Callable[[Tensor, Tensor], None], design: Design) -> Maker:
    return lambda data: lvm.Problem(model, *design(data))


DESIGNS: dict[str, Design] = {
    "nes2000-nes": _nes,
    "nes1972-nes": _nes,
    "earnings-earn_height": _earnings_by_height,
    "earnings-log10earn_height": _log10_earnings,
    "earnings-logearn_interaction": _log_earnings_interaction,
    "earnings-logearn_logheight_male": _log_earnings_log_height,
    "kidiq_with_mom_work-kidscore_interaction_c": _kidscore_centred,
    "mesquite-mesquite": _mesquite,
    "mesquite-logmesquite_logvas": _log_mesquite,
}
"""Of the regressions whose coefficients and scale are flat."""

PROBLEMS: dict[str, Maker] = {
    "diamonds-diamonds": _diamonds,
    "kilpisjarvi_mod-kilpisjarvi": _trend,
    "sblrc-blr": _proper,
    "sblri-blr": _proper,
    **{name: _maker(flat, design) for name, design in DESIGNS.items()},
    "kidiq-kidscore_interaction": _maker(flat_cauchy, _kidscore_interaction),
    "kidiq-kidscore_momiq": _maker(flat_cauchy, _kidscore_iq),
}
