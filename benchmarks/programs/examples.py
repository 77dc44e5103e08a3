"""What each example file of a checkout of Pyro holds: its models and guides with small data, made here or by the file itself.

The files are loaded as they are. What they import besides Pyro for pictures, downloads or clusters is not needed by their models and
is replaced by empty modules.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

__all__ = ["EXAMPLES", "Program", "load"]


@dataclass(frozen=True)
class Program:
    """A model with its arguments, and the guide that the file gives it, if any."""

    name: str
    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    guide: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


Build = Callable[[Any], list[Program]]


class _Anything(types.ModuleType):
    """A module that has whatever is asked of it: classes that do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _Finder:
    """Finds modules that are not installed and that no model needs."""

    ROOTS = (
        "wget",
        "visdom",
        "torchvision",
        "seaborn",
        "lightning",
        "horovod",
        "scanpy",
        "anndata",
        "sklearn.manifold",
    )

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not any(name == root or name.startswith(root + ".") for root in self.ROOTS):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


@contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Lets a file import its neighbours, and forgets them afterwards, since other files have neighbours of the same names."""
    finder, before, dtype = _Finder(), set(sys.modules), torch.get_default_dtype()
    sys.path.insert(0, str(folder))
    sys.meta_path.append(finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if origin.startswith(str(folder)) or isinstance(sys.modules[name], _Anything):
                del sys.modules[name]


def load(checkout: Path, file: str) -> Any:
    """The module of an example file."""
    path = checkout / "examples" / file
    with _importing(path.parent):
        spec = importlib.util.spec_from_file_location("example_" + file.removesuffix(".py").replace("/", "_"), path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
    return module


# --- data -------------------------------------------------------------------------------------------------------------


SCHOOLS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
"""Effects of coaching in eight schools, and their standard errors: Rubin (1981)."""


def _images(rows: int, *shape: int) -> Tensor:
    return torch.bernoulli(torch.full((rows, *shape), 0.2))


def _baseball(m: Any) -> list[Program]:
    at_bats, hits = (
        torch.full((18,), 45.0),
        torch.tensor([18.0, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7]),
    )
    names = ("fully_pooled", "not_pooled", "partially_pooled", "partially_pooled_with_logit")
    return [Program(name, getattr(m, name), (at_bats, hits)) for name in names]


def _capture(m: Any) -> list[Program]:
    seen = torch.bernoulli(torch.full((30, 5), 0.5))
    seen[:, 0] = 1.0
    sex = torch.bernoulli(torch.full((30,), 0.5))
    return [Program(f"model_{i}", m.models[str(i)], (seen, sex)) for i in range(1, 6)]


def _hmm(m: Any) -> list[Program]:
    sequences, lengths = torch.bernoulli(torch.full((4, 5, 6), 0.3)), torch.tensor([5, 4, 5, 3])
    args = SimpleNamespace(
        hidden_dim=4, jit=False, nn_dim=5, nn_channels=2, raftery_parameterization=False, batch_size=None
    )
    return [Program(f"model_{name}", model, (sequences, lengths, args)) for name, model in m.models.items()]


def _lda(m: Any) -> list[Program]:
    args = SimpleNamespace(
        num_topics=3, num_words=20, num_docs=12, num_words_per_doc=8, layer_sizes="10", batch_size=None
    )
    data = torch.randint(20, (8, 12))
    return [Program("model", m.model, (data, args), partial(m.parametrized_guide, m.make_predictor(args)))]


def _mixed_hmm(m: Any) -> list[Program]:
    sizes = {"state": 2, "random": 2, "group": 2, "individual": 3, "timesteps": 4}
    observed = {name: torch.rand(3, 2, 4) * 0.8 + 0.1 for name in ("step", "angle", "omega")}

    def config(group: str, individual: str) -> dict[str, Any]:
        return {
            "MISSING": 1e-6, "sizes": sizes, "group": {"random": group, "fixed": None},
            "individual": {"random": individual, "fixed": None, "mask": torch.ones(3, 2, dtype=torch.bool)},
            "timestep": {"random": None, "fixed": None, "mask": torch.ones(3, 2, 4, dtype=torch.bool)}, "observations": observed,
        }  # fmt: skip

    pairs = [("none", "none"), ("discrete", "discrete"), ("continuous", "continuous")]
    return [
        Program(f"{g} {i}", m.model_generic, (config(g, i),), m.guide_generic if "continuous" in (g, i) else None)
        for g, i in pairs
    ]


def _sir(m: Any) -> list[Program]:
    m.args = args = SimpleNamespace(population=10, recovery_time=3.0, dct=None)  # the file reads a global of its own
    data = torch.tensor([1.0, 2.0, 1.0, 0.0])
    names = ("continuous_model", "vectorized_model", "reparameterized_discrete_model", "discrete_model")
    return [Program(name, getattr(m, name), (args, data)) for name in names]


def _dmm(m: Any) -> list[Program]:
    net = m.DMM(input_dim=5, z_dim=2, emission_dim=4, transition_dim=4, rnn_dim=6)
    rows, lengths = torch.bernoulli(torch.full((6, 4, 5), 0.3)), torch.full((6,), 4)
    backwards = torch.nn.utils.rnn.pack_padded_sequence(rows.flip(1), lengths, batch_first=True)
    return [Program("model", net.model, (rows, backwards, torch.ones(6, 4), lengths), net.guide)]


def _ss_vae(m: Any) -> list[Program]:
    net = m.SSVAE(z_dim=3, hidden_layers=[8], input_size=12, output_size=3, config_enum="parallel")
    x, y = _images(20, 12), torch.eye(3)[torch.randint(3, (20,))]
    return [
        Program("supervised", net.model, (x, y), net.guide),
        Program("unsupervised", net.model, (x,), net.guide),
        Program("classify", net.model_classify, (x, y), net.guide_classify),
    ]


def _scanvi(m: Any) -> list[Program]:
    net = m.SCANVI(7, 3, l_loc=2.0, l_scale=0.5, latent_dim=3)
    counts, labels = torch.poisson(torch.full((16, 7), 3.0)), torch.eye(3)[torch.randint(3, (16,))]
    return [
        Program("labelled", net.model, (counts, labels), net.guide),
        Program("unlabelled", net.model, (counts,), net.guide),
    ]


def _cvae(m: Any) -> list[Program]:
    baseline = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 784), torch.nn.Sigmoid())
    baseline.view = None
    net = m.CVAE(5, 10, 10, baseline)
    y = _images(6, 28, 28)
    x = y.clone()
    x[:, 14:] = -1
    return [Program("model", net.model, (x, y), net.guide)]


def _air(m: Any) -> list[Program]:
    net = m.AIR(2, 12, 6, 4, 8, [8], [8], [8], [8], bl_predict_net=[8], decoder_output_bias=-2, likelihood_sd=0.3)
    return [Program("model", net.model, (torch.rand(6, 12, 12), 6), net.guide)]


def _sparse_gamma(m: Any) -> list[Program]:
    net = m.SparseGammaDEF()
    net.top_width, net.mid_width, net.bottom_width, net.image_size = 4, 3, 2, 9
    x = torch.poisson(torch.full((5, 9), 2.0))
    return [Program("model", net.model, (x,), net.guide), Program("easy guide", net.model, (x,), m.MyEasyGuide)]


def _sparse_regression(m: Any) -> list[Program]:
    x = torch.randn(20, 3)
    hypers = {name: 1.0 for name in ("beta1", "beta2", "alpha3", "c")}
    hypers |= {"expected_sparsity": 2.0, "alpha1": 3.0, "alpha2": 3.0}
    return [Program("model", m.model, (x, x[:, 0] + 0.1 * torch.randn(20), hypers))]


def _linear(m: Any) -> list[Program]:
    x = torch.randn(30)
    return [Program("Model", m.Model(30), (x, 1 + 2 * x + 0.3 * torch.randn(30)))]


def _forecast(m: Any) -> list[Program]:
    return [Program("Model", m.Model(), (torch.randn(24, 2), torch.zeros(24, 0)), options={"max_steps": 200})]


def _epidemic(m: Any) -> list[Program]:
    data = torch.tensor([0.0, 1.0, 2.0, 3.0, 2.0, 1.0])
    base = {
        "heterogeneous": False, "incubation_time": 0, "overdispersion": 0.0, "concentration": math.inf, "population": 50,
        "recovery_time": 5.0,
    }  # fmt: skip
    kinds = {
        "simple": {}, "overdispersed": {"overdispersion": 0.2}, "superspreading": {"concentration": 0.5},
        "seir": {"incubation_time": 2.0},
    }  # fmt: skip
    found = [(name, m.Model(SimpleNamespace(**{**base, **more}), data)) for name, more in kinds.items()]
    return [Program(name, _relaxed(model)) for name, model in found]


def _relaxed(model: Any) -> Callable[[], None]:
    """The continuous model that the file's class samples from; the class has no public name for it."""
    model.relaxed, model.num_quant_bins = True, 1

    def relaxed() -> None:
        model._clear_plates()
        model._relaxed_model()

    return relaxed


def _biosequences(kind: str) -> Build:
    def build(m: Any) -> list[Program]:
        rows = torch.eye(4)[torch.randint(4, (5, 6))]
        if kind == "ProfileHMM":
            net = m.ProfileHMM(7, 4)
            return [Program("model", net.model, (rows, torch.tensor(1.0)), net.guide)]
        net = m.FactorMuE(6, 4, 2, latent_seq_length=7)
        return [Program("model", net.model, (rows, torch.tensor(1.0), torch.tensor(1.0)), net.guide)]

    return build


def _cevae(m: Any) -> list[Program]:
    x, t, y, _ = m.generate_data(SimpleNamespace(num_data=30, feature_dim=3, cuda=False))
    net = m.CEVAE(feature_dim=3, latent_dim=2, hidden_dim=6, num_layers=2, num_samples=1)
    net.whiten = None
    return [Program("model", net.model, (x, t, y), net.guide)]


def _designs(m: Any) -> list[Program]:
    design = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(5, 1), torch.tensor([[0.0, 1.0]]).repeat(5, 1)])
    return [Program("model", m.model, (design,))]


def _clusters(m: Any) -> list[Program]:
    return [Program("model", m.model, (torch.tensor([0.0, 1.0, 2.0, 20.0, 30.0, 40.0]), 2), m.guide)]


def _scoped(m: Any) -> list[Program]:
    return [
        Program("model", partial(m.model, 2), (torch.tensor([0.0, 1.0, 2.0, 20.0, 30.0, 40.0]),), partial(m.guide, 2))
    ]


def _tree(m: Any) -> list[Program]:
    one = torch.tensor(1.0)
    data = {"foo": one, "bar": [0 * one, one, 2 * one], "baz": {"noun": {"a": 4 * one, "b": 6 * one}, "verb": 2 * one}}
    return [Program("model", m.model, (data,), m.guide)]


def _toy(m: Any) -> list[Program]:
    prior, _, data = m.generate_data(12)
    data = dict(data, B=None)
    return [Program("model", m.model, (prior, data, 12), getattr(m, "guide", None))]


def _eight_schools(m: Any) -> list[Program]:
    from pyro import poutine

    return [Program("model", poutine.condition(m.model, data={"obs": SCHOOLS}), (ERRORS,))]


def _vae(m: Any) -> list[Program]:
    net = m.VAE(z_dim=3, hidden_dim=10)
    return [Program("model", net.model, (_images(20, 784),), net.guide)]


def _vae_comparison(m: Any) -> list[Program]:
    net = SimpleNamespace(vae_encoder=m.Encoder(), vae_decoder=m.Decoder())
    return [Program("model", partial(m.PyroVAEImpl.model, net), (_images(20, 784),), partial(m.PyroVAEImpl.guide, net))]


def _harmonic(m: Any) -> list[Program]:
    model, y = m.SimpleHarmonicModel(0.3, 0.3), torch.tensor([1.0, 0.2, -0.8, -0.9])

    def unrolled(y: Tensor) -> None:
        state: dict[str, Any] = {}
        model.init(state, initial=torch.tensor([1.0, 0.0]))
        for value in y:
            model.step(state, value)

    return [Program("steps", unrolled, (y,))]


def _one(*args: Callable[[], Any], guide: str | None = None, name: str = "model") -> Build:
    """The build of a file with a function ``model`` and fixed arguments."""

    def build(m: Any) -> list[Program]:
        return [Program(name, getattr(m, name), tuple(make() for make in args), getattr(m, guide) if guide else None)]

    return build


EXAMPLES: dict[str, Build] = {
    "air/air.py": _air,
    "baseball.py": _baseball,
    "capture_recapture/cjs.py": _capture,
    "contrib/autoname/mixture.py": _clusters,
    "contrib/autoname/scoping_mixture.py": _scoped,
    "contrib/autoname/tree_data.py": _tree,
    "contrib/cevae/synthetic.py": _cevae,
    "contrib/epidemiology/sir.py": _epidemic,
    "contrib/forecast/bart.py": _forecast,
    "contrib/funsor/hmm.py": _hmm,
    "contrib/mue/FactorMuE.py": _biosequences("FactorMuE"),
    "contrib/mue/ProfileHMM.py": _biosequences("ProfileHMM"),
    "contrib/oed/ab_test.py": _designs,
    "cvae/cvae.py": _cvae,
    "dmm.py": _dmm,
    "eight_schools/mcmc.py": _eight_schools,
    "eight_schools/svi.py": _one(lambda: torch.stack([SCHOOLS, ERRORS], dim=1), guide="guide"),
    "hmm.py": _hmm,
    "inclined_plane.py": _one(lambda: torch.full((3,), 1.0) + 0.02 * torch.randn(3)),
    "lda.py": _lda,
    "lkj.py": _one(lambda: torch.randn(40, 3, dtype=torch.float64)),
    "mixed_hmm/model.py": _mixed_hmm,
    "neutra.py": _one(lambda: torch.tensor(1.15), lambda: torch.tensor(1.0)),
    "scanvi/scanvi.py": _scanvi,
    "sir_hmc.py": _sir,
    "smcfilter.py": _harmonic,
    "sparse_gamma_def.py": _sparse_gamma,
    "sparse_regression.py": _sparse_regression,
    "svi_horovod.py": _linear,
    "svi_lightning.py": _linear,
    "svi_torch.py": _linear,
    "toy_mixture_model_discrete_enumeration.py": _toy,
    "vae/ss_vae_M2.py": _ss_vae,
    "vae/vae.py": _vae,
    "vae/vae_comparison.py": _vae_comparison,
}
"""By file, below ``examples/``."""
