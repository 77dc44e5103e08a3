"""A calibration as a result: saved, plotted, looked at by verdict, and shown."""

from __future__ import annotations

import pytest
import torch

import pyrolvm as lvm
from tests.calibration.test_calibrate import X, exact, regression, run, sometimes


@pytest.fixture
def problem():
    return lvm.Problem(regression, X, torch.zeros(8))


def test_it_is_saved_and_loaded(problem, tmp_path):
    found = run(problem, sometimes, 20)
    found.save(tmp_path / "c")
    for loaded in (lvm.load(tmp_path / "c"), lvm.Calibration.load(tmp_path / "c")):
        assert loaded.ranks.equals(found.ranks) and loaded.failures == found.failures
        assert str(loaded.verdict) == str(found.verdict) and loaded.method == "sometimes"
        assert list(loaded.ranks["beta"]["predictor"].values) == ["one", "x"]
    with pytest.raises(lvm.StoreError, match="already"):
        found.save(tmp_path / "c")
    (next((tmp_path / "c").glob("*/data-*"))).write_bytes(b"")
    with pytest.raises(lvm.StoreError, match="damaged"):
        lvm.load(tmp_path / "c")


def test_arviz_takes_it(problem):
    import arviz_plots

    found = run(problem, exact, 30)
    assert found.data["prior_sbc"]["beta"].dims == ("chain", "draw", "predictor")
    arviz_plots.plot_ecdf_pit(found.data, backend="none", stats={"ecdf_pit": {"n_simulations": 50}})


def test_plots_show_what_is_asked_for(problem, tmp_path):
    found = run(problem, exact, 30)
    figure = found.plot(path=tmp_path / "ranks.png")
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == list(found.statistics.index)
    assert (tmp_path / "ranks.png").stat().st_size > 5_000
    assert len([axes for axes in found.plot("histogram", quantities=["beta[x]"]).axes if axes.axison]) == 1
    with pytest.raises(lvm.UnknownNameError, match="histogram"):
        found.plot("histograms")
    with pytest.raises(lvm.UnknownNameError, match="beta"):
        found.plot(quantities=["beta"])


@pytest.mark.slow
def test_fits_of_one_verdict_are_looked_at_alone(problem):
    def method(problem):
        from pyrolvm._base.verdict import Verdict

        good = float(problem.args[1].sum()) > 0
        draws = exact(problem) if good else exact(problem, scale=0.3)
        data = {"beta": draws["beta"].numpy()[None]}
        return Judged(data, Verdict("trusted" if good else "doubtful"))

    found = run(problem, method, 300)
    assert found.verdict.status == "failed"
    alone = found.of_status("trusted")
    assert alone.simulations == (found.fits["status"] == "trusted").sum()
    assert alone.verdict.trusted and alone.data["prior_sbc"].sizes["draw"] == alone.simulations
    assert any("verdict is trusted alone, no quantity is shown to be off" in r.text for r in found.verdict.reasons)
    assert found.of_status("failed").successes == 0


class Judged:
    def __init__(self, draws, verdict):
        import arviz_base

        self.data, self.verdict = arviz_base.from_dict({"posterior": draws}), verdict


def test_it_shows_itself(problem):
    found = run(problem, exact, 20)
    assert "beta[one]" in str(found) and "20 simulations" in repr(found) and "<table" in found._repr_html_()
    assert found.as_dict()["quantities"][0]["quantity"] == "beta[one]"
