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

from pyrolvm._base.importing import uncollected

__version__ = "0.2.0"

_HOME = {
    "ArgumentError": "_base.errors",
    "Beta_ELBO": "_methods.fit.objectives",
    "Calibration": "_check.calibrate",
    "Check": "_check.discrepancy",
    "CaptureError": "_base.errors",
    "Chains": "_results",
    "Comparison": "_check.compare",
    "CrossValidation": "_check.validating",
    "DataError": "_base.errors",
    "Diagnosis": "_diagnosis",
    "Estimators": "_methods.fit.objectives.report",
    "Evaluation": "_check.evaluate",
    "Evidence": "_results",
    "Evidences": "_methods.evidence",
    "Exact": "_results",
    "Fit": "_results",
    "FitError": "_base.errors",
    "Gaps": "_check.gaps",
    "Guide": "family.guide",
    "GuideError": "_base.errors",
    "Image": "_program.image",
    "ImportanceWeighted_ELBO": "_methods.fit.objectives",
    "ParticleELBO": "_methods.fit.objectives",
    "LOO": "_results",
    "ModelComparison": "_check.elpd",
    "Particles": "_methods.smc",
    "PluginError": "_base.errors",
    "Posterior": "_results",
    "Problem": "_program.problem",
    "ProblemError": "_base.errors",
    "PyrolvmError": "_base.errors",
    "PyrolvmWarning": "_base.errors",
    "Simulation": "_check.discrepancy",
    "Sparse": "_methods.sparse",
    "StoreError": "_base.errors",
    "Sweep": "_check.sweep",
    "UnknownNameError": "_base.errors",
    "Verdict": "_base.verdict",
    "Warmup": "_methods.fit.objectives",
    "calibrate": "_check.calibrate",
    "check": "_check.discrepancy",
    "compare": "_check.compare",
    "compress": "_check.compress",
    "compare_models": "_check.elpd",
    "cross_validate": "_check.validating",
    "decompress": "_check.compress",
    "diagnose": "_diagnosis",
    "estimators": "_methods.fit.objectives.report",
    "evaluate": "_check.evaluate",
    "evidence": "_methods.evidence",
    "exact": "_methods.exact",
    "fit": "_methods.fit",
    "formula": "_program.formulas",
    "gaps": "_check.gaps",
    "generate": "_check.evaluate",
    "guide": "family.registry",
    "guides": "family.registry",
    "infer": "_methods.infer",
    "load": "_check.saved",
    "model": "_program.problem",
    "nuts": "_methods.nuts",
    "predict": "_check.predict",
    "problem": "family.registry",
    "problems": "family.registry",
    "report": "_check.pages",
    "relax": "_methods.fit.objectives.relaxed",
    "sample": "_methods.kernels",
    "simulate": "_check.discrepancy",
    "smc": "_methods.smc",
    "sparse": "_methods.sparse",
    "stream": "_program.streaming",
    "sweep": "_check.sweep",
}

_MODULES = ("callbacks",)

__all__ = [*_HOME, *_MODULES, "__version__"]

if TYPE_CHECKING:
    from pyrolvm import callbacks as callbacks
    from pyrolvm._base.errors import ArgumentError as ArgumentError
    from pyrolvm._base.errors import CaptureError as CaptureError
    from pyrolvm._base.errors import DataError as DataError
    from pyrolvm._base.errors import FitError as FitError
    from pyrolvm._base.errors import GuideError as GuideError
    from pyrolvm._base.errors import PluginError as PluginError
    from pyrolvm._base.errors import ProblemError as ProblemError
    from pyrolvm._base.errors import PyrolvmError as PyrolvmError
    from pyrolvm._base.errors import PyrolvmWarning as PyrolvmWarning
    from pyrolvm._base.errors import StoreError as StoreError
    from pyrolvm._base.errors import UnknownNameError as UnknownNameError
    from pyrolvm._base.verdict import Verdict as Verdict
    from pyrolvm._check.calibrate import Calibration as Calibration
    from pyrolvm._check.calibrate import calibrate as calibrate
    from pyrolvm._check.compare import Comparison as Comparison
    from pyrolvm._check.compare import compare as compare
    from pyrolvm._check.compress import compress as compress
    from pyrolvm._check.compress import decompress as decompress
    from pyrolvm._check.discrepancy import Check as Check
    from pyrolvm._check.discrepancy import Simulation as Simulation
    from pyrolvm._check.discrepancy import check as check
    from pyrolvm._check.discrepancy import simulate as simulate
    from pyrolvm._check.elpd import ModelComparison as ModelComparison
    from pyrolvm._check.elpd import compare_models as compare_models
    from pyrolvm._check.evaluate import Evaluation as Evaluation
    from pyrolvm._check.evaluate import evaluate as evaluate
    from pyrolvm._check.evaluate import generate as generate
    from pyrolvm._check.gaps import Gaps as Gaps
    from pyrolvm._check.gaps import gaps as gaps
    from pyrolvm._check.pages import report as report
    from pyrolvm._check.predict import predict as predict
    from pyrolvm._check.saved import load as load
    from pyrolvm._check.sweep import Sweep as Sweep
    from pyrolvm._check.sweep import sweep as sweep
    from pyrolvm._check.validating import CrossValidation as CrossValidation
    from pyrolvm._check.validating import cross_validate as cross_validate
    from pyrolvm._diagnosis import Diagnosis as Diagnosis
    from pyrolvm._diagnosis import diagnose as diagnose
    from pyrolvm._methods.evidence import Evidences as Evidences
    from pyrolvm._methods.evidence import evidence as evidence
    from pyrolvm._methods.exact import exact as exact
    from pyrolvm._methods.fit import fit as fit
    from pyrolvm._methods.fit.objectives import Beta_ELBO as Beta_ELBO
    from pyrolvm._methods.fit.objectives import ImportanceWeighted_ELBO as ImportanceWeighted_ELBO
    from pyrolvm._methods.fit.objectives import ParticleELBO as ParticleELBO
    from pyrolvm._methods.fit.objectives import Warmup as Warmup
    from pyrolvm._methods.fit.objectives.relaxed import relax as relax
    from pyrolvm._methods.fit.objectives.report import Estimators as Estimators
    from pyrolvm._methods.fit.objectives.report import estimators as estimators
    from pyrolvm._methods.infer import infer as infer
    from pyrolvm._methods.kernels import sample as sample
    from pyrolvm._methods.nuts import nuts as nuts
    from pyrolvm._methods.smc import Particles as Particles
    from pyrolvm._methods.smc import smc as smc
    from pyrolvm._methods.sparse import Sparse as Sparse
    from pyrolvm._methods.sparse import sparse as sparse
    from pyrolvm._program.formulas import formula as formula
    from pyrolvm._program.image import Image as Image
    from pyrolvm._program.problem import Problem as Problem
    from pyrolvm._program.problem import model as model
    from pyrolvm._program.streaming import stream as stream
    from pyrolvm._results import LOO as LOO
    from pyrolvm._results import Chains as Chains
    from pyrolvm._results import Evidence as Evidence
    from pyrolvm._results import Exact as Exact
    from pyrolvm._results import Fit as Fit
    from pyrolvm._results import Posterior as Posterior
    from pyrolvm.family.guide import Guide as Guide
    from pyrolvm.family.registry import guide as guide
    from pyrolvm.family.registry import guides as guides
    from pyrolvm.family.registry import problem as problem
    from pyrolvm.family.registry import problems as problems


def __getattr__(name: str) -> Any:
    if name not in _HOME and name not in _MODULES:
        raise AttributeError(f"module 'pyrolvm' has no attribute {name!r}")
    with uncollected():
        if name in _MODULES:
            return import_module(f"pyrolvm.{name}")
        value = getattr(import_module(f"pyrolvm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
