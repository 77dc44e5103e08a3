"""What results say of posteriors that are copies of one mode, and that their figures count all copies."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pyrolvm as lvm
from pyrolvm._results.copies import copies, is_complete

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def square(models):
    return lvm.Problem(models.square, models.DATA)


@pytest.fixture(scope="module")
def evidence(models):
    """The evidence of ``square`` by quadrature."""
    root = np.linspace(-12, 12, 200_001)
    y = models.DATA.numpy() + 4
    log_p = -0.5 * (root / 3) ** 2 - math.log(3) - 0.5 * math.log(2 * math.pi) * (1 + len(y))
    log_p = log_p - 0.5 * ((y[:, None] - root**2) ** 2).sum(axis=0)
    top = log_p.max()
    return top + math.log(np.trapezoid(np.exp(log_p - top), root))


@pytest.fixture(scope="module")
def one_sided(square):
    return lvm.fit(square, "full_rank", draws=2_000, **QUIET)


@pytest.fixture(scope="module")
def chains(square):
    return lvm.nuts(square, warmup=300, draws=300, init={"root": 2.0}, **QUIET)


def test_a_fit_of_one_copy_says_so_and_how_much_evidence_the_others_have(one_sided):
    text = str(one_sided.verdict)
    assert (
        "The sign of `root` is free, so that the posterior is 2 copies of one mode, 1 of which the draws cover" in text
    )
    assert one_sided.verdict.figures["nats of other copies"] == pytest.approx(math.log(2))
    assert abs(float(one_sided.data["posterior"]["root"].mean())) > 1  # the draws are the guide's own


@pytest.mark.parametrize("guide", ["student", "full_rank", "mean_field"])
def test_inferred_draws_cover_both_copies_and_the_evidence_is_of_both(square, evidence, guide):
    result = lvm.infer(square, methods=[guide], draws=2_000, **QUIET)
    root = result.data["posterior"]["root"].to_numpy().reshape(-1)
    assert (root > 0).mean() == pytest.approx(0.5, abs=0.001)
    assert result.evidence.value == pytest.approx(evidence, abs=max(5 * result.evidence.error, 1e-3))
    assert "all of which the draws cover equally" in str(result.verdict)


def test_chains_are_judged_in_one_copy_and_stay_as_they_are(chains):
    assert chains.verdict.figures["copies covered"] == 1
    root = chains.data["posterior"]["root"]
    mirrored = chains.data.copy()
    mirrored["posterior"] = mirrored["posterior"].to_dataset().assign(root=root * np.array([1, -1, 1, -1])[:, None])
    mirrored.attrs = dict(chains.data.attrs)
    table, other = lvm.diagnose(chains).table, lvm.diagnose(mirrored)
    assert other.table.loc["root", "rhat"] == pytest.approx(table.loc["root", "rhat"])
    assert other.verdict.status == lvm.diagnose(chains).verdict.status
    assert other.verdict.figures["copies covered"] == 2


def test_without_a_record_chains_in_two_copies_disagree(chains):
    mirrored = chains.data.copy()
    root = chains.data["posterior"]["root"]
    mirrored["posterior"] = mirrored["posterior"].to_dataset().assign(root=root * np.array([1, -1, 1, -1])[:, None])
    mirrored.attrs = {}
    assert lvm.diagnose(mirrored).verdict.status == "failed"


def test_posteriors_in_different_copies_agree(one_sided, chains):
    mirrored = chains.data.copy()
    mirrored["posterior"] = mirrored["posterior"].to_dataset().assign(root=-chains.data["posterior"]["root"])
    mirrored.attrs = dict(chains.data.attrs)
    for reference in (chains.data, mirrored):
        found = lvm.compare({"fit": one_sided, "nuts": reference}, reference="nuts")
        assert not (found.table["status"] == "differs").any()
        assert any("draws of both are brought to one copy" in note for note in found.notes)


def test_a_loaded_result_is_judged_alike(one_sided, square, tmp_path):
    one_sided.save(tmp_path / "fit")
    assert str(lvm.load(tmp_path / "fit").verdict) == str(one_sided.verdict)
    result = lvm.infer(square, methods=["full_rank"], draws=500, out=tmp_path / "infer", **QUIET)
    loaded = lvm.load(tmp_path / "infer")
    assert is_complete(loaded.data) and copies(loaded.data) == 2
    assert str(loaded.verdict) == str(result.verdict)


def test_chains_that_infer_returns_cover_all_copies(square):
    result = lvm.infer(square, methods=["nuts"], draws=800, **QUIET)
    root = result.data["posterior"]["root"].to_numpy().reshape(-1)
    assert (root > 0).mean() == pytest.approx(0.5, abs=0.002)
    assert "all of which the draws cover equally" in str(result.verdict)


def test_two_groups_are_completed_apart_and_seeds_agree(models):
    problem = lvm.Problem(models.groups, models.DATA)
    results = [lvm.infer(problem, methods=["student"], draws=2_000, seed=seed, **QUIET) for seed in (0, 1)]
    for result in results:
        draws = result.data["posterior"]
        signs = (np.sign(draws["one"]) + 3 * np.sign(draws["other"])).to_numpy().reshape(-1)
        shares = np.unique(signs, return_counts=True)[1] / len(signs)
        assert shares == pytest.approx([0.25] * 4, abs=0.03)
    assert results[0].evidence.value == pytest.approx(results[1].evidence.value, abs=0.02)


def test_components_of_a_mixture_have_the_same_marginals_whatever_the_seed(models):
    problem = lvm.Problem(models.pair, models.DATA)
    for seed in (0, 1):
        draws = lvm.infer(problem, methods=["student"], draws=4_000, seed=seed, **QUIET).data["posterior"]
        mean, sd = draws["middle"].mean(("chain", "draw")), draws["middle"].std(("chain", "draw"))
        assert abs(float(mean[0] - mean[1])) < 0.1 * float(sd[0])
        assert float(sd[0] / sd[1]) == pytest.approx(1.0, abs=0.05)


def test_a_posterior_without_copies_says_nothing_of_them(models):
    result = lvm.infer(lvm.Problem(models.schools, models.DATA[:4]), methods=["student"], draws=500, **QUIET)
    assert copies(result.data) == 1
    assert "cop" not in str(result.verdict)


def test_identified_quantities_are_judged_as_the_model_names_them(models):
    named = lvm.model(quantities={"size": lambda draw: draw["root"].abs()})(lambda y: models.square(y))
    fit = lvm.fit(lvm.Problem(named, models.DATA), "full_rank", draws=500, **QUIET)
    assert list(lvm.diagnose(fit).table.index) == ["size"]
    assert "the model's quantities are judged" in str(fit.verdict)
