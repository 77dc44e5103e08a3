"""``lvm.evaluate`` where rows share latents: against closed forms, for draws of every method, from Python and from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._check.evaluate import split
from pyrolvm._check.predict import predict
from pyrolvm._cli import main

QUIET: dict[str, Any] = {"progress": False}
GENERATOR = torch.Generator().manual_seed(0)
X, GROUP = torch.linspace(-1, 1, 60), torch.arange(60) % 6
Y = 1.0 + 2.0 * X + torch.randn(6, generator=GENERATOR)[GROUP] + 0.5 * torch.randn(60, generator=GENERATOR)


def grouped(x: Tensor, group: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    with pyro.plate("groups", 6):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x + effect[group], 0.5), obs=y)


def own(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(middle, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def two(x: Tensor, y: Tensor, n: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a * x, 0.5), obs=y)
        pyro.sample("n", dist.Poisson(a.exp()), obs=n)


TRAIN, TEST = split(lvm.Problem(grouped, X, GROUP, Y), 0.25, seed=1)


def design(problem: lvm.Problem) -> tuple[Tensor, Tensor]:
    x, group, y = problem.args
    groups = torch.nn.functional.one_hot(group, 6).double()
    return torch.cat([torch.stack([torch.ones_like(x), x], 1).double(), groups], 1), y.double()


def exact_densities() -> np.ndarray:
    (learned, y), (held, wanted) = design(TRAIN), design(TEST)
    precision = torch.diag(torch.tensor([1 / 9, 1 / 9, *[1.0] * 6], dtype=torch.double)) + learned.T @ learned / 0.25
    mean = torch.linalg.solve(precision, learned.T @ y / 0.25)
    variance = 0.25 + (held @ torch.linalg.inv(precision) * held).sum(1)
    return dist.Normal(held @ mean, variance.sqrt()).log_prob(wanted).numpy()


def close_to_exact(found: lvm.Evaluation, within: float) -> bool:
    wanted = exact_densities()
    rows = np.abs(found.rows["log_p"] - wanted) < 5 * found.rows["log_p_error"] + within
    return bool(rows.all()) and abs(found.log_p - wanted.mean()) < 5 * found.log_p_error + within


@pytest.fixture(scope="module")
def posterior() -> lvm.Posterior:
    return lvm.exact(TRAIN, draws=1_000, **QUIET)


def test_held_out_rows_have_their_exact_densities_and_the_scores_of_predict(posterior: lvm.Posterior) -> None:
    found = lvm.evaluate(posterior, TEST, **QUIET)
    assert close_to_exact(found, 0.0)
    scores = predict(posterior, *TEST.args)["scores"]
    np.testing.assert_allclose(found.rows["log_p"], scores["y_lpd"], rtol=1e-5)
    assert found["CRPS"] == pytest.approx(scores.attrs["y_crps"], rel=0.03)
    assert found["inside 90%"] == pytest.approx(scores.attrs["y_inside_90"], abs=0.07)
    assert found.verdict.trusted and "site 'a' is outside plate" in found.left_out["ELBO"]
    gap = found["train - held out"]
    assert gap == pytest.approx(found.table.loc["log p(x)", "train"] - found.log_p)


def test_data_may_be_given_in_every_way_and_rows_chosen(posterior: lvm.Posterior) -> None:
    one, *others = (
        lvm.evaluate(posterior, data, **QUIET)
        for data in (TEST, TEST.args, {"x": TEST.args[0], "group": TEST.args[1], "y": TEST.args[2]})
    )
    assert all(one.rows.equals(other.rows) for other in others)
    some = lvm.evaluate(posterior, TEST, rows=[4, 2], **QUIET)
    assert some.rows.equals(one.rows.loc[[4, 2]])
    with pytest.raises(lvm.ArgumentError, match=r"holds no observation of grouped.*Fix:"):
        lvm.evaluate(posterior, {"x": X[:2], "group": GROUP[:2]}, **QUIET)
    with pytest.raises(lvm.ArgumentError, match=r"2 arrays.*takes 3"):
        lvm.evaluate(posterior, (X, Y), **QUIET)


def test_rows_of_the_fit_give_a_doubt_and_other_data_are_told_apart(posterior: lvm.Posterior, tmp_path: Path) -> None:
    assert lvm.evaluate(posterior, **QUIET).verdict.status == "doubtful"
    far = {"x": X[:9], "group": GROUP[:9], "y": Y[:9] + 8.0}
    found = lvm.evaluate(posterior, TEST, outliers={"far": far}, out=tmp_path / "e", **QUIET)
    assert found.auroc is not None and found.auroc.loc["far", "log p(x)"] == 1.0
    again = lvm.load(tmp_path / "e")
    assert str(again) == str(found) and again.rows.equals(found.rows)
    assert "draws of the posterior" in again.to_html(tmp_path / "e.html").read_text()
    assert len(again.plot().axes) == 3


def test_rows_with_latents_of_their_own_are_new_ones_however_many_there_are() -> None:
    y = torch.linspace(-1, 3, 30)
    posterior = lvm.exact(lvm.Problem(own, y), draws=1_000, **QUIET)
    precision = 1 / 4 + 30 / 1.25
    wanted = dist.Normal(y.sum() / 1.25 / precision, (1.25 + 1 / precision) ** 0.5).log_prob(y)
    found = lvm.evaluate(posterior, y.clone().flip(0), **QUIET)
    np.testing.assert_allclose(found.rows["log_p"], wanted.flip(0), atol=0.03)
    assert "gap to training rows" in found.left_out


def test_sites_of_the_same_rows_are_scored_together() -> None:
    x = torch.linspace(0, 1, 20)
    posterior = lvm.fit(lvm.Problem(two, x, x, torch.ones(20)), "mean_field", max_steps=200, draws=500, **QUIET)
    found = lvm.evaluate(posterior, (x[:4], x[:4], torch.ones(4)), **QUIET)
    terms = predict(posterior, x[:4], x[:4], torch.ones(4))["log_score"]
    joint = (terms["y"] + terms["n"]).values.reshape(-1, 4)
    np.testing.assert_allclose(found.rows["log_p"], np.log(np.exp(joint).mean(0)), atol=1e-4)
    assert {"CRPS of y", "inside 50% of n"} <= set(found.table.index)
    alone = lvm.evaluate(posterior, {"x": x[:4], "y": x[:4]}, **QUIET)
    assert "y alone" in alone.left_out["gap to training rows"]


def test_the_shell_evaluates_a_saved_result_and_a_target_fitted_to_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        "import pyro",
        "import pyro.distributions as dist",
        "def line(x, y):",
        "    a = pyro.sample('a', dist.Normal(0.0, 5.0))",
    ]
    lines += ["    with pyro.plate('rows', len(x)):", "        pyro.sample('y', dist.Normal(a * x, 0.5), obs=y)"]
    Path("m.py").write_text("\n".join(lines))
    pd.DataFrame({"x": np.linspace(0, 1, 12), "y": np.linspace(0, 2, 12)}).to_csv("d.csv", index=False)
    pd.DataFrame({"x": [0.5, 0.9], "y": [1.0, 1.7]}).to_csv("n.csv", index=False)
    assert main(["exact", "m.py:line", "--data", "d.csv", "--out", "a", "--quiet"]) == 0
    words = ["--problem", "m.py:line", "--data", "d.csv", "--held-out", "n.csv", "--out", "e", "--quiet", "--json", "-"]
    assert main(["evaluate", "a", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 2 and {"CRPS", "inside 90%"} <= {line["figure"] for line in told["table"]}
    words = [
        "--data",
        "d.csv",
        "--hold-out",
        "0.25",
        "--guide",
        "mean_field",
        "--max-steps",
        "50",
        "--out",
        "f",
        "--quiet",
    ]
    assert main(["evaluate", "m.py:line", *words]) == 0
    assert len(lvm.load("f").rows) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "smc", "full_rank", "mean_field", "sparse"])
def test_draws_of_every_method_give_the_exact_densities(method: str) -> None:
    posterior = {
        "nuts": lambda: lvm.nuts(TRAIN, chains=2, warmup=300, draws=500, **QUIET),
        "smc": lambda: lvm.smc(TRAIN, particles=2_000, **QUIET),
        "sparse": lambda: lvm.sparse(TRAIN, **QUIET),
    }.get(method, lambda: lvm.fit(TRAIN, method, **QUIET))()
    assert close_to_exact(lvm.evaluate(posterior, TEST, **QUIET), 0.03)


def test_intervals_of_yes_and_no_are_not_called_too_wide() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)

    x = torch.linspace(-3, 3, 200)
    y = (torch.rand(200, generator=torch.Generator().manual_seed(0)) < torch.sigmoid(2 * x)).float()
    found = lvm.evaluate(lvm.fit(lvm.Problem(model, x, y), "full_rank", **QUIET), **QUIET)
    assert found["inside 90%"] > 0.95  # either value, or both, are most of what is likely
    assert "too wide" not in str(found.verdict)
