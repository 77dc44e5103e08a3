"""An engine that can run nothing in this installation is said once, with its cause, and is a fault to the doctor."""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._capture import selfcheck
from pyrolvm._compat import nutpie
from pyrolvm._methods.fit.engines import choice

Y = torch.tensor([0.2, 1.0, 1.9, 2.4])
Break = pytest.MonkeyPatch


def model(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def reading(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    pyro.sample("y", dist.Normal(1.0 if mean > 0 else mean, 1.0).expand([4]).to_event(1), obs=y)


@pytest.fixture(autouse=True)
def a_few_steps_are_many(monkeypatch: Break) -> None:
    """So that engines are tried for short fits too."""
    monkeypatch.setattr(choice, "FEW_STEPS", 10)


def _fit(program: Any = model, **options: Any) -> lvm.Fit:
    words: dict[str, Any] = {"max_steps": 20, "tolerance": 0, "draws": 20, "progress": False}
    return lvm.fit(lvm.Problem(program, Y), "mean_field", **(words | options))


def _nuts(**options: Any) -> lvm.Chains:
    words: dict[str, Any] = {"warmup": 20, "draws": 10, "chains": 2, "precondition": "none", "progress": False}
    return lvm.nuts(lvm.Problem(model, Y), **(words | options))


# --- ways in which an installation is broken --------------------------------------------------------------------------


def _no_descriptor(patch: Break, _: Path) -> None:
    """A release of torch that moved what capture replaces."""

    def gone(apply: Any) -> Any:
        raise AttributeError("'builtin_function_or_method' object has no attribute '__func__'")

    patch.setattr("pyrolvm._capture.functions.function_applied_by", gone)


def _no_storage(patch: Break, _: Path) -> None:
    """A release of torch whose tensors do not tell any more which memory is theirs."""

    def gone(tensor: Tensor) -> int:
        raise AttributeError("'torch.storage.UntypedStorage' object has no attribute '_cdata'")

    patch.setattr("pyrolvm._capture.recorder.storage_key", gone)


def _no_dispatch(patch: Break, _: Path) -> None:
    """A release of torch whose modes are entered in another way."""

    def enter(mode: Any) -> Any:
        raise TypeError("__enter__() missing 1 required positional argument: 'key'")

    patch.setattr("pyrolvm._compat.torch.DispatchMode.__enter__", enter)


def _no_compiler(patch: Break, _: Path) -> None:
    patch.setenv("CC", "no-such-compiler")


def _failing_compiler(patch: Break, folder: Path) -> None:
    _script(folder / "cc", "echo 'cc: fatal error: math.h: no such file' >&2; exit 1")
    patch.setenv("CC", str(folder / "cc"))


def _lying_compiler(patch: Break, folder: Path) -> None:
    _script(folder / "cc", 'while [ "$1" != -o ]; do shift; done; echo "not a library" > "$2"')
    patch.setenv("CC", str(folder / "cc"))


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _no_jax(patch: Break, _: Path) -> None:
    patch.setitem(sys.modules, "jax", None)


def _failing_xla(patch: Break, _: Path) -> None:
    import jax

    def jit(*_: Any, **__: Any) -> Any:
        raise RuntimeError("INTERNAL: the processor has no vector unit")

    patch.setattr(jax, "jit", jit)


def _no_nutpie(patch: Break, _: Path) -> None:
    patch.setitem(sys.modules, "nutpie", None)


def _newer_nutpie(patch: Break, _: Path) -> None:
    nutpie.library()
    from nutpie.compiled_pyfunc import PyFuncModel

    patch.setattr(PyFuncModel, "_make_sampler", lambda self, settings, cores, store, universe: None)


CAPTURE = [
    pytest.param(_no_descriptor, "__func__", id="descriptor"),
    pytest.param(_no_storage, "no attribute '_cdata'", id="storage"),
    pytest.param(_no_dispatch, "argument: 'key'", id="dispatch"),
]
C = [
    pytest.param(_no_compiler, "'no-such-compiler' is not there", id="missing"),
    pytest.param(_failing_compiler, "math.h: no such file", id="failing"),
    pytest.param(_lying_compiler, "cannot load what it compiled", id="lying"),
]
JAX = [pytest.param(_no_jax, "import of jax halted", id="missing"), pytest.param(_failing_xla, "vector unit", id="xla")]
NUTPIE = [
    pytest.param(_no_nutpie, "import of nutpie halted", id="missing"),
    pytest.param(_newer_nutpie, "wants universe of its samplers", id="newer"),
]


# --- said once, with the cause ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("harm", "cause"), CAPTURE)
def test_where_nothing_can_be_captured_the_first_fit_says_so_once(
    harm: Any, cause: str, monkeypatch: Break, tmp_path: Path
) -> None:
    harm(monkeypatch, tmp_path)
    with pytest.warns(lvm.PyrolvmWarning, match=f"No model can be captured.*{cause}.*Fix: pip install") as said:
        fit = _fit()
    assert len(said) == 1
    assert said[0].filename == __file__
    assert fit.engine == "pyro" and cause in fit.engine_reason
    assert _fit().engine == "pyro"  # without another word


def test_nuts_and_exact_say_so_too(monkeypatch: Break, tmp_path: Path) -> None:
    _no_descriptor(monkeypatch, tmp_path)
    with pytest.warns(lvm.PyrolvmWarning, match=r"No model can be captured.*__func__"):
        assert _nuts().engine == "pyro"
    selfcheck.forget()
    with (
        pytest.warns(lvm.PyrolvmWarning, match=r"No model can be captured.*__func__"),
        pytest.raises(lvm.PyrolvmError),
    ):
        lvm.exact(lvm.Problem(model, Y))


@pytest.mark.parametrize(("harm", "cause"), C)
def test_where_c_compiles_nothing_the_first_fit_says_so_once(
    harm: Any, cause: str, monkeypatch: Break, tmp_path: Path
) -> None:
    harm(monkeypatch, tmp_path)
    with pytest.warns(
        lvm.PyrolvmWarning, match=f"Engine 'c'.*cannot compile anything.*{cause}.*Fix: install gcc"
    ) as said:
        fit = _fit()
    assert len(said) == 1
    assert fit.engine == "jax" and cause in fit.engine_reason
    assert _fit().engine == "jax"


@pytest.mark.parametrize(("harm", "cause"), JAX)
def test_where_xla_runs_nothing_the_first_fit_says_so_and_torch_runs(
    harm: Any, cause: str, monkeypatch: Break, tmp_path: Path
) -> None:
    harm(monkeypatch, tmp_path)
    monkeypatch.setattr(
        "pyrolvm._methods.fit.engines.torch_engine.TorchEngine._compiled", lambda self, plain, inputs: plain
    )
    with pytest.warns(lvm.PyrolvmWarning) as said:
        fit = _fit(engine="jax")
    first, second = (str(warning.message) for warning in said)
    assert first.startswith("Engine 'jax' cannot run anything") and cause in first and "Fix: pip install" in first
    assert second.startswith("engine 'jax' cannot run this fit, so engine 'torch' does")
    assert fit.engine == "torch"
    assert "cannot run anything" in fit.engine_reason and cause in fit.engine_reason


def test_without_jax_and_nutpie_chains_run_on_pyro(monkeypatch: Break, tmp_path: Path) -> None:
    _no_jax(monkeypatch, tmp_path)
    _no_nutpie(monkeypatch, tmp_path)
    with pytest.warns(lvm.PyrolvmWarning) as said:
        chains = _nuts()
    assert [str(w.message).split(" in this")[0] for w in said] == [
        "NUTS cannot run on nutpie, which is the fastest here,",
        "Engine 'jax' cannot run anything",
    ]
    assert chains.engine == "pyro" and "import of jax halted" in chains.engine_reason


@pytest.mark.parametrize(("harm", "cause"), NUTPIE)
def test_where_nutpie_cannot_run_numpyro_does_and_it_is_said_once(
    harm: Any, cause: str, monkeypatch: Break, tmp_path: Path
) -> None:
    harm(monkeypatch, tmp_path)
    with pytest.warns(
        lvm.PyrolvmWarning, match=f"NUTS cannot run on nutpie.*{cause}.*Fix: pip install 'nutpie"
    ) as said:
        chains = _nuts()
    assert len(said) == 1
    assert (chains.engine, chains.data["sample_stats"].attrs["kernel"]) == ("jax", "numpyro")
    with pytest.raises(lvm.ArgumentError, match=f"{cause}.*Fix: pip install 'nutpie"):
        _nuts(kernel="nutpie")


def test_a_cxx_that_is_missing_is_said_where_torch_cannot_compile(monkeypatch: Break) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")

    def failing(*_: Any, **__: Any) -> Any:
        def step(*_: Any) -> Any:
            raise RuntimeError("InvalidCxxCompiler")

        return step

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.warns(lvm.PyrolvmWarning, match=r"Engine 'torch' cannot compile.*no-such-compiler.*Fix: install g\+\+"):
        fit = _fit(engine="torch")
    assert fit.engine == "torch" and "operation by operation" in fit.engine_reason


# --- nothing is said where the model is the reason --------------------------------------------------------------------


def test_a_model_that_cannot_be_captured_is_no_fault_of_the_installation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _fit(reading).engine == "pyro"


def test_modes_and_contexts_around_a_refusal_are_no_fault_of_the_installation() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for context in (FakeTensorMode(), torch.device("meta"), torch.inference_mode(), torch.no_grad()):
            with context:
                assert selfcheck.works("capture")


def test_the_trial_touches_nobodys_random_numbers(untouched_rng: None) -> None:
    assert [part for part in ("capture", "c", "jax") if selfcheck.fault(part)] == []


# --- the doctor -------------------------------------------------------------------------------------------------------


def _doctor() -> tuple[int, dict[str, Any]]:
    from pyrolvm._cli import doctor

    class Out:
        rows: Any = ()
        lines: tuple[str, ...] = ()

        def table(self, rows: Any, head: Any) -> None:
            self.rows = rows

        def line(self, text: str, style: str = "") -> None:
            self.lines += (text,)

        def next(self, steps: Any) -> None:
            assert list(steps) == ["pyrolvm compare eight_schools"]

        def write_json(self, content: Any) -> None: ...

    out: Any = Out()
    code = doctor.run(Namespace(thorough=True, clear_cache=False), out, None)  # type: ignore[arg-type]
    assert len(out.lines) == sum(state == "broken" for _, state, _ in out.rows)
    return code, {what: (state, found) for what, state, found in out.rows}


ROWS = {"capture": CAPTURE, "engine c": C, "engine jax": JAX, "kernel nutpie": NUTPIE}


@pytest.mark.parametrize(
    ("row", "harm", "cause"),
    [
        pytest.param(row, *case.values, id=f"{row.split()[-1]}-{case.id}")
        for row, cases in ROWS.items()
        for case in cases
        if (row, case.id) not in {("engine jax", "missing"), ("kernel nutpie", "missing")}  # of packages, too
    ],
)
def test_the_doctor_shows_a_fault_with_its_cause(
    row: str, harm: Any, cause: str, monkeypatch: Break, tmp_path: Path
) -> None:
    harm(monkeypatch, tmp_path)
    monkeypatch.setattr("pyrolvm._cli.doctor._packages", lambda thorough: [])
    monkeypatch.setattr("pyrolvm._cli.doctor._plugins", lambda thorough: [])
    code, rows = _doctor()
    assert code == 1
    state, found = rows[row]
    assert state == "broken" and cause in found and "Fix:" in found
    assert [what for what, (state, _) in rows.items() if state == "broken"] == [row]


def test_the_doctor_finds_every_engine_sound_here(monkeypatch: Break) -> None:
    monkeypatch.setattr("pyrolvm._cli.doctor._packages", lambda thorough: [])
    monkeypatch.setattr("pyrolvm._cli.doctor._plugins", lambda thorough: [])
    code, rows = _doctor()
    assert code == 0
    names = {"capture", "engine c", "engine jax", "engine torch", "kernel nutpie", "kernel numpyro"}
    assert {what: rows[what][0] for what in names} == dict.fromkeys(names, "ok")
