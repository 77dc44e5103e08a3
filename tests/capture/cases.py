"""Every distribution of Pyro with arguments to test it at; what cannot be tested stands here with the reason."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

Build = Callable[..., Any]


class Limit(Enum):
    """Why a part of a distribution is not on the engines: in words, and by what is raised."""

    ABSENT = "Pyro has none", "NotImplementedError"
    READS = "Pyro reads values to choose its way", "CaptureError.*it reads the value of a tensor"
    LOOPS = "drawn by a loop that reads values", "CaptureError.*it reads the value of a tensor"
    NONLINEAR = "its gradient estimator is no gradient", "CaptureError.*not linear in the gradient it is given"

    @property
    def words(self) -> str:
        return self.value[0]

    @property
    def pattern(self) -> str:
        return self.value[1]


@dataclass(frozen=True)
class Case:
    """A distribution at given parameters.

    Attributes:
        build: from the parameters, as tensors, to the distribution.
        parameters: what is differentiated by; nested lists.
        value: where ``log_prob`` is taken; a stock draw if ``None``.
        fixed: whether the value is discrete, or must not be differentiated by.
        limits: the parts (``"log_prob"``, ``"draws"``) that the engines do not have.
        note: what else a user should know.
        shape: how many draws at once.
    """

    build: Build
    parameters: Sequence[Any] = ()
    value: Any = None
    fixed: bool = False
    limits: Mapping[str, Limit] = field(default_factory=dict)
    note: str = ""
    shape: tuple[int, ...] = (2,)


def tensor(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.get_default_dtype())


TRIL = [[1.1, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 1.3]]
LOC = [0.3, -1.2, 0.7]
SCALE = [0.5, 1.5, 2.5]
LOGITS = [0.2, -0.4, 1.1]
MIXED = [[0.1, -0.7], [1.2, 0.4], [-0.9, 0.8]]


def _hmm(kind: Any) -> Build:
    def build(loc: Tensor, tril: Tensor, matrix: Tensor, *scale: Tensor) -> Any:
        state = dist.MultivariateNormal(loc, scale_tril=tril.tril())
        noise = dist.MultivariateNormal(torch.zeros(3), scale_tril=torch.eye(3) + tril.tril())
        if kind is dist.LinearHMM:
            return kind(state, matrix, noise, torch.eye(3), dist.Laplace(loc, 1.0).to_event(1), duration=3)
        first = (dist.Gamma(*scale),) if scale else ()
        return kind(*first, state, matrix, noise, torch.eye(3), noise, duration=3)

    return build


def _independent_hmm(loc: Tensor, scale: Tensor, matrix: Tensor) -> Any:
    state = dist.MultivariateNormal(loc[:, None], scale_tril=scale[:, None, None])
    noise = dist.MultivariateNormal(torch.zeros(3, 1, 1), scale_tril=torch.ones(3, 1, 1, 1))
    return dist.IndependentHMM(dist.GaussianHMM(state, matrix, noise, torch.ones(3, 1, 1, 1), noise, duration=3))


def _mrf(loc: Tensor, tril: Tensor) -> Any:
    full = torch.block_diag(tril.tril(), tril.tril())
    pair = dist.MultivariateNormal(torch.cat([loc, loc]), scale_tril=full + 0.1 * torch.tril(torch.ones(6, 6)))
    return dist.GaussianMRF(dist.MultivariateNormal(loc, scale_tril=tril.tril()), pair.expand((3,)), pair.expand((3,)))


def _rejector(rate: Tensor) -> Any:
    return dist.Rejector(dist.Exponential(rate), lambda x: -0.5 * x, torch.tensor(-0.4))


SERIES = [[0.1, 0.3, -0.2], [0.5, -0.4, 0.9], [1.1, 0.2, 0.3]]
CORRELATION = [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.36, 0.48, 0.8]]
NO_DENSITY = {"log_prob": Limit.ABSENT}
NO_DRAWS = {"draws": Limit.ABSENT}

CASES: dict[type, Case] = {
    dist.AVFMultivariateNormal: Case(
        lambda m, s, c: dist.AVFMultivariateNormal(m, s.tril(), c),
        (LOC, TRIL, [[[0.1, 0.2, 0.3]], [[0.3, -0.2, 0.1]]]),
        limits={"draws": Limit.NONLINEAR},
    ),
    dist.AffineBeta: Case(dist.AffineBeta, ([2.0, 3.5, 0.8], [1.5, 2.5, 4.0], LOC, SCALE)),
    dist.AsymmetricLaplace: Case(dist.AsymmetricLaplace, (LOC, SCALE, [0.7, 1.2, 2.0])),
    dist.Bernoulli: Case(lambda x: dist.Bernoulli(logits=x), (LOGITS,)),
    dist.Beta: Case(dist.Beta, ([2.0, 0.5, 8.0], [1.5, 2.5, 9.0])),
    dist.BetaBinomial: Case(lambda a, b: dist.BetaBinomial(a, b, 10), ([2.0, 3.5], [1.5, 2.5])),
    dist.Binomial: Case(lambda x: dist.Binomial(10, logits=x), (LOGITS,)),
    dist.Categorical: Case(lambda x: dist.Categorical(logits=x), (LOGITS,)),
    dist.Cauchy: Case(dist.Cauchy, (LOC, SCALE)),
    dist.Chi2: Case(dist.Chi2, ([1.5, 4.0, 9.0],)),
    dist.CoalescentTimes: Case(
        lambda r: dist.CoalescentTimes(torch.tensor([0.0, 0.3, 0.7, 1.0]), r),
        (0.8,),
        [-1.5, -0.4, 0.1],
        limits={"draws": Limit.LOOPS},
    ),
    dist.CoalescentTimesWithRate: Case(
        lambda r: dist.CoalescentTimesWithRate(torch.tensor([0.0, 0.3, 0.7, 1.0]), r),
        ([0.8, 1.1, 0.9],),
        [-1.5, -0.4, 0.1],
        limits=NO_DRAWS,
    ),
    dist.ContinuousBernoulli: Case(lambda x: dist.ContinuousBernoulli(logits=x), (LOGITS,)),
    dist.Delta: Case(lambda v, d: dist.Delta(v, d), (LOC, SCALE), LOC),
    dist.Dirichlet: Case(dist.Dirichlet, ([0.5, 2.0, 7.0],)),
    dist.DirichletMultinomial: Case(lambda c: dist.DirichletMultinomial(c, 10), ([0.5, 2.0, 7.0],)),
    dist.DiscreteHMM: Case(
        lambda a, b, m: dist.DiscreteHMM(a, b, dist.Normal(m, 1.0), duration=3),
        (LOGITS, [[0.1, 0.2, -0.3], [1.0, 0.4, 0.2], [0.0, 0.3, 0.9]], LOC),
        [0.3, -0.5, 1.2],
    ),
    dist.Empirical: Case(lambda v, w: dist.Empirical(v, w), (LOC, LOGITS), 0.7),
    dist.ExpandedDistribution: Case(
        lambda m, s: dist.ExpandedDistribution(dist.Normal(m, s), torch.Size([2, 3])), (LOC, SCALE)
    ),
    dist.Exponential: Case(dist.Exponential, (SCALE,)),
    dist.ExtendedBetaBinomial: Case(lambda a, b: dist.ExtendedBetaBinomial(a, b, 10), ([2.0, 3.5], [1.5, 2.5])),
    dist.ExtendedBinomial: Case(lambda x: dist.ExtendedBinomial(10, logits=x), (LOGITS,)),
    dist.FisherSnedecor: Case(dist.FisherSnedecor, ([2.0, 5.0, 9.0], [3.0, 6.0, 8.0])),
    dist.FoldedDistribution: Case(lambda m, s: dist.FoldedDistribution(dist.Normal(m, s)), (LOC, SCALE)),
    dist.Gamma: Case(dist.Gamma, ([0.4, 2.0, 12.0], SCALE)),
    dist.GammaGaussianHMM: Case(_hmm(dist.GammaGaussianHMM), (LOC, TRIL, TRIL, 3.0, 2.0), SERIES, limits=NO_DRAWS),
    dist.GammaPoisson: Case(dist.GammaPoisson, ([0.4, 2.0, 12.0], SCALE)),
    dist.GaussianHMM: Case(_hmm(dist.GaussianHMM), (LOC, TRIL, TRIL)),
    dist.GaussianMRF: Case(_mrf, (LOC, TRIL), SERIES, limits=NO_DRAWS),
    dist.GaussianScaleMixture: Case(dist.GaussianScaleMixture, (SCALE, [0.1, 0.6], [0.7, 1.6]), limits=NO_DENSITY),
    dist.GeneralizedPareto: Case(dist.GeneralizedPareto, (LOC, SCALE, [0.3, 0.2, 0.6])),
    dist.Geometric: Case(lambda x: dist.Geometric(logits=x), (LOGITS,)),
    dist.GroupedNormalNormal: Case(
        lambda m, s, o: dist.GroupedNormalNormal(m, s, o, torch.tensor([0, 0, 1, 2, 1])),
        (LOC, SCALE, [1.0, 0.5, 0.7, 0.3, 0.9]),
        [0.3, 0.1, -0.4, 1.2, 0.6],
        limits=NO_DRAWS,
    ),
    dist.Gumbel: Case(dist.Gumbel, (LOC, SCALE)),
    dist.HalfCauchy: Case(dist.HalfCauchy, (SCALE,)),
    dist.HalfNormal: Case(dist.HalfNormal, (SCALE,)),
    dist.ImproperUniform: Case(
        lambda x: dist.ImproperUniform(constraints.real, (3,), ()), (LOC,), LOC, limits=NO_DRAWS
    ),
    dist.Independent: Case(lambda m, s: dist.Independent(dist.Normal(m, s), 1), (LOC, SCALE)),
    dist.IndependentHMM: Case(_independent_hmm, (LOC, SCALE, [[[[0.4]]], [[[0.9]]], [[[-0.3]]]])),
    dist.InverseGamma: Case(dist.InverseGamma, ([1.4, 2.0, 12.0], SCALE)),
    dist.Kumaraswamy: Case(dist.Kumaraswamy, ([2.0, 0.5, 4.0], [1.5, 2.5, 3.0])),
    dist.LKJ: Case(lambda c: dist.LKJ(3, c), (1.7,), [[1.0, 0.6, 0.36], [0.6, 1.0, 0.6], [0.36, 0.6, 1.0]]),
    dist.LKJCholesky: Case(lambda c: dist.LKJCholesky(3, c), (1.7,), CORRELATION),
    dist.LKJCorrCholesky: Case(lambda c: dist.LKJCorrCholesky(3, c), (1.7,), CORRELATION),
    dist.Laplace: Case(dist.Laplace, (LOC, SCALE)),
    dist.LinearHMM: Case(_hmm(dist.LinearHMM), (LOC, TRIL, TRIL), SERIES, limits=NO_DENSITY),
    dist.LogNormal: Case(dist.LogNormal, (LOC, SCALE)),
    dist.LogNormalNegativeBinomial: Case(
        lambda n, x, s: dist.LogNormalNegativeBinomial(n, x, s),
        ([2.0, 5.0, 9.0], LOGITS, SCALE),
        [1.0, 0.0, 7.0],
        True,
        limits=NO_DRAWS,
    ),
    dist.Logistic: Case(dist.Logistic, (LOC, SCALE)),
    dist.LogisticNormal: Case(dist.LogisticNormal, (LOC, SCALE)),
    dist.LowRankMultivariateNormal: Case(dist.LowRankMultivariateNormal, (LOC, MIXED, SCALE)),
    dist.MaskedDistribution: Case(lambda m, s: dist.Normal(m, s).mask(torch.tensor([True, False, True])), (LOC, SCALE)),
    dist.MaskedMixture: Case(
        lambda m, s: dist.MaskedMixture(torch.tensor([True, False, True]), dist.Normal(m, s), dist.Laplace(m, s)),
        (LOC, SCALE),
    ),
    dist.MixtureOfDiagNormals: Case(dist.MixtureOfDiagNormals, (MIXED, [[0.5, 0.7], [1.2, 0.4], [0.9, 0.8]], LOGITS)),
    dist.MixtureOfDiagNormalsSharedCovariance: Case(
        dist.MixtureOfDiagNormalsSharedCovariance, (MIXED, [0.5, 0.7], LOGITS)
    ),
    dist.MixtureSameFamily: Case(
        lambda w, m, s: dist.MixtureSameFamily(dist.Categorical(logits=w), dist.Normal(m, s)), (LOGITS, LOC, SCALE)
    ),
    dist.Multinomial: Case(lambda x: dist.Multinomial(10, logits=x), (LOGITS,)),
    dist.MultivariateNormal: Case(lambda m, c: dist.MultivariateNormal(m, c @ c.T), (LOC, TRIL)),
    dist.MultivariateStudentT: Case(lambda n, m, s: dist.MultivariateStudentT(n, m, s.tril()), (4.5, LOC, TRIL)),
    dist.NanMaskedMultivariateNormal: Case(
        lambda m, c: dist.NanMaskedMultivariateNormal(m, c @ c.T), (LOC, TRIL), [0.1, float("nan"), 0.4], True
    ),
    dist.NanMaskedNormal: Case(dist.NanMaskedNormal, (LOC, SCALE), [0.1, float("nan"), 0.4], True),
    dist.NegativeBinomial: Case(lambda n, x: dist.NegativeBinomial(n, logits=x), ([2.0, 5.0, 9.0], LOGITS)),
    dist.Normal: Case(dist.Normal, (LOC, SCALE)),
    dist.OMTMultivariateNormal: Case(lambda m, s: dist.OMTMultivariateNormal(m, s.tril()), (LOC, TRIL)),
    dist.OneHotCategorical: Case(lambda x: dist.OneHotCategorical(logits=x), (LOGITS,)),
    dist.OneHotCategoricalStraightThrough: Case(lambda x: dist.OneHotCategoricalStraightThrough(logits=x), (LOGITS,)),
    dist.OneOneMatching: Case(lambda x: dist.OneOneMatching(x), ([LOGITS, LOC, SCALE],), [1, 0, 2], True),
    dist.OneTwoMatching: Case(
        lambda x: dist.OneTwoMatching(x), ([LOGITS[:2], LOC[:2], SCALE[:2], [0.3, 0.1]],), [0, 1, 0, 1], True
    ),
    dist.OrderedLogistic: Case(dist.OrderedLogistic, (LOC, [-0.5, 0.4, 1.6])),
    dist.Pareto: Case(dist.Pareto, (SCALE, [1.2, 2.3, 3.1])),
    dist.Poisson: Case(dist.Poisson, (SCALE,)),
    dist.ProjectedNormal: Case(dist.ProjectedNormal, (LOC,)),
    dist.Rejector: Case(_rejector, (SCALE,), [0.3, 0.7, 1.1], limits={"log_prob": Limit.ABSENT, "draws": Limit.LOOPS}),
    dist.RelaxedBernoulli: Case(lambda t, x: dist.RelaxedBernoulli(t, logits=x), (0.7, LOGITS)),
    dist.RelaxedBernoulliStraightThrough: Case(
        lambda t, x: dist.RelaxedBernoulliStraightThrough(t, logits=x), (0.7, LOGITS), [0.2, 0.6, 0.9]
    ),
    dist.RelaxedOneHotCategorical: Case(lambda t, x: dist.RelaxedOneHotCategorical(t, logits=x), (0.7, LOGITS)),
    dist.RelaxedOneHotCategoricalStraightThrough: Case(
        lambda t, x: dist.RelaxedOneHotCategoricalStraightThrough(t, logits=x), (0.7, LOGITS), [0.2, 0.3, 0.5]
    ),
    dist.SineBivariateVonMises: Case(
        lambda a, b: dist.SineBivariateVonMises(a, b, torch.tensor(2.0), torch.tensor(3.0), torch.tensor(0.5)),
        (0.3, -0.4),
        [0.1, -0.9],
        limits={"draws": Limit.LOOPS},
        note="concentrations and correlation must be data: Pyro reads them",
    ),
    dist.SineSkewed: Case(
        lambda m, k: dist.SineSkewed(dist.VonMises(m, k).to_event(1), torch.tensor([0.2, -0.3])),
        ([0.3, -0.4], [2.0, 3.0]),
        [0.1, -0.9],
        limits={"draws": Limit.LOOPS},
        note="skewness must be data: Pyro reads it",
    ),
    dist.SkewLogistic: Case(dist.SkewLogistic, (LOC, SCALE, [0.7, 1.2, 2.0])),
    dist.SoftAsymmetricLaplace: Case(dist.SoftAsymmetricLaplace, (LOC, SCALE, [0.7, 1.2, 2.0], [0.5, 1.0, 1.5])),
    dist.SoftLaplace: Case(dist.SoftLaplace, (LOC, SCALE)),
    dist.SpanningTree: Case(
        lambda x: dist.SpanningTree(x), (LOGITS,), [[0, 1], [1, 2]], True, limits={"draws": Limit.LOOPS}, shape=()
    ),
    dist.Stable: Case(
        lambda s, m: dist.Stable(torch.tensor(1.7), torch.tensor(0.3), s, m),
        (1.2, 0.4),
        0.9,
        limits={"log_prob": Limit.READS},
        note="stability must be data: Pyro reads it",
    ),
    dist.StableWithLogProb: Case(
        lambda s, m: dist.StableWithLogProb(torch.tensor(1.7), torch.tensor(0.3), s, m),
        (1.2, 0.4),
        0.9,
        limits={"log_prob": Limit.READS},
        note="stability must be data: Pyro reads it",
    ),
    dist.StudentT: Case(dist.StudentT, ([2.5, 5.0, 30.0], LOC, SCALE)),
    dist.TransformedDistribution: Case(
        lambda m, s: dist.TransformedDistribution(
            dist.Normal(m, s), [dist.transforms.AffineTransform(m, s), dist.transforms.SigmoidTransform()]
        ),
        (LOC, [0.5, 0.7, 0.9]),
    ),
    dist.TruncatedPolyaGamma: Case(lambda x: dist.TruncatedPolyaGamma(x), (LOC,), [0.2, 0.7, 1.3]),
    dist.Uniform: Case(lambda a, w: dist.Uniform(a, a + w), (LOC, SCALE)),
    dist.Unit: Case(lambda x: dist.Unit(x), (LOC,)),
    dist.VonMises: Case(dist.VonMises, (LOC, SCALE), limits={"draws": Limit.LOOPS}),
    dist.VonMises3D: Case(dist.VonMises3D, ([0.3, 1.2, -0.7],), [0.6, 0.0, 0.8], True, limits=NO_DRAWS),
    dist.Weibull: Case(dist.Weibull, (SCALE, [0.7, 1.2, 2.0])),
    dist.Wishart: Case(
        lambda s: dist.Wishart(torch.tensor(5.5), scale_tril=s.tril()),
        (TRIL,),
        limits={"draws": Limit.READS},
        note="df must be data: torch reads it",
    ),
    dist.ZeroInflatedDistribution: Case(
        lambda g, m: dist.ZeroInflatedDistribution(dist.Poisson(m), gate_logits=g),
        (LOGITS, SCALE),
        [0.0, 1.0, 3.0],
        True,
    ),
    dist.ZeroInflatedNegativeBinomial: Case(
        lambda g, n, x: dist.ZeroInflatedNegativeBinomial(n, logits=x, gate_logits=g),
        (LOGITS, SCALE, LOC),
        [0.0, 1.0, 3.0],
        True,
    ),
    dist.ZeroInflatedPoisson: Case(
        lambda g, m: dist.ZeroInflatedPoisson(m, gate_logits=g), (LOGITS, SCALE), [0.0, 1.0, 3.0], True
    ),
}

ABSTRACT: dict[type, str] = {
    dist.Distribution: "an interface without a density",
    dist.TorchDistribution: "a base class without a density",
    dist.ExponentialFamily: "a base class without a density",
}


def distributions() -> dict[str, type]:
    """Every distribution class that ``pyro.distributions`` exports, by name."""
    bases = (dist.Distribution, torch.distributions.Distribution)
    found = {name: getattr(dist, name) for name in dir(dist)}
    return {name: kind for name, kind in found.items() if inspect.isclass(kind) and issubclass(kind, bases)}
