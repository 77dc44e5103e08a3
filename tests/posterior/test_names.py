"""Names of any text, and those of sites, plates, coordinates and dimensions that meet: nothing vanishes from a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.names import dump_names, read_names

Y = torch.tensor([0.5, 1.0, 0.2])
QUICK: dict[str, Any] = {"progress": False, "draws": 12}


def _model(latent: str, plate: str) -> Any:
    def model(y: Tensor) -> None:
        mu = pyro.sample(latent, dist.Normal(0.0, 1.0))
        with pyro.plate(plate, 3):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    return model


@pytest.mark.parametrize(
    "name",
    ["draw", "posterior", "theta_dim_0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("chain", "sample"))],
)
def test_a_site_of_any_name_is_in_the_result_and_comes_back(name: str, tmp_path: Path) -> None:
    problem = lvm.Problem(_model(name, "rows"), Y)
    fit = lvm.fit(problem, AutoNormal, max_steps=2, engine="pyro", **QUICK)
    chains = lvm.nuts(problem, chains=2, warmup=2, engine="pyro", **QUICK)
    shown = f"{name}_site" if name in ("draw", "chain", "sample") else name
    for result, chain in ((fit, 1), (chains, 2)):
        group = result.data["posterior"]
        assert shown in group.data_vars
        assert group[shown].shape == (chain, 12)
        assert group["theta"].dims == ("chain", "draw", "rows")
        result.save(tmp_path / str(chain))
        again = lvm.load(tmp_path / str(chain), problem=problem)
        assert np.array_equal(again.data["posterior"][shown], group[shown])
        assert again.verdict.reasons
    lvm.nuts(problem, init=fit, chains=1, warmup=2, precondition="none", engine="pyro", **QUICK)


@pytest.mark.parametrize("plate", ["draw", "chain", "sample"])
def test_a_plate_of_any_name_is_a_dimension_of_its_own(plate: str) -> None:
    fit = lvm.fit(lvm.Problem(_model("mu", plate), Y), AutoNormal, max_steps=2, engine="pyro", **QUICK)
    assert fit.data["posterior"]["theta"].dims == ("chain", "draw", f"{plate}_plate")
    assert fit.data["posterior"]["mu"].shape == (1, 12)


def test_a_dimension_that_is_called_like_a_site_keeps_its_labels() -> None:
    named = lvm.model(dims={"theta": ["mu"]}, coords={"mu": ["a", "b", "c"]})(_model("mu", "rows"))
    group = lvm.fit(lvm.Problem(named, Y), AutoNormal, max_steps=2, engine="pyro", **QUICK).data["posterior"]
    assert group["theta"].dims == ("chain", "draw", "mu_plate")
    assert group["mu_plate"].values.tolist() == ["a", "b", "c"]


ODD = {
    "slash": ("net/w", "ro/ws"),
    "dots": ("a.b", "/"),
    "html": ("<b>x</b>", "a&b"),
    "script": ("<script>alert(1)</script>", '"><i>'),
    "letters": ("μ βήτα", "zeilen ü"),
    "underscore": ("_m", "_rows"),
    "brackets": ("m[0, 1]", "rows[0]"),
    "quotes": ('it\'s "m" `x`', "r's"),
    "long": ("m" * 300, "r" * 300),
    "group": ("sample_stats", "log_likelihood"),
    "column": ("mean", "sd"),
    "figure": ("lp", "log_weight"),
    "TeX": ("$\\mu_{", "$r$"),
    "newline": ("m\nn", "r\n"),
}


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_names_that_are_places_of_a_file_are_not_taken_for_them(name: str, tmp_path: Path) -> None:
    problem = lvm.Problem(_model(name, "rows"), Y)
    fit = lvm.fit(problem, lvm.guide("mean_field", precondition="none"), max_steps=2, engine="pyro", **QUICK)
    fit.save(tmp_path / "fit")
    shown = lvm.load(tmp_path / "fit", problem=problem).data["posterior"].data_vars
    assert set(shown) == {f"{name.replace('/', '.')}_site", "theta"}


QUICKLY = ("slash", "dots", "script", "brackets", "group")


@pytest.mark.parametrize(
    "names",
    [pytest.param(names, id=name, marks=[] if name in QUICKLY else pytest.mark.slow) for name, names in ODD.items()],
)
def test_names_of_any_text_are_kept_saved_scored_and_compared(names: tuple[str, str], tmp_path: Path) -> None:
    site, plate = names
    fit = lvm.fit(lvm.Problem(_model(site, plate), Y), AutoNormal, max_steps=2, engine="pyro", **QUICK)
    shown = site.replace("/", ".") + ("" if site.strip("./") else "_site")
    group = fit.data["posterior"]
    assert set(group.data_vars) == {shown, "theta"}
    assert group["theta"].dims[:2] == ("chain", "draw") and group[shown].dims == ("chain", "draw")
    assert "afresh_error" not in fit.data["sample_stats"].attrs
    fit.save(tmp_path / "a")
    again = lvm.load(tmp_path / "a")
    for name in fit.data.children:
        assert again.data[name].to_dataset().identical(fit.data[name].to_dataset())
    assert len(arviz_stats.summary(fit.data)) == 4
    page = lvm.compare({site: fit, "b": again}, "b").to_html(plots=False)
    assert not any(text in page for text in ("<b>x", "<script", "<i>"))
    assert str(lvm.diagnose(fit))


PAIRS = [("a/b", "a.b"), ("draw", "draw_site"), ("x/y/z", "x.y/z"), ("/", "._site")]


@pytest.mark.parametrize("names", PAIRS)
def test_two_sites_that_a_result_would_call_alike_are_refused(names: tuple[str, str]) -> None:
    one, other = names

    def model(y: Tensor) -> None:
        shift = pyro.sample(one, dist.Normal(0.0, 1.0)) + pyro.sample(other, dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(shift, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"would both be called .* in a result.*Fix: rename one"):
        lvm.Problem(model, Y)


@pytest.mark.parametrize("name", ["", "a\0b", "a\ud800"])
@pytest.mark.parametrize("kind", ["site", "plate"])
def test_a_name_that_no_file_holds_is_refused(name: str, kind: str) -> None:
    model = _model(name, "rows") if kind == "site" else _model("mu", name)
    with pytest.raises(lvm.ProblemError, match=f"a {kind} of model is called .* no file can hold.*Fix:"):
        lvm.Problem(model, Y)


def test_renamed_dimensions_stay_apart_and_keep_their_labels() -> None:
    """The plate ``y`` cannot be called ``y_plate`` where another plate is, nor ``a/b`` like ``a.b``."""

    def model(y: Tensor) -> None:
        with pyro.plate("y_plate", 2):
            pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("a/b", 2):
            pyro.sample("v", dist.Normal(0.0, 1.0))
        with pyro.plate("a.b", 4):
            pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    named = lvm.model(
        dims={"z": ["y"]}, coords={"y": ["p", "q", "r"], "a/b": [5, 6], "a.b": [1, 2, 3, 4], "y_plate": ["s", "t"]}
    )(model)
    group = lvm.fit(lvm.Problem(named, Y), AutoNormal, max_steps=2, engine="pyro", **QUICK).data["posterior"]
    assert {name: group[name].dims[2] for name in "uvwz"} == {
        "u": "y_plate",
        "v": "a.b_plate",
        "w": "a.b",
        "z": "y_plate_plate",
    }
    assert group["y_plate_plate"].values.tolist() == ["p", "q", "r"]
    assert group["y_plate"].values.tolist() == ["s", "t"]
    assert group["a.b_plate"].values.tolist() == [5, 6] and group["a.b"].values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b"], ["a, b", "c"], ["[0, 1]", "x,y"]])
def test_names_listed_in_an_attribute_are_read_back(names: list[str]) -> None:
    assert read_names(dump_names(names)) == tuple(names)
