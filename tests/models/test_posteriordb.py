"""Posteriors of posteriordb: densities are those of the reference draws, and files are what was published."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint
from pyrolvm_models import eight_schools, posteriordb
from pyrolvm_models.posteriordb import collection, hidden_markov, odes, time_series

needs_files = pytest.mark.skipif(
    "PYROLVM_DATA" not in os.environ, reason="PYROLVM_DATA names no folder with the files of posteriordb"
)

# The log density at the second, third and fourth draw of the first chain, less that at the first draw.
CHECK = {
    "eight_schools-eight_schools_centered": (-0.7439, -1.2948, 1.2619),
    "eight_schools-eight_schools_noncentered": (0.7181, 0.6760, 0.8700),
    "arK-arK": (-0.9098, 1.4677, -2.4969),
    "arma-arma11": (0.2265, 0.4770, 1.1046),
    "garch-garch11": (-0.0859, 1.3838, -2.0453),
    "gp_pois_regr-gp_regr": (1.0372, 0.5194, -1.2803),
    "gp_pois_regr-gp_pois_regr": (-1.2447, -0.7340, 5.7999),
    "hmm_example-hmm_example": (-1.7679, 0.0730, -0.6790),
    "bball_drive_event_0-hmm_drive_0": (-0.5000, -0.1547, -0.4639),
    "low_dim_gauss_mix-low_dim_gauss_mix": (0.4487, -0.9349, -2.4224),
    "hudson_lynx_hare-lotka_volterra": (-1.7007, 1.2521, 0.0432),
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": (1.1948, -4.8233, 0.7534),
    "diamonds-diamonds": (-0.9811, -1.8115, 0.0674),
    "kilpisjarvi_mod-kilpisjarvi": (1.8906, -1.8437, 0.7914),
    "sblrc-blr": (-4.0660, -3.4599, 0.4465),
    "sblri-blr": (-1.4233, -0.9137, -0.8470),
    "nes2000-nes": (-0.0130, 3.5516, 3.2267),
    "nes1972-nes": (3.7079, 3.6463, 4.8950),
    "earnings-earn_height": (-0.2008, 0.7304, -0.6544),
    "earnings-log10earn_height": (-1.3538, 1.0715, 1.1060),
    "earnings-logearn_interaction": (2.1771, 2.9302, -0.1206),
    "earnings-logearn_logheight_male": (0.7071, -1.4048, -0.3328),
    "kidiq-kidscore_interaction": (1.8783, 5.1909, 2.0845),
    "kidiq-kidscore_momiq": (0.0789, -0.1354, -0.1139),
    "kidiq_with_mom_work-kidscore_interaction_c": (-1.3707, -1.7944, 0.8456),
    "mesquite-mesquite": (2.1891, 3.2168, 0.0596),
    "mesquite-logmesquite_logvas": (4.0468, 0.1272, 1.0623),
}


def _draw(name: str, index: int) -> dict[str, Tensor]:
    """One reference draw by sites."""
    sites = posteriordb.reference(name)["posterior"].isel(chain=0, draw=index)
    return {str(site): torch.as_tensor(values.to_numpy()) for site, values in sites.data_vars.items()}


# --- models -----------------------------------------------------------------------------------------------------------


def test_every_model_has_check_values() -> None:
    assert posteriordb.names() == sorted(CHECK)


@needs_files
@pytest.mark.parametrize("name", CHECK)
def test_the_density_is_that_of_the_reference(name: str) -> None:
    data, problem = posteriordb.data(name), posteriordb.posteriordb(posterior=name)
    assert problem.dtype == torch.float64
    values = []
    with problem.session(seed=0), torch.no_grad():
        joint = Joint(problem)
        for i in range(4):
            draw = _draw(name, i)
            assert {site: problem.sites[site].shape for site in draw} == {k: tuple(v.shape) for k, v in draw.items()}
            sites = posteriordb.TO_SITES[name](data, draw) if name in posteriordb.TO_SITES else draw
            assert sites.keys() == {site.name for site in problem.latents}
            volume = posteriordb.VOLUMES[name](data, draw) if name in posteriordb.VOLUMES else 0.0
            values.append(float(joint.log_p(sites) + volume))
            derived = joint.deterministic(sites)
            for site in draw.keys() & derived.keys():
                torch.testing.assert_close(derived[site], draw[site])
    # Four digits are given; the steps of the differential equations leave as much.
    np.testing.assert_allclose(np.array(values[1:]) - values[0], CHECK[name], atol=7e-5)


def test_a_linear_recursion_is_solved_for_all_times_at_once() -> None:
    solve = time_series.linear_recursion
    inputs = torch.randn(13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for coefficient in (-0.8, 0.0, 1.3):
        expected = [inputs[0]]
        for value in inputs[1:]:
            expected.append(coefficient * expected[-1] + value)
        torch.testing.assert_close(solve(torch.tensor(coefficient, dtype=torch.float64), inputs), torch.stack(expected))


@pytest.mark.parametrize("length", [2, 3, 8, 11])
def test_hidden_states_are_summed_out(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    transition = torch.randn(2, 2, generator=generator).log_softmax(-1)
    emission = torch.randn(length, 2, generator=generator)
    state = emission[0]
    for row in emission[1:]:
        state = (state[:, None] + transition).logsumexp(0) + row
    found = hidden_markov.forward(transition, emission)
    torch.testing.assert_close(found, state.logsumexp(0))


def test_predator_and_prey_stay_on_their_orbit() -> None:
    theta = torch.tensor([0.55, 0.028, 0.8, 0.024], dtype=torch.float64)
    start = torch.tensor([34.0, 6.0], dtype=torch.float64)
    logs = odes.populations(theta, start, 20)

    def constant(z: torch.Tensor) -> torch.Tensor:
        u, v = z.unbind(-1)
        return theta[3] * u - theta[2] * u.log() + theta[1] * v - theta[0] * v.log()

    torch.testing.assert_close(constant(logs.exp()), constant(start).expand(20), atol=1e-4, rtol=0)


def test_a_drug_that_is_not_eliminated_is_absorbed_as_its_closed_form_says() -> None:
    one = torch.ones((), dtype=torch.float64)
    times = torch.arange(1, 21, dtype=torch.float64) / 2
    found = odes.concentrations(0.7 * one, one, 0 * one, 30 * one, 2 * one, times)
    torch.testing.assert_close(found, 15 * (1 - torch.exp(-0.7 * times)), atol=1e-5, rtol=1e-6)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data of eight schools, and draws in the format of posteriordb, with their checksums."""
    fields = {"J": 8, "y": eight_schools.EFFECTS, "sigma": eight_schools.STANDARD_ERRORS}
    generator = np.random.default_rng(0)
    names = ["mu", "tau", *(f"theta[{k}]" for k in range(1, 9))]
    chains = [{name: (k + 0.1 * generator.random(4)).tolist() for k, name in enumerate(names)} for _ in range(3)]
    for folder, name, content in (
        ("data/data", "eight_schools", fields),
        ("reference_posteriors/draws/draws", "eight_schools-eight_schools_noncentered", chains),
    ):
        path = tmp_path / "posteriordb" / folder / f"{name}.json.zip"
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr(f"{name}.json", json.dumps(content))
        monkeypatch.setitem(collection._CHECKSUMS, name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("PYROLVM_DATA", str(tmp_path))
    return tmp_path / "posteriordb"


def test_a_posterior_is_made_from_its_files_and_compared_with_its_reference(files: Path) -> None:
    name = "eight_schools-eight_schools_centered"
    problem, ours = posteriordb.posteriordb(posterior=name), lvm.problem("eight_schools_centered")
    assert problem.sites["theta"].shape == (8,)
    torch.testing.assert_close(problem.arguments["y"], ours.arguments["y"], check_dtype=False)
    tree = posteriordb.reference(name)
    assert tree["posterior"]["theta"].shape == (3, 4, 8)
    assert [int(value) for value in tree["posterior"]["theta"].mean(["chain", "draw"])] == list(range(2, 10))
    fit = lvm.fit(problem, "mean_field", max_steps=20, draws=50, seed=0, progress=False)
    report = lvm.compare({"fit": fit, "posteriordb": tree}, reference="posteriordb")
    assert {"mu", "tau", "theta[0]", "theta[7]"} <= set(report.table["quantity"])


def test_a_registered_posterior_needs_its_name() -> None:
    assert "posteriordb" in lvm.problems() and "posteriordb" not in lvm.problems(ready=True)
    with pytest.raises(lvm.ArgumentError, match=r"needs its option 'posterior'.*Fix: "):
        lvm.problem("posteriordb")
    with pytest.raises(lvm.ArgumentError, match=r"no posterior 'nothing' is translated\. Fix: use one of arK-arK, "):
        lvm.problem("posteriordb", posterior="nothing")


def test_files_that_were_changed_are_refused(files: Path) -> None:
    path = files / "data/data/eight_schools.json.zip"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(lvm.DataError, match=r"eight_schools.json.zip is not what was published: .* checksum.*Fix: "):
        posteriordb.data("eight_schools-eight_schools_noncentered")
    with pytest.raises(lvm.DataError, match=r"garch.json.zip does not exist.*Fix: "):
        posteriordb.data("garch-garch11")


@needs_files
def test_the_published_files_are_read() -> None:
    for name in posteriordb.names():
        assert posteriordb.data(name)
    found = posteriordb.columns("garch-garch11")
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ["mu", "alpha0", "alpha1", "beta1"], (10, 1000)
    )
    both = [posteriordb.columns(f"eight_schools-eight_schools_{kind}")["tau"] for kind in ("centered", "noncentered")]
    np.testing.assert_array_equal(*both)


@pytest.mark.slow
@needs_files
@pytest.mark.parametrize("name", ["garch-garch11", "kidiq-kidscore_momiq"])
def test_nuts_agrees_with_the_reference(name: str) -> None:
    nuts = lvm.nuts(lvm.problem("posteriordb", posterior=name), seed=0, progress=False)
    report = lvm.compare({"nuts": nuts, "Stan": posteriordb.reference(name)}, reference="Stan")
    assert nuts.verdict.status == "trusted"
    assert report.methods.loc["nuts", "differs"] == 0
    assert abs(report.methods.loc["nuts", "worst_mean_diff"]) < 0.1
