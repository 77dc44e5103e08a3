"""``lvm.evaluate`` as a whole: what is refused, what is left out, outliers, probes, pictures, pages, files."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import pyrolvm as lvm
from pyrolvm._check.evaluate import split
from pyrolvm._check.evaluate.outliers import Background, auroc, compressed_bits, scores
from pyrolvm._results import Fit

QUIET = {"progress": False}
EVIL = "x<script>alert(1)</script>"


@lvm.model(images={"x": (2, 3)})
def small(x):
    weights = pyro.param("weights", torch.linspace(-2, 2, 12).reshape(2, 6))
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        low = pyro.sample("low", dist.Normal(top, 0.5))
        pyro.sample("x", dist.Bernoulli(logits=torch.stack([top, low], -1) @ weights).to_event(1), obs=x)


def encoder(x):
    weights = pyro.param("encoder", torch.full((6, 2), 0.1))
    with pyro.plate("data", len(x)):
        loc = x @ weights
        top = pyro.sample("top", dist.Normal(loc[:, 0], 0.8))
        pyro.sample("low", dist.Normal(0.5 * top + loc[:, 1], 0.5))


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(120, 1, generator=generator)
    return torch.bernoulli((z * torch.linspace(-2, 2, 6)).sigmoid(), generator=generator)


@pytest.fixture(scope="module")
def fit(rows):
    return lvm.fit(lvm.Problem(small, rows[:60]), encoder, max_steps=40, tolerance=0, draws=20, engine="pyro", **QUIET)


@pytest.fixture(scope="module")
def found(fit, rows):
    noise = torch.bernoulli(torch.full((30, 6), 0.5), generator=torch.Generator().manual_seed(1))
    labels = np.where(rows[:, -1] > 0, "right", "left")
    words = {"labels": labels[60:], "train_labels": labels[:60], "outliers": {"noise": noise}}
    return lvm.evaluate(fit, rows[60:], draws=200, **words, **QUIET)


def test_the_table_has_every_layer_and_the_labels(found):
    assert found["KL of all latents"] == pytest.approx(found["KL of top"] + found["KL of low"])
    assert found["ELBO"] == pytest.approx(found["reconstruction"] - found["KL of all latents"])
    assert found["linear probe accuracy"] >= found["linear probe accuracy, top"] - 0.2 > 0.4
    assert list(found.units["site"]) == ["top", "low"]
    assert set(found.data.children) >= {"rows", "train_rows", "bounds", "latents", "units", "pictures", "outliers"}


def test_areas_are_those_of_scikit_learn(found):
    from sklearn.metrics import roc_auc_score

    held = found.data["outliers/held out"].to_dataset()
    for name in ("noise", "plain"):
        other = found.data[f"outliers/{name}"].to_dataset()
        for score in held.data_vars:
            values = np.concatenate([held[score], other[score]])
            truth = np.repeat([0, 1], [held.sizes["row"], other.sizes["row"]])
            assert found.auroc.loc[name, score] == pytest.approx(roc_auc_score(truth, values))
    random = np.random.default_rng(0)
    first, second = random.integers(0, 5, 40).astype(float), random.integers(2, 7, 30).astype(float)
    assert auroc(first, second) == pytest.approx(
        roc_auc_score(np.repeat([0, 1], [40, 30]), np.concatenate([first, second]))
    )


def test_a_density_alone_prefers_plain_rows_and_typicality_does_not():
    """Rows at the mode of a Gaussian are likelier than all rows that are drawn from it."""
    rows = np.random.default_rng(0).normal(size=(400, 50))
    density = lambda x: -0.5 * (x**2).sum(1)  # noqa: E731
    words = {"centre": float(density(rows[:200]).mean()), "background": None, "levels": None}
    normal, plain = (scores(density(x), x, **words) for x in (rows[200:], np.zeros((50, 50))))
    assert auroc(normal["log p(x)"], plain["log p(x)"]) == 0 and auroc(normal["typicality"], plain["typicality"]) == 1


def test_a_background_is_a_distribution_of_each_value_and_compression_orders_rows():
    rows = np.random.default_rng(0).integers(0, 4, (200, 3)).astype(float)
    background = Background.of(rows, 4)
    every = np.stack([np.repeat(value, 3) for value in range(4)]).astype(float)
    np.testing.assert_allclose(np.exp(background.log_mass).sum(axis=1), 1)
    share = 0.9 * np.stack([(rows == value).mean(0) for value in range(4)]) + 0.1 / 4
    np.testing.assert_allclose(background.log_p(every), np.log(share).sum(axis=1))
    plain, noisy = np.zeros((1, 400)), np.random.default_rng(0).integers(0, 2, (1, 400))
    assert compressed_bits(plain, 2)[0] < 0.5 * compressed_bits(noisy, 2)[0] < 8 * 120


@pytest.mark.filterwarnings("ignore:distutils")
def test_page_pictures_and_files(found, tmp_path):
    files = found.pictures(tmp_path / "pictures")
    names = {file.stem for file in files}
    assert {"figures", "data-and-reconstructions", "samples", "interpolations", "traversals-of-top"} <= names
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files)
    page = found.to_html(tmp_path / "page.html").read_text()
    assert (
        page.count("<figure>") == len(files) and "default-src 'none'" in page and "http" not in page.split("<body>")[1]
    )
    found.save(tmp_path / "saved")
    again = lvm.load(tmp_path / "saved")
    assert str(again) == str(found) and again.rows.equals(found.rows) and again.verdict == found.verdict
    with pytest.raises(lvm.StoreError, match="already"):
        found.save(tmp_path / "saved")
    assert len(again.plot().axes) == 4 and "log p(x)" in found._repr_html_()


def test_names_are_escaped(fit, rows, tmp_path):
    @lvm.model(images={EVIL: (2, 3)})
    def named(x):
        with pyro.plate("data", len(x)):
            pyro.sample(EVIL, dist.Bernoulli(torch.full((6,), 0.5)).to_event(1), obs=x)

    by_hand = Fit(EVIL, xr.DataTree(), lvm.Problem(named, rows), {}, {}, "pyro", "", 0)
    found = lvm.evaluate(by_hand, rows[:5], outliers={EVIL: rows[5:20]}, **QUIET)
    assert "<script" not in found.to_html(tmp_path / "page.html").read_text()
    assert all(file.parent == tmp_path / "p" for file in found.pictures(tmp_path / "p"))


def test_what_does_not_apply_is_left_out_with_the_reason(fit, rows):
    found = lvm.evaluate(fit, draws=20, rows=10, **QUIET)
    assert (
        "pass data=" in found.left_out["gap to training rows"]
        and found.left_out["outliers"]
        and found.verdict.status != "trusted"
    )
    assert "labels" in found.left_out["linear probe accuracy"]
    assert len(found.rows) == 10


@pytest.mark.parametrize(
    ("data", "words", "error", "match"),
    [
        (torch.full((4, 6), torch.nan), {}, lvm.DataError, "finite|nan"),
        (torch.ones(4, 5), {}, lvm.DataError, r"Fix"),
        (torch.full((4, 6), 0.3), {}, lvm.DataError, "Fix"),
        ({"y": torch.ones(4, 6)}, {}, lvm.ArgumentError, "no argument of small"),
        ((torch.ones(4, 6), torch.ones(4)), {}, lvm.ArgumentError, "2 arrays"),
        ("test.npz", {}, lvm.ArgumentError, "arrays or a Problem"),
        (None, {"draws": 1}, lvm.ArgumentError, "draws"),
        (None, {"rows": [99]}, lvm.ArgumentError, "0 to 59"),
        (None, {"shape": (3, 3)}, lvm.ArgumentError, "9 pixels"),
        (None, {"shape": 6}, lvm.ArgumentError, r"\(height, width\)"),
        (None, {"labels": np.zeros(60)}, lvm.DataError, "one class"),
        (None, {"labels": np.zeros(3)}, lvm.DataError, r"expected \(60,\)"),
        (None, {"labels": np.full(60, np.nan)}, lvm.DataError, "row 0"),
        (None, {"outliers": [1]}, lvm.ArgumentError, "by name"),
        (None, {"plate": "rows"}, lvm.ArgumentError, "does not hold"),
        (None, {"levels": 1}, lvm.ArgumentError, "levels"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_the_work(fit, data, words, error, match):
    with pytest.raises(error, match=match) as caught:
        lvm.evaluate(fit, data, **words, **QUIET)
    assert "Fix:" in str(caught.value)


def test_rows_that_a_guide_by_rows_does_not_know_are_scored_at_draws_of_the_posterior(rows):
    fit = lvm.fit(
        lvm.Problem(small, rows[:60]), "mean_field", max_steps=5, tolerance=0, draws=10, engine="pyro", **QUIET
    )
    found = lvm.evaluate(fit, rows[60:], **QUIET)
    assert len(found.rows) == 60 and "parameters for the fit's own rows" in found.left_out["ELBO"]
    generator = torch.Generator().manual_seed(1)
    top = torch.randn(50_000, 1, generator=generator)
    latents = torch.cat([top, top + 0.5 * torch.randn(50_000, 1, generator=generator)], 1)
    terms = dist.Bernoulli(logits=latents @ fit.params["weights"].detach()).log_prob(rows[60:64, None]).sum(-1)
    np.testing.assert_allclose(found.rows["log_p"][:4], terms.logsumexp(1) - np.log(50_000), atol=0.15)


def branching(y):
    middle = pyro.param("middle", torch.tensor(0.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(middle, 1.0))
        scale = 0.5 if z.sum() < 1e9 else 1.0  # no graph of it, and no draws at once
        pyro.sample("y", dist.Normal(z, scale), obs=y)


def test_a_guide_by_rows_runs_draw_by_draw_where_draws_do_not_run_at_once():
    y = torch.linspace(-1, 1, 12)
    fit = lvm.fit(lvm.Problem(branching, y), "mean_field", max_steps=400, draws=20, engine="pyro", **QUIET)
    wanted = dist.Normal(fit.params["middle"].detach(), 1.25**0.5).log_prob(y)
    words = {"draws": 60, "pictures": False, **QUIET}
    found = lvm.evaluate(fit, **words)
    assert found.engine == "pyro"
    np.testing.assert_allclose(found.rows["log_p"], wanted, atol=0.3)
    for chosen in (list(range(11, -1, -1)), [3] * 12 + [7]):  # in another order, as many as there are, and more
        other = lvm.evaluate(fit, rows=chosen, **words)
        np.testing.assert_allclose(other.rows["log_p"], wanted[chosen], atol=0.3)


def test_what_is_no_result_and_what_observes_nothing_by_row_are_refused():
    def at_once(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.factor("likelihood", dist.Normal(a, 1.0).log_prob(y).sum())

    with pytest.raises(lvm.ArgumentError, match=r"takes a result of fit, nuts, .* got int"):
        lvm.evaluate(3, **QUIET)
    fit = lvm.fit(lvm.Problem(at_once, torch.ones(5)), "mean_field", max_steps=5, draws=10, engine="pyro", **QUIET)
    with pytest.raises(lvm.ProblemError, match="factor, 'likelihood'"):
        lvm.evaluate(fit, torch.ones(3), **QUIET)


def test_a_problem_is_split_into_rows_that_were_there(rows):
    problem = lvm.Problem(small, rows)
    first, second = split(problem, 0.25, seed=1)
    assert (len(first.args[0]), len(second.args[0])) == (90, 30) and first.info.images == problem.info.images
    both = torch.cat([first.args[0], second.args[0]])
    assert torch.equal(both.sum(0), rows.sum(0))
    with pytest.raises(lvm.ArgumentError, match="leaves a part empty"):
        split(problem, 1e-6)


def test_new_rows_have_the_moments_of_the_model(fit):
    drawn = lvm.generate(fit, 3_000, seed=2)
    top, low = (drawn["prior"][name].to_numpy() for name in ("top", "low"))
    assert abs(top.mean()) < 0.08 and abs(np.corrcoef(top, low)[0, 1] - 1 / np.sqrt(1.25)) < 0.02
    gap = drawn["prior_predictive"]["x"] - drawn["likelihood_mean"]["x"]
    assert abs(gap.mean("sample")).max() < 0.04 and drawn["prior_predictive"]["x"].shape == (3_000, 6)
    assert lvm.generate(fit, 5, seed=2).identical(lvm.generate(fit, 5, seed=2))


@pytest.mark.parametrize("image", [(0, 3), (2, 3, 2), "28x28", (2,), (2, 4)])
def test_an_image_must_be_one(image, rows):
    with pytest.raises((lvm.ArgumentError, lvm.ProblemError), match="Fix:"):
        lvm.Problem(lvm.model(images={"x": image})(lambda x: small(x)), rows)
    with pytest.raises(lvm.ProblemError, match="no observed site"):
        lvm.Problem(lvm.model(images={"top": (1, 1)})(lambda x: small(x)), rows)


@pytest.mark.slow
def test_a_refined_guide_does_not_depend_on_how_many_rows_there_are() -> None:
    y = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))

    def codes(y: torch.Tensor) -> None:
        weights = pyro.param("weights", torch.linspace(0.5, 2.0, 8).reshape(2, 4))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("y", dist.Normal(z @ weights, 0.5).to_event(1), obs=y)

    problem = lvm.Problem(codes, y)
    fit = lvm.fit(
        problem,
        lvm.guide("semi_amortized", hidden=(8,)),
        max_steps=30,
        tolerance=0,
        draws=20,
        engine="pyro",
        progress=False,
    )
    words = {"draws": 200, "pictures": False, "progress": False}
    few = lvm.evaluate(fit, y[:10], **words)
    same = lvm.evaluate(fit, rows=list(range(10)), **words)
    assert few["ELBO"] == pytest.approx(same["ELBO"], abs=0.1)
    assert few["KL of z"] == pytest.approx(same["KL of z"], abs=0.1)
