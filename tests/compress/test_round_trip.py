"""Rows come back to the bit, at the rate that their bound says; what is damaged or of another model is refused."""

from __future__ import annotations

import dataclasses
import math
import random
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._check.compress import stack as stacks
from pyrolvm._check.compress.container import packed, unpacked
from pyrolvm._check.compress.inference import compressed

PIXELS, LATENT, TRAINED, NEW = 12, 2, 60, 90


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    stripes = torch.arange(PIXELS) % 4 < 2
    which = torch.rand(count, 1, generator=generator) < 0.5
    noise = torch.rand(count, PIXELS, generator=generator) < 0.1
    return ((stripes ^ which) ^ noise).float()


def model(x, decoder):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Linear(LATENT, PIXELS)


def fitted(seed=0, guide="amortized"):
    problem = lvm.Problem(model, images(TRAINED, 0), network())
    return lvm.fit(problem, guide, max_steps=30, tolerance=0, draws=2, engine="pyro", seed=seed, progress=False)


@pytest.fixture(scope="module")
def fit():
    return fitted()


@pytest.fixture(scope="module")
def found(fit):
    return compressed(fit, images(NEW, 1))


def test_rows_come_back_at_the_rate_of_their_bound(fit, found):
    x = images(NEW, 1)
    assert torch.equal(lvm.decompress(fit, found.blob), x)
    assert found.blob == lvm.compress(fit, {"x": x})  # the same rows, the same file
    assert found.net_bits == pytest.approx(found.bound_bits, abs=8)
    assert found.initial_bits <= 32 * 6


def test_the_caller_keeps_his_threads_and_dtype(fit):
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state()
    lvm.compress(fit, images(3, 1), check=False)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_damaged_files_are_refused(fit, found):
    whole, chance = found.blob, random.Random(0)
    for _ in range(1_000):
        bad = bytearray(whole)
        kind = chance.randrange(3)
        if kind == 0:
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del bad[chance.randrange(len(bad)) :]
        else:
            start = chance.randrange(len(bad))
            bad[start : start + 9] = chance.randbytes(9)
        if bytes(bad) == whole:
            continue
        with pytest.raises((lvm.DataError, lvm.StoreError)):
            unpacked(bytes(bad))
    with pytest.raises(lvm.StoreError, match="damaged"):
        lvm.decompress(fit, whole[:-1])


def test_another_model_is_refused(found):
    with pytest.raises(lvm.DataError, match="digest"):
        lvm.decompress(fitted(seed=1), found.blob)


def test_other_last_digits_are_told_and_give_no_rows(fit, found, monkeypatch):
    words = stacks.initial_words
    monkeypatch.setattr("pyrolvm._check.compress.inference.initial_words", lambda count: words(count) + 1)
    with pytest.raises(lvm.StoreError, match="other last digits"):
        lvm.decompress(fit, found.blob)


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        (lambda: images(4, 1)[:, :5], lvm.DataError, "x"),
        (lambda: images(4, 1) * 0.5 + 0.25, lvm.PyrolvmError, "x"),
        (lambda: {"y": images(4, 1)}, lvm.ArgumentError, "'y'"),
        (lambda: images(4, 1)[:0], lvm.DataError, "empty"),
        (lambda: images(4, 1) / 0, lvm.DataError, "non-finite"),
        (lambda: -images(4, 1), lvm.DataError, "support"),
        (lambda: images(4, 1).to(torch.complex64), lvm.DataError, "complex"),
        (lambda: ["a"], lvm.DataError, "must be a Tensor"),
    ],
)
def test_rows_that_the_model_does_not_take_are_refused(fit, rows, error, says):
    with pytest.raises(error, match=says):
        lvm.compress(fit, rows())


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, np.bool_])
def test_whole_numbers_of_any_type_come_back_as_the_fit_has_them(fit, kind):
    x = images(4, 1)
    rows = x.to(kind) if isinstance(kind, torch.dtype) else x.numpy().astype(kind)
    assert torch.equal(lvm.decompress(fit, lvm.compress(fit, rows)), x)


def test_fits_that_went_wrong_are_refused_or_coded_without_loss(fit):
    def times(factor):
        trained = {name: value * factor for name, value in fit.params.items() if not name.startswith("buffer:")}
        return dataclasses.replace(fit, params={**fit.params, **trained})

    with pytest.raises(lvm.ArgumentError, match=r"values that are not finite.*Fix: "):
        lvm.compress(times(math.nan), images(4, 1))
    large = times(1e6)  # sds of zero, probabilities of zero
    assert torch.equal(lvm.decompress(large, lvm.compress(large, images(4, 1))), images(4, 1))
    stack = stacks.Stack(stacks.initial_words(8))
    with pytest.raises(lvm.DataError, match=r"not finite.*Fix: "):
        stack.coins(np.array([math.nan]))


def test_a_file_of_a_stack_that_no_coder_leaves_is_refused(fit, found):
    header, words = unpacked(found.blob)
    with pytest.raises(lvm.StoreError, match=r"zero.*Fix: "):
        lvm.decompress(fit, packed(header, np.append(words, 0)))


def test_guides_of_rows_by_number_real_data_and_other_results_are_refused(fit):
    with pytest.raises(lvm.GuideError, match="knows no others"):
        lvm.compress(fitted(guide="mean_field"), images(4, 1))
    with pytest.raises(lvm.ArgumentError, match=r"expected what lvm\.fit returns"):
        lvm.compress(dataclasses.replace, images(4, 1))  # type: ignore[arg-type]
    with pytest.raises(lvm.DataError, match=r"lvm\.compress"):
        lvm.decompress(fit, b"PK\x03\x04")


def test_without_the_library_the_error_names_it(fit, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(lvm.ArgumentError, match=r"pip install 'pyrolvm\[compress\]'"):
        lvm.compress(fit, images(4, 1))


# --- the zoo ----------------------------------------------------------------------------------------------------------

ZOO = {
    "vae": ("vae", {}),
    "vae vamp": ("vae", {"prior": "vamp"}),
    "vae full_rank": ("vae", {"posterior": "full_rank"}),
    "vae levels": ("vae", {"likelihood": "logistic"}),
    "vae neighbours": ("vae", {"likelihood": "neighbours"}),
    "ladder": ("ladder_vae", {}),
    "bottom_up": ("ladder_vae", {"inference": "bottom_up"}),
    "discrete": ("discrete_vae", {}),
    "autoregressive": ("autoregressive_vae", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_digits_that_no_fit_has_seen_come_back(name):
    problem, options = ZOO[name]
    fit = lvm.fit(
        lvm.problem(problem, **options),
        batch_size=64,
        num_particles=1,
        max_steps=200,
        tolerance=0,
        draws=20,
        learning_rate=3e-3,
        progress=False,
    )
    test = lvm.problem(problem, split="test", **options)
    found = compressed(fit, test)
    assert torch.equal(lvm.decompress(fit, found.blob), test.args[0])
    assert found.net_bits == pytest.approx(found.bound_bits, rel=0.001)
    elbo = lvm.evaluate(fit, test, draws=50, progress=False, pictures=False).table.value["ELBO"]
    assert found.net_bits == pytest.approx(-len(test.args[0]) * elbo / math.log(2), rel=0.01)  # one draw a row


SEQUENCES = {
    "made": ("made", {"hidden": 64}),
    "pixels": ("gated_pixel_cnn", {"channels": 4, "layers": 2}),
    "recurrent": ("recurrent_text", {"hidden": 16, "length": 16}),
    "flow": ("discrete_flow", {"hidden": 32}),
    "bipartite flow": ("discrete_flow", {"hidden": 32, "kind": "bipartite", "layers": 3}),
    "wavenet": ("wavenet", {"channels": 8, "layers": 3, "length": 16}),
    "transformer": ("transformer_text", {"width": 16, "heads": 2, "layers": 1, "length": 16}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQUENCES)
def test_what_is_coded_element_after_element_comes_back_at_the_rate_of_its_density(name):
    problem, options = SEQUENCES[name]
    whole = lvm.problem(problem, **options)
    x = whole.args[0]
    fit = lvm.fit(whole, batch_size=64, max_steps=20, tolerance=0, draws=2, engine="pyro", progress=False)
    found = compressed(fit, x[:300])
    assert torch.equal(lvm.decompress(fit, found.blob), x[:300])
    log_p = lvm.evaluate(fit, x[:300], draws=2, progress=False, pictures=False).table.value["log p(x)"]
    assert found.initial_bits == 0
    assert found.net_bits == pytest.approx(-300 * log_p / math.log(2), rel=0.005, abs=40)


@pytest.mark.slow
def test_another_process_with_other_threads_decodes_it(tmp_path):
    fit = lvm.fit(
        lvm.problem("vae"), batch_size=64, num_particles=1, max_steps=100, tolerance=0, draws=2, progress=False,
        out=tmp_path / "run",
    )  # fmt: skip
    test = lvm.problem("vae", split="test").args[0]
    (tmp_path / "x").write_bytes(lvm.compress(fit, test, check=False))
    code = (
        "import sys, torch, pyrolvm as lvm; torch.set_num_threads(int(sys.argv[1])); fit = lvm.load('run')\n"
        "x = lvm.decompress(fit, open('x', 'rb').read()); test = lvm.problem('vae', split='test').args[0]\n"
        "assert torch.equal(x, test); assert lvm.compress(fit, test, check=False) == open('x', 'rb').read()"
    )
    for threads in "12":
        subprocess.run([sys.executable, "-c", code, threads], cwd=tmp_path, check=True)
