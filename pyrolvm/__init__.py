"""pyrolvm: write a Pyro model, get a posterior you can trust, and see the evidence that you can.

A plugin layer on Pyro for latent variable models: variational posteriors, NUTS baselines of the same model, comparison
of both, and ArviZ objects for all of them.

    >>> import pyrolvm as lvm
    >>> problem = lvm.Problem(model, *data)
    >>> fit = lvm.fit(problem, guide="full_rank")
    >>> nuts = lvm.nuts(problem)
    >>> lvm.compare({"full_rank": fit, "nuts": nuts}, reference="nuts")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ArgumentError": "errors",
    "Beta_ELBO": "vi.objectives",
    "Calibration": "calibration",
    "CaptureError": "errors",
    "Chains": "posterior",
    "Comparison": "comparison",
    "DataError": "errors",
    "Diagnosis": "diagnosis",
    "Estimators": "vi.objectives.report",
    "Evaluation": "evaluation",
    "Evidence": "posterior",
    "Evidences": "marginal",
    "Exact": "posterior",
    "Fit": "posterior",
    "FitError": "errors",
    "Gaps": "amortization",
    "Guide": "program.guide",
    "GuideError": "errors",
    "Image": "program.image",
    "ImportanceWeighted_ELBO": "vi.objectives",
    "ParticleELBO": "vi.objectives",
    "PluginError": "errors",
    "Posterior": "posterior",
    "Problem": "program.problem",
    "ProblemError": "errors",
    "PyrolvmError": "errors",
    "PyrolvmWarning": "errors",
    "StoreError": "errors",
    "Sweep": "sweeps",
    "UnknownNameError": "errors",
    "Verdict": "verdict",
    "Warmup": "vi.objectives",
    "calibrate": "calibration",
    "compare": "comparison",
    "diagnose": "diagnosis",
    "estimators": "vi.objectives.report",
    "evaluate": "evaluation",
    "evidence": "marginal",
    "exact": "analytic",
    "fit": "vi",
    "gaps": "amortization",
    "generate": "evaluation",
    "guide": "registry",
    "guides": "registry",
    "infer": "ladder",
    "load": "store",
    "model": "program.problem",
    "nuts": "mcmc",
    "problem": "registry",
    "problems": "registry",
    "relax": "vi.objectives.relaxed",
    "stream": "program.streaming",
    "sweep": "sweeps",
}

_MODULES = ("callbacks",)

__all__ = [*_HOME, *_MODULES, "__version__"]

if TYPE_CHECKING:
    from pyrolvm import callbacks as callbacks
    from pyrolvm.amortization import Gaps as Gaps
    from pyrolvm.amortization import gaps as gaps
    from pyrolvm.analytic import exact as exact
    from pyrolvm.calibration import Calibration as Calibration
    from pyrolvm.calibration import calibrate as calibrate
    from pyrolvm.comparison import Comparison as Comparison
    from pyrolvm.comparison import compare as compare
    from pyrolvm.diagnosis import Diagnosis as Diagnosis
    from pyrolvm.diagnosis import diagnose as diagnose
    from pyrolvm.errors import ArgumentError as ArgumentError
    from pyrolvm.errors import CaptureError as CaptureError
    from pyrolvm.errors import DataError as DataError
    from pyrolvm.errors import FitError as FitError
    from pyrolvm.errors import GuideError as GuideError
    from pyrolvm.errors import PluginError as PluginError
    from pyrolvm.errors import ProblemError as ProblemError
    from pyrolvm.errors import PyrolvmError as PyrolvmError
    from pyrolvm.errors import PyrolvmWarning as PyrolvmWarning
    from pyrolvm.errors import StoreError as StoreError
    from pyrolvm.errors import UnknownNameError as UnknownNameError
    from pyrolvm.evaluation import Evaluation as Evaluation
    from pyrolvm.evaluation import evaluate as evaluate
    from pyrolvm.evaluation import generate as generate
    from pyrolvm.ladder import infer as infer
    from pyrolvm.marginal import Evidences as Evidences
    from pyrolvm.marginal import evidence as evidence
    from pyrolvm.mcmc import nuts as nuts
    from pyrolvm.posterior import Chains as Chains
    from pyrolvm.posterior import Evidence as Evidence
    from pyrolvm.posterior import Exact as Exact
    from pyrolvm.posterior import Fit as Fit
    from pyrolvm.posterior import Posterior as Posterior
    from pyrolvm.program.guide import Guide as Guide
    from pyrolvm.program.image import Image as Image
    from pyrolvm.program.problem import Problem as Problem
    from pyrolvm.program.problem import model as model
    from pyrolvm.program.streaming import stream as stream
    from pyrolvm.registry import guide as guide
    from pyrolvm.registry import guides as guides
    from pyrolvm.registry import problem as problem
    from pyrolvm.registry import problems as problems
    from pyrolvm.store import load as load
    from pyrolvm.sweeps import Sweep as Sweep
    from pyrolvm.sweeps import sweep as sweep
    from pyrolvm.verdict import Verdict as Verdict
    from pyrolvm.vi import fit as fit
    from pyrolvm.vi.objectives import Beta_ELBO as Beta_ELBO
    from pyrolvm.vi.objectives import ImportanceWeighted_ELBO as ImportanceWeighted_ELBO
    from pyrolvm.vi.objectives import ParticleELBO as ParticleELBO
    from pyrolvm.vi.objectives import Warmup as Warmup
    from pyrolvm.vi.objectives.relaxed import relax as relax
    from pyrolvm.vi.objectives.report import Estimators as Estimators
    from pyrolvm.vi.objectives.report import estimators as estimators


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pyrolvm.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'pyrolvm' has no attribute {name!r}")
    value = getattr(import_module(f"pyrolvm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
