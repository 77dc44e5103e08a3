"""Models as estimators of scikit-learn: ``clone``, ``Pipeline``, ``cross_val_score`` and ``GridSearchCV`` take them as their own.

    >>> from pyrolvm.sklearn import Regressor
    >>> def line(X, y):
    ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    ...     with pyro.plate("row", len(X)):
    ...         pyro.sample("y", dist.Normal(X @ w, 1.0), obs=y)
    >>> estimator = Regressor(line, method="full_rank").fit(X, y)
    >>> estimator.predict(X_new), estimator.posterior_.verdict

A model is a Pyro function of ``X`` of shape ``(n, features)`` and ``y`` of shape ``(n,)``, which is ``None`` where it is
predicted. What an estimator says is of the predictive distribution, over all draws of the posterior.

This module imports scikit-learn; nothing else of pyrolvm does before it has to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pyrolvm._base.errors import FitError, ProblemError
from pyrolvm._check.calibrate.methods import Method
from pyrolvm._check.predict import predict
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._results import Posterior

__all__ = ["Classifier", "Regressor"]

Values = NDArray[np.float64]


class _Estimator(BaseEstimator):
    """A model, and the method that fits it."""

    posterior_: Posterior

    def __init__(
        self,
        model: Any,
        method: Any = "infer",
        *,
        options: Mapping[str, Any] | None = None,
        draws: int | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.method = method
        self.options = options
        self.draws = draws
        self.seed = seed

    def _fitted(self, X: Values, y: Values) -> None:
        """Fits the model to checked data.

        Raises:
            ProblemError: if the model does not observe ``y`` once, or leaves a network's parameters without a posterior only.
        """
        problem = Problem(self.model, X, y)
        if len(problem.observed) != 1:
            raise ProblemError(
                f"{problem.name} observes {', '.join(site.name for site in problem.observed) or 'nothing'}, expected one site, y. "
                "Fix: write a model of X and y that observes y."
            )
        method = Method.of(self.method, problem, self.options or {}, caller=type(self).__name__)
        found = method.run(problem, self.seed)
        if not isinstance(found, Posterior):
            raise FitError(
                f"method {method} returned a {type(found).__name__}, expected a posterior. Fix: return a result of lvm.fit, lvm.nuts "
                "or another."
            )
        self.posterior_ = found

    def _asked(self, X: ArrayLike) -> Values:
        """Checked rows to predict.

        Raises:
            NotFittedError: if there is no posterior yet.
            ValueError: if they are not such as those of the fit.
        """
        check_is_fitted(self, "posterior_")
        rows: Values = validate_data(self, X, reset=False, dtype=np.float64)
        return rows

    def _predicted(self, rows: Values, y: Values | None, **options: Any) -> Any:
        return predict(self.posterior_, rows, y, draws=self.draws, seed=self.seed, **options)

    def _site(self) -> str:
        (site,) = self.posterior_.attached.observed
        return variable(site.name)


class Regressor(RegressorMixin, _Estimator):
    """A model of a number a row as a regressor; ``score`` is the share of variance that its predictive mean explains.

    Args:
        model: a Pyro function of ``X`` and ``y``.
        method: a guide as :func:`pyrolvm.fit` takes it, ``"nuts"``, ``"infer"``, or a function of a problem that returns a posterior.
        options: options of the method, such as ``{"max_steps": 2000}``.
        draws: posterior draws that predictions take, 1,000 by default.
        seed: of the fit and of predictions.

    Attributes:
        posterior_: what the method gave: ``posterior_.verdict`` says whether to trust it.
        n_features_in_: columns of ``X``.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Regressor:
        """Finds the posterior.

        Args:
            X: shape ``(n, features)``, numbers that are finite.
            y: shape ``(n,)``.

        Raises:
            ValueError: if they are not such, or the model does not go with them.
        """
        rows, values = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self._fitted(rows, values.astype(np.float64))
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Values | tuple[Values, Values]:
        """The predictive mean, and with ``return_std`` the predictive sd, noise of a new value included; each of shape ``(n,)``.

        The mean is over draws of the mean given each; the sd is of values drawn.
        """
        rows = self._asked(X)
        name = self._site()
        mean = _over_draws(self._predicted(rows, None, kind="mean")["predictions"][name]).mean(0)
        if not return_std:
            return mean
        return mean, _over_draws(self._predicted(rows, None)["predictions"][name]).std(0)


class Classifier(ClassifierMixin, _Estimator):
    """A model of a class a row as a classifier.

    The model observes ``y`` as numbers 0, 1, ... in the order of ``classes_``, by a Bernoulli, categorical or any other law.

    Args:
        model: a Pyro function of ``X`` and ``y``.
        method: a guide as :func:`pyrolvm.fit` takes it, ``"nuts"``, ``"infer"``, or a function of a problem that returns a posterior.
        options: options of the method, such as ``{"max_steps": 2000}``.
        draws: posterior draws that predictions take, 1,000 by default.
        seed: of the fit and of predictions.

    Attributes:
        posterior_: what the method gave: ``posterior_.verdict`` says whether to trust it.
        classes_: the labels, sorted.
        n_features_in_: columns of ``X``.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Classifier:
        """Finds the posterior.

        Args:
            X: shape ``(n, features)``, numbers that are finite.
            y: labels, shape ``(n,)``.

        Raises:
            ValueError: if they are not such, there is one class only, or the model does not go with them.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ProblemError(f"y has one class only, {self.classes_[0]!r}. Fix: fit to rows of two classes or more.")
        self._fitted(rows, codes.astype(np.float64))
        return self

    def predict_proba(self, X: ArrayLike) -> Values:
        """The predictive probability of each class, ``p(y | X, data)``: shape ``(n, classes)``, rows sum to one."""
        rows = self._asked(X)
        name = f"{self._site()}_lpd"
        given = (np.full(len(rows), float(code)) for code in range(len(self.classes_)))
        log = np.stack([self._predicted(rows, y)["scores"][name].values.astype(np.float64) for y in given], -1)
        chance: Values = np.exp(log - log.max(-1, keepdims=True))
        return chance / chance.sum(-1, keepdims=True)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The label of the most probable class, shape ``(n,)``."""
        chance = self.predict_proba(X)
        found: NDArray[Any] = self.classes_[chance.argmax(-1)]
        return found


def _over_draws(values: Any) -> Values:
    """Values by draw, all chains in one: shape ``(draws, n)``."""
    joined: Values = values.stack(sample=("chain", "draw")).transpose("sample", ...).values.astype(np.float64)
    return joined
