"""What every public function does around itself: words of other libraries get a hint, and the caller's contexts stay outside."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import ArgumentError, PyrolvmWarning
from pyrolvm._compat.torch import writes_into

__all__ = ["KeywordError", "belongs_to", "verb"]

P = ParamSpec("P")
R = TypeVar("R")


class KeywordError(ArgumentError, TypeError):
    """A call has an argument that the function does not take."""


_WORDS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "rate", "step_size", "eta", "init_lr"),
    "max_steps": (
        "num_steps", "steps", "n_steps", "epochs", "num_epochs", "n_epochs", "max_epochs", "iterations", "num_iterations", "n_iter",
        "niter", "iter", "iters", "num_iters", "max_iter", "maxiter", "max_iterations", "num_svi_steps", "n",
    ),
    "draws": (
        "num_samples", "n_samples", "samples", "num_draws", "n_draws", "iter_sampling", "num_posterior_samples", "posterior_samples",
        "sample_size", "num_results", "output_samples",
    ),
    "warmup": (
        "num_warmup", "n_warmup", "warmup_steps", "tune", "n_tune", "iter_warmup", "burn_in", "burnin", "burn", "num_burnin_steps",
        "adapt", "n_adapt",
    ),
    "chains": ("num_chains", "n_chains", "nchains", "parallel_chains"),
    "num_particles": ("particles", "n_particles", "num_elbo_particles", "mc_samples", "num_mc_samples", "obj_n_mc"),
    "particles": ("num_particles", "n_particles", "draws", "num_samples", "n_samples", "samples", "num_draws", "n_draws"),
    "islands": ("chains", "num_chains", "n_chains"),
    "start": ("init", "base", "proposal"),
    "batch_size": ("batch", "batchsize", "minibatch", "minibatch_size", "bs", "subsample_size"),
    "target_accept": ("target_accept_prob", "adapt_delta", "accept_prob", "target_acceptance", "delta"),
    "max_tree_depth": ("max_treedepth", "treedepth", "max_depth", "tree_depth"),
    "dense_mass": ("full_mass", "dense", "metric", "mass_matrix"),
    "seed": ("random_seed", "random_state", "rng", "rng_key", "key", "rng_seed", "generator", "prng_key"),
    "optimizer": ("optim", "optimiser", "opt"),
    "objective": ("loss", "elbo", "loss_fn", "obj", "criterion"),
    "guide": ("method", "family", "approx", "approximation", "variational_family", "autoguide", "q"),
    "progress": ("progress_bar", "progressbar", "verbose", "show_progress", "disable_progbar", "quiet", "show_progressbar", "refresh"),
    "init": ("initvals", "init_params", "inits", "init_strategy", "init_loc_fn", "initial_params", "init_values", "start"),
    "out": ("output", "path", "filename", "file", "folder", "output_dir", "save", "save_dir", "checkpoint_dir", "logdir"),
    "device": ("accelerator", "use_cuda", "cuda", "gpu", "gpus", "devices", "use_gpu"),
    "dtype": ("precision", "double", "float64"),
    "clip_norm": ("clip", "grad_clip", "gradient_clip_val", "max_norm", "max_grad_norm"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule"),
    "tolerance": ("tol", "tol_rel_obj", "rtol", "eps", "convergence"),
    "validation": ("validation_data", "val_data", "val", "x_val", "test_data", "validation_set", "eval_set"),
    "patience": ("early_stopping", "early_stop"),
    "budget": ("timeout", "max_time", "time_limit", "max_seconds"),
    "callbacks": ("callback", "hooks"),
    "workers": ("cores", "num_workers", "n_jobs", "num_processes", "nproc"),
    "problem": ("model", "posterior"),
}  # fmt: skip

_FOREIGN = frozenset(word for words in _WORDS.values() for word in words) - _WORDS.keys()

_HINTS = {
    ("epochs", "num_epochs", "n_epochs", "max_epochs"): "a step takes a batch of rows, so that an epoch has rows / batch_size steps",
    ("cores", "num_workers", "n_jobs", "num_processes", "nproc", "parallel_chains"): (
        "the processor's cores are used without being told"
    ),
    ("data", "x", "y", "X", "obs", "args", "dataset", "dataloader", "train_data", "loader", "df"): (
        "data go to the problem, together with the model: lvm.Problem(model, x, y)"
    ),
    ("guide", "init_strategy"): "chains start from a fitted guide with init=fit, where the function takes init",
}  # fmt: skip


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function one that users call.

    An argument that it does not take is an error that knows what other libraries call things. Contexts that are open around the
    call, such as ``torch.no_grad`` or autocast, stay outside. Data of a problem that are changed in place by the call are named.
    """
    signature = inspect.signature(function)
    forwards = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _refused(function.__name__, signature, args, kwargs, error) from None
        foreign = [key for key in kwargs if key not in signature.parameters and key in _FOREIGN] if forwards else []
        if foreign:
            raise KeywordError(_unknown(function.__name__, foreign[0], [*signature.parameters, *_WORDS]))
        data = _versions(args[0] if args else kwargs.get("problem"))
        with runtime.undisturbed():
            found = function(*args, **kwargs)
        for name, (tensor, version) in data.items():
            if writes_into(tensor) != version:
                warnings.warn(
                    f"argument {name!r} was changed in place while {function.__name__} ran, so that the density was not the same "
                    "throughout. Fix: let the model work on a copy, such as x = x.clone().",
                    PyrolvmWarning,
                    stacklevel=2,
                )
        return found

    return call


def belongs_to(value: object) -> str:
    """What a value of another library, or one in the wrong place, is and where it should go; empty where there is nothing to say."""
    root = type(value).__module__.partition(".")[0]
    if root in _LIBRARIES:
        return f"it is of {_LIBRARIES[root][0]}: {_LIBRARIES[root][1]}"
    if isinstance(value, str) and value.endswith((".stan", ".bug", ".bugs", ".jags")):
        return f"{value!r} is a program in another language: write the model as a Pyro function"
    if type(value).__name__ == "DataLoader" or root in ("datasets",):
        return "a loader's batches are read as columns of a stream: lvm.Problem(model, *lvm.stream(loader))"
    if (
        isinstance(value, Tensor)
        or hasattr(value, "__array__")
        or hasattr(value, "columns")
        or isinstance(value, list | dict)
    ):
        return "data go to the problem, together with the model: lvm.Problem(model, x, y)"
    if value is None:
        return "it may be the result of a call: pass the function itself, model and not model(x)"
    return ""


_PYRO = "write the model with pyro.sample and pyro.distributions, which differ little"
_LIBRARIES = {
    "numpyro": ("NumPyro", _PYRO),
    "pymc": ("PyMC", "write the model as a Pyro function, with pyro.sample for each variable"),
    "pytensor": ("PyMC", "write the model as a Pyro function, with pyro.sample for each variable"),
    "pymc3": ("PyMC", "write the model as a Pyro function, with pyro.sample for each variable"),
    "tensorflow_probability": ("TensorFlow Probability", _PYRO),
    "cmdstanpy": ("Stan", "write the model as a Pyro function"),
    "stan": ("Stan", "write the model as a Pyro function"),
    "pystan": ("Stan", "write the model as a Pyro function"),
    "bambi": ("Bambi", "write the model as a Pyro function"),
    "jax": ("JAX", "write the model with torch and pyro.distributions; it runs on JAX by itself where that pays"),
    "jaxlib": ("JAX", "write the model with torch and pyro.distributions; it runs on JAX by itself where that pays"),
    "tensorflow": ("TensorFlow", "write the model with torch and pyro.distributions"),
}


def library_in(files: list[str]) -> str | None:
    """The library that is not Pyro whose code an error passed through, and what to do, from the files of its frames."""
    for file in files:
        parts = file.replace("\\", "/").split("/")
        for root, (name, remedy) in _LIBRARIES.items():
            if root in parts and ("site-packages" in parts or "dist-packages" in parts):
                return f"the program runs into {name}: {remedy}."
    return None


def _refused(
    name: str, signature: inspect.Signature, args: Any, kwargs: Mapping[str, Any], error: TypeError
) -> KeywordError:
    known = list(signature.parameters)
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        return KeywordError(_unknown(name, unknown[0], known))
    if len(args) > sum(p.kind is not p.KEYWORD_ONLY for p in signature.parameters.values()):
        if args and callable(args[0]):
            model = getattr(args[0], "__name__", "model")
            return KeywordError(
                f"lvm.{name} takes a problem, got the function {model!r} and {len(args) - 1} arguments more. Fix: put the "
                "model and its data "
                f"together, lvm.{name}(lvm.Problem({model}, *data))."
            )
        names = [p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        return KeywordError(
            f"lvm.{name} takes {', '.join(names) or 'nothing'} by position, got {len(args)} arguments. Fix: name the "
            "others; data go to "
            "the problem, lvm.Problem(model, *data)."
        )
    return KeywordError(f"lvm.{name}: {error}. Fix: it takes {', '.join(known)}.")


def _unknown(name: str, key: str, known: list[str]) -> str:
    return f"lvm.{name} takes no argument {key!r}. Fix: {_advice(key, known)}."


def _advice(key: str, known: list[str]) -> str:
    hint = next((text for words, text in _HINTS.items() if key in words), "")
    ours = [word for word, words in _WORDS.items() if word in known and key in words]
    if ours:
        return f"pass {ours[0]}=, as it is called here" + (f"; {hint}" if hint else "")
    if hint:
        return hint
    near = difflib.get_close_matches(key, known, n=2, cutoff=0.6)
    if near:
        return "pass " + " or ".join(f"{word}=" for word in near)
    elsewhere = next((word for word, words in _WORDS.items() if key == word or key in words), "")
    if elsewhere:
        return f"leave it out: this function has no {elsewhere}. It takes {', '.join(known)}"
    return f"use one of {', '.join(known)}"


def _versions(problem: object) -> dict[str, tuple[Tensor, int]]:
    """The tensors of a problem with how often each was changed in place."""
    arguments = getattr(problem, "arguments", None)
    if not isinstance(arguments, Mapping):
        return {}
    return {
        name: (v, writes_into(v)) for name, v in arguments.items() if isinstance(v, Tensor) and not v.is_inference()
    }
