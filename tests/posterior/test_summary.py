"""What results show of themselves: tables, pictures, cards and one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

X = torch.linspace(-1, 1, 30)
Y = 1.0 + 2.0 * X


def line(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def counted(y: Tensor) -> None:
    z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])), infer={"enumerate": "parallel"})
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(4.0 * z, 1.0), obs=y)


@pytest.fixture(scope="module")
def exact() -> lvm.Exact:
    return lvm.exact(lvm.Problem(line, X, Y), draws=4000, progress=False)


def test_the_summary_of_an_exact_posterior_is_its_closed_form(exact: lvm.Exact) -> None:
    design = np.stack([np.ones(30), X.numpy().astype(float)], 1)
    precision = design.T @ design / 0.25 + np.eye(2) / 25
    mean = np.linalg.solve(precision, design.T @ Y.numpy().astype(float) / 0.25)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    table = exact.summary(interval=0.8)
    assert list(table.columns) == ["mean", "sd", "q10", "median", "q90", "mcse_mean", "ess"]
    assert list(table.index) == ["a", "b"]
    assert (np.abs(table["mean"] - mean) < 4 * table["mcse_mean"]).all()
    assert table["sd"].tolist() == pytest.approx(sd, rel=0.05)
    assert (table["q90"] - table["q10"]).tolist() == pytest.approx(2 * 1.2816 * sd, rel=0.06)
    assert table["mcse_mean"].tolist() == pytest.approx(sd / np.sqrt(4000), rel=0.05)


def test_columns_are_those_that_the_kind_of_draws_has(eight_fit: lvm.Fit, eight_chains: lvm.Chains) -> None:
    fit, chains = eight_fit.summary(), eight_chains.summary()
    assert {"ess", "khat"} <= set(fit.columns) and "rhat" not in fit.columns
    assert {"ess_bulk", "ess_tail", "rhat"} <= set(chains.columns) and "khat" not in chains.columns
    assert list(fit.index) == list(chains.index)
    assert "theta[Choate]" in fit.index or "theta[A]" in fit.index
    assert float(fit["khat"].max()) <= 3.0 and float(chains["rhat"].max()) > 0.9


def test_a_guide_that_is_too_narrow_shows_in_the_khat_of_a_quantity() -> None:
    def narrow(x: Tensor, y: Tensor) -> None:
        for name, middle in (("a", 1.0), ("b", 2.0)):
            loc = pyro.param(f"loc_{name}", torch.tensor(middle))
            pyro.sample(name, dist.Normal(loc, 0.02))

    fit = lvm.fit(lvm.Problem(line, X, Y), narrow, max_steps=2, draws=1000, engine="pyro", progress=False)
    assert (fit.summary()["khat"] > 0.7).all()


def test_a_summary_has_as_many_rows_as_asked_and_says_what_it_leaves_out(eight_fit: lvm.Fit) -> None:
    table = eight_fit.summary(max_quantities=6)
    assert len(table) == 6 and {"mu", "tau"} <= set(table.index)
    assert table.attrs["left_out"] == len(eight_fit.summary()) - 6


def test_summaries_of_other_groups_and_of_none_there(eight_fit: lvm.Fit) -> None:
    assert "y[A]" in eight_fit.summary(group="posterior_predictive").index
    with pytest.raises(lvm.UnknownNameError, match="posterior"):
        eight_fit.summary(group="observed_data")
    with pytest.raises(lvm.ArgumentError, match="interval"):
        eight_fit.summary(interval=90)


def test_draws_as_a_dataframe_are_the_draws(eight_chains: lvm.Chains) -> None:
    frame = eight_chains.to_dataframe()
    posterior = eight_chains.data["posterior"]
    assert frame.index.names == ["chain", "draw"] and len(frame) == eight_chains.num_draws
    assert frame.loc[(1, 7), "mu"] == float(posterior["mu"].sel(chain=1, draw=7))
    assert frame.loc[(1, 7), "theta[C]"] == float(posterior["theta"].sel(chain=1, draw=7)[2])


def test_a_discrete_latent_keeps_its_integers() -> None:
    result = lvm.exact(lvm.Problem(counted, torch.tensor([3.5, 4.5])), draws=200, progress=False)
    assert result.to_dataframe()["z"].dtype.kind == "i"
    assert result.summary().loc["z", "mean"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("shown", ["marginals", "forest", "trace"])
def test_pictures_are_drawn_and_written(eight: Any, shown: str, tmp_path: Path) -> None:
    figure = eight.plot(shown, quantities=["mu", "theta"], path=tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000
    texts = " ".join(t.get_text() for t in figure.findobj(lambda x: hasattr(x, "get_text")))
    assert "mu" in texts and "theta" in texts and "tau" not in texts.replace("theta", "")


def test_pictures_of_what_is_not_there_are_refused(eight_fit: lvm.Fit) -> None:
    with pytest.raises(lvm.UnknownNameError, match="marginals"):
        eight_fit.plot("violin")
    with pytest.raises(lvm.UnknownNameError, match="theta"):
        eight_fit.plot(quantities="thetta")


def test_a_notebook_shows_estimates_reasons_and_seconds(eight: Any) -> None:
    page = eight._repr_html_()
    assert "theta[A]" in page and "seconds" in page and eight.engine in page
    assert all(reason.text.split("`")[0][:12] in page for reason in eight.verdict.reasons)
    assert "<script" not in page.lower()


def test_names_cannot_write_html() -> None:
    def model(y: Tensor) -> None:
        a = pyro.sample("<b>a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0).expand([3]).to_event(1), obs=y)

    page = lvm.exact(lvm.Problem(model, torch.ones(3)), draws=100, progress=False)._repr_html_()
    assert "&lt;b&gt;a" in page and "<td><b>a" not in page and "<th><b>a" not in page


def test_a_result_without_latents_shows_what_it_has() -> None:
    def model(y: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    fit = lvm.fit(lvm.Problem(model, Y), max_steps=50, engine="pyro", progress=False)
    assert len(fit.summary()) == 0 and "verdict" not in repr(fit)
    assert "log p(data)" in fit._repr_html_()
    with pytest.raises(lvm.ArgumentError, match="params"):
        fit.plot()


def test_everything_is_one_readable_line(eight_fit: lvm.Fit, eight_chains: lvm.Chains, exact: lvm.Exact) -> None:
    compared = lvm.compare({"fit": eight_fit, "nuts": eight_chains})
    shown = [
        eight_fit, eight_chains, exact, eight_fit.problem, lvm.guide("low_rank", rank=3), compared, eight_fit.verdict,
        eight_fit.verdict.reasons[0], eight_fit.evidence, lvm.diagnose(eight_chains), lvm.Verdict("trusted"),
    ]  # fmt: skip
    for one in shown:
        text = repr([one])
        assert "\n" not in text and len(text) < 300, text
    assert repr(lvm.guide("low_rank", rank=3)) == "<Guide low_rank(rank=3)>"
    assert repr(compared).startswith("<Comparison of fit with nuts: ")
    assert eight_fit.verdict.status in repr(eight_fit.verdict)
