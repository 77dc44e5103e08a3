"""Models as estimators of scikit-learn."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyrolvm as lvm
from pyrolvm.sklearn import Classifier, Regressor


def line(X, y):
    level = pyro.sample("level", dist.Normal(150.0, 100.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 50.0).expand([X.shape[1]]).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(100.0))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(level + X @ slope, noise), obs=y)


def known_noise(X, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ slope, 0.5), obs=y)


def classes(X, y):
    level = pyro.sample("level", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0).expand([X.shape[1], 3]).to_event(2))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Categorical(logits=level + X @ slope), obs=y)


def coin(X, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Bernoulli(logits=X @ slope), obs=y)


@pytest.fixture(scope="module")
def diabetes() -> Any:
    return load_diabetes(return_X_y=True)


def test_a_regressor_predicts_means_and_sds_of_the_closed_form():
    random = np.random.default_rng(0)
    X = random.normal(size=(40, 2))
    y = X @ [1.0, -0.5] + 0.5 * random.normal(size=40)
    new = random.normal(size=(7, 2))
    precision = X.T @ X / 0.25 + np.eye(2) / 4
    mean = new @ np.linalg.solve(precision, X.T @ y / 0.25)
    sd = np.sqrt(0.25 + (new * np.linalg.solve(precision, new.T).T).sum(-1))
    found = Regressor(known_noise, "exact", draws=4000).fit(X, y)
    got, spread = found.predict(new, return_std=True)
    np.testing.assert_allclose(got, mean, atol=0.02)
    np.testing.assert_allclose(spread, sd, rtol=0.06)
    np.testing.assert_array_equal(found.predict(new), got)
    assert found.posterior_.verdict.status == "trusted"


@pytest.mark.slow
def test_cross_validation_is_as_good_as_that_of_ridge_regression(diabetes):
    ours = cross_val_score(make_pipeline(StandardScaler(), Regressor(line, "laplace")), *diabetes, cv=3)
    theirs = cross_val_score(make_pipeline(StandardScaler(), BayesianRidge()), *diabetes, cv=3)
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_a_classifier_has_probabilities_and_labels():
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = y.map({0: "setosa", 1: "versicolor", 2: "virginica"})
    X = (X - X.mean()) / X.std()
    found = Classifier(classes, "laplace").fit(X, names)
    chance = found.predict_proba(X)
    assert chance.shape == (150, 3) and list(found.classes_) == ["setosa", "versicolor", "virginica"]
    np.testing.assert_allclose(chance.sum(-1), 1.0)
    assert found.score(X, names) > 0.94
    assert list(found.feature_names_in_) == list(X.columns)
    with pytest.raises(ValueError, match="feature names"):
        found.predict(X.rename(columns={X.columns[0]: "other"}))


def test_probabilities_are_averages_over_the_posterior():
    random = np.random.default_rng(1)
    X = random.normal(size=(30, 1))
    y = np.where(random.random(30) < 1 / (1 + np.exp(-2 * X[:, 0])), "yes", "no")
    found = Classifier(coin, "laplace", draws=4000).fit(X, y)
    slopes = found.posterior_.data["posterior"]["slope"].values.ravel()
    new = np.array([[-1.0], [0.0], [3.0]])
    expected = (1 / (1 + np.exp(-new * slopes))).mean(-1)
    np.testing.assert_allclose(found.predict_proba(new)[:, 1], expected, atol=0.01)
    assert list(found.predict(new)) == ["no", found.predict(new)[1], "yes"]
    assert LogisticRegression().fit(X, y).classes_.tolist() == found.classes_.tolist()


def test_clones_have_the_parameters_and_nothing_of_the_fit(diabetes):
    X, y = diabetes
    made = Regressor(line, "mean_field", options={"max_steps": 20}, seed=3)
    made.fit(X[:50], y[:50])
    same = clone(made)
    assert same.get_params() == made.get_params() and not hasattr(same, "posterior_")
    assert is_regressor(made) and is_classifier(Classifier(coin))
    with pytest.raises(NotFittedError):
        same.predict(X)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.predict(X[:5]), made.predict(X[:5]))
    np.testing.assert_array_equal(same.fit(X[:50], y[:50]).predict(X[:5]), made.predict(X[:5]))
    found = GridSearchCV(made, {"seed": [0, 1]}, cv=2).fit(X[:40], y[:40])
    assert found.best_params_["seed"] in (0, 1)


def test_fits_leave_the_users_random_state_alone(diabetes):
    X, y = diabetes
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    Regressor(line, "laplace").fit(X[:50], y[:50]).predict(X[:3])
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_what_does_not_fit_is_refused_before_the_first_step(diabetes):
    X, y = diabetes
    with pytest.raises(ValueError, match="NaN"):
        Regressor(line).fit(np.where(X > 0.1, np.nan, X), y)
    with pytest.raises(lvm.ProblemError, match=r"one class only.*Fix: "):
        Classifier(coin).fit(X, np.zeros(len(X), dtype=int))
    with pytest.raises(ValueError, match="Unknown label type"):
        Classifier(coin).fit(X, y + 0.5)
    with pytest.raises(lvm.UnknownNameError, match="Fix: "):
        Regressor(line, "no_such_method").fit(X, y)
    with pytest.raises(lvm.ProblemError, match=r"observes nothing, expected one site.*Fix: "):
        Regressor(lambda X, y: pyro.sample("a", dist.Normal(0.0, 1.0))).fit(X, y)
    with pytest.raises(lvm.FitError, match=r"returned a dict, expected a posterior.*Fix: "):
        Regressor(line, lambda problem: {"a": torch.zeros(3)}).fit(X, y)
    fitted = Regressor(line, "laplace").fit(pd.DataFrame(X[:60, :2]).to_numpy(), y[:60])
    with pytest.raises(ValueError, match="features"):
        fitted.predict(X[:3])


def test_a_trained_network_is_read_without_pyrolvm(tmp_path):
    from safetensors.torch import load_file, save_file

    problem = lvm.problem("vae", images=50)
    fit = lvm.fit(problem, batch_size=50, max_steps=5, num_particles=1, seed=0, progress=False)
    save_file(fit.module("decoder").state_dict(), tmp_path / "decoder.safetensors")
    network = copy.deepcopy(problem.arguments["decoder"])
    before, code = network(torch.ones(1, 8)), torch.ones(1, 8)
    network.load_state_dict(load_file(tmp_path / "decoder.safetensors"))
    assert torch.equal(network(code), fit.module("decoder")(code)) and not torch.equal(network(code), before)
