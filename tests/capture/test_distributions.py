"""Every distribution of Pyro: density, draws and gradients agree between stock Pyro, its captured graph and JAX."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.capture.cases import ABSTRACT, CASES, distributions
from tests.capture.outcomes import outcome
from tests.capture.table import named, page, row

RARE = {
    "AVFMultivariateNormal", "AffineBeta", "Chi2", "CoalescentTimes", "CoalescentTimesWithRate", "ExtendedBetaBinomial",
    "ExtendedBinomial", "FisherSnedecor", "GammaGaussianHMM", "GammaPoisson", "GaussianHMM", "GaussianMRF",
    "GaussianScaleMixture", "GeneralizedPareto", "GroupedNormalNormal", "IndependentHMM", "LKJ", "LKJCorrCholesky", "LinearHMM",
    "LogNormalNegativeBinomial", "MixtureOfDiagNormals", "MixtureOfDiagNormalsSharedCovariance", "MultivariateStudentT",
    "NanMaskedMultivariateNormal", "OMTMultivariateNormal", "OneOneMatching", "OneTwoMatching", "SpanningTree",
    "TruncatedPolyaGamma", "ZeroInflatedNegativeBinomial",
}  # fmt: skip
"""Seldom used, and made of operations that the others have too: among the slow tests."""
PAGE = Path(__file__).parents[2] / "docs" / "engines-coverage.md"
RENEW = "docs/engines-coverage.md is out of date. Fix: python -m tests.capture.table > docs/engines-coverage.md"


def test_every_distribution_has_a_case() -> None:
    absent = [name for name, kind in distributions().items() if kind not in CASES and kind not in ABSTRACT]
    assert not absent, f"no case for {', '.join(absent)}"


def test_no_case_is_left_over() -> None:
    assert set(CASES) | set(ABSTRACT) == set(distributions().values())


def test_what_is_rare_exists() -> None:
    assert set(distributions()) >= RARE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in RARE or number % 5 else [])
        for number, (name, kind) in enumerate(distributions().items())
        if kind in CASES
    ],
)
def test_engines_agree_or_fail_as_the_case_says(name: str) -> None:
    kind = distributions()[name]
    for part in ("log_prob", "draws"):
        seen, limit = outcome(kind, part), CASES[kind].limits.get(part)
        if limit is None:
            assert not seen.error, f"{part}: {seen.error}"
        else:
            assert re.match(limit.pattern, seen.error, re.DOTALL), f"{part}: {seen.error or 'works: drop the limit'}"
    assert f"{row(name)}\n" in PAGE.read_text(), RENEW


def test_the_page_is_the_generated_one_apart_from_its_rows() -> None:
    first = PAGE.read_text().partition("\n## Edges\n")[0]
    assert first.replace("".join(rows := _rows()), "") == page([]), RENEW
    assert [line.split(" | ")[0] for line in rows] == [f"| {name}" for name in named()], RENEW


def _rows() -> list[str]:
    head = "|---|---|---|---|---|---|---|\n"
    text = PAGE.read_text().partition(head)[2].partition("\n\n")[0] + "\n"
    return text.splitlines(keepends=True)


@pytest.mark.parametrize("name", [name for name, kind in distributions().items() if kind in ABSTRACT])
def test_what_is_called_abstract_has_no_density(name: str) -> None:
    kind = distributions()[name]
    assert "log_prob" not in vars(kind) or getattr(kind.log_prob, "__isabstractmethod__", False)
