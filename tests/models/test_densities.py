"""Models with a density and no latents: flows, autoregressive models of images and text; and a GAN, which has none."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import autoregressive, flows, gan, sequences
from pyrolvm_models.discrete_flow import DiscreteFlow
from pyrolvm_models.invertible import (
    ActNorm,
    Affine,
    Block,
    Chain,
    ConvolutionalNetwork,
    Coupling,
    Inverted,
    InvertibleLinear,
    Logit,
    MaskedAutoregressive,
    Mixture,
    MultilayerPerceptron,
    MultiScale,
    Permutation,
    Reshape,
    Spline,
    Squeeze,
    initialize,
)  # fmt: skip
from pyrolvm_models.likelihoods import bits_per_dimension, dequantize
from tests import zoo

NAMES = zoo.names(lambda kind: not kind.latents)
"""Every registered problem without latents."""


@cache
def small(name: str) -> lvm.Problem:
    """A registered problem on few rows."""
    rows = "lines" if name in ("recurrent_text", "transformer_text", "wavenet") else "images"
    return lvm.problem(name, **{rows: 24})


@pytest.mark.parametrize("name", NAMES)
def test_every_one_is_fitted_drawn_from_and_given_back(name: str) -> None:
    problem = small(name)
    fit = lvm.fit(problem, engine="pyro", max_steps=4, learning_rate=1e-4, progress=False)
    assert math.isfinite(fit.log_p.item())
    drawn = torch.as_tensor(fit.sample(2)["x"].values)[0]
    assert drawn.shape == (2, *problem.arguments["x"].shape[1:])
    module = fit.module()
    with torch.no_grad():
        rows: Tensor = module.log_prob(problem.arguments["x"])  # type: ignore[operator]
    assert rows.shape == (24,)
    assert float(rows.sum()) == pytest.approx(fit.log_p.item(), rel=1e-4)
    site = problem.sites["x"]
    assert bool(site.support.check(drawn).all())


@pytest.mark.parametrize("name", NAMES)
def test_building_leaves_the_random_state_alone_and_checks_its_options(name: str) -> None:
    before = torch.get_rng_state()
    module = next(iter(small(name).modules.values()))
    assert torch.equal(torch.get_rng_state(), before) and module.training
    rows = "lines" if name in ("recurrent_text", "transformer_text", "wavenet") else "images"
    with pytest.raises(lvm.ArgumentError, match="Fix:"):
        lvm.problem(name, **{rows: 0})


# --- invertible blocks ------------------------------------------------------------------------------------------------

SIZE = 6


def _convolutional(channels: int) -> Block:
    network = ConvolutionalNetwork(channels // 2, 8, (channels - channels // 2) * Affine.size)
    parts = [Squeeze(), ActNorm(4, event_dim=3)] if channels == 4 else [Squeeze(), ActNorm(channels, event_dim=3)]
    return Chain([*parts, InvertibleLinear(channels, event_dim=3), Coupling(channels, Affine(), network, event_dim=3)])


BLOCKS = {
    "affine coupling": lambda: Coupling(SIZE, Affine(), MultilayerPerceptron(3, (16,), 3 * 2)),
    "spline coupling": lambda: Coupling(
        SIZE, Spline(5), MultilayerPerceptron(2, (16,), 4 * 14), moves=torch.tensor([1, 1, 0, 1, 0, 1])
    ),
    "mixture coupling": lambda: Coupling(SIZE, Mixture(3), MultilayerPerceptron(3, (16,), 3 * 9)),
    "masked autoregressive": lambda: MaskedAutoregressive(SIZE, Affine(), (32,), order=torch.arange(SIZE).flip(0)),
    "its inverse": lambda: Inverted(MaskedAutoregressive(SIZE, Affine(), (32,))),
    "autoregressive spline": lambda: MaskedAutoregressive(SIZE, Spline(4), (32,)),
    "autoregressive mixture": lambda: MaskedAutoregressive(SIZE, Mixture(4), (32,)),
    "linear": lambda: InvertibleLinear(SIZE),
    "actnorm": lambda: ActNorm(SIZE),
    "permutation": lambda: Permutation(torch.randperm(SIZE)),
    "logit": Logit,
    "multi-scale": lambda: Chain(
        [Reshape((16,), (1, 4, 4)), MultiScale([_convolutional(4), _convolutional(8)], (1, 4, 4))]
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_inverts_and_knows_its_determinant(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = BLOCKS[name]().double()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        x = 0.05 + 0.9 * torch.rand(7, 16 if name == "multi-scale" else SIZE, dtype=torch.float64)
    z, log_det = block(x)
    back, minus = block.inverse(z)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(minus, -log_det, atol=1e-9, rtol=0)
    jacobian = torch.autograd.functional.jacobian(lambda row: block(row[None])[0][0], x[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[0], atol=1e-9, rtol=0)


def test_an_invertible_linear_map_is_its_matrix() -> None:
    block = InvertibleLinear(5, generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(x)[0], x @ block.matrix().mT)
    torch.testing.assert_close(block.matrix() @ block.matrix().mT, torch.eye(5))  # it starts at a rotation


def test_actnorm_starts_where_data_are_standard() -> None:
    x = 3 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) + torch.arange(4)
    chain = Chain([ActNorm(4), InvertibleLinear(4), ActNorm(4)])
    initialize(chain, x)
    z, _ = chain(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(4), atol=1e-4, rtol=0)


# --- flows ------------------------------------------------------------------------------------------------------------

PLANE = {
    "maf": lambda: lvm.problem("maf", data="moons", hidden=32, dropout=0.0),
    "iaf": lambda: lvm.problem("iaf", data="moons", hidden=32),
    "splines": lambda: lvm.problem("neural_spline_flow", data="moons", hidden=32, dropout=0.0),
    "spline couplings": lambda: lvm.problem("neural_spline_flow", data="moons", hidden=32, dropout=0.0, coupling=True),
    "mixtures": lambda: lvm.problem("neural_spline_flow", data="moons", hidden=32, dropout=0.0, element="mixture"),
}


@pytest.mark.parametrize("name", PLANE)
def test_densities_of_the_plane_integrate_to_one(name: str) -> None:
    """After a short fit, on a grid that reaches to where nothing is left."""
    fit = lvm.fit(PLANE[name](), engine="pyro", max_steps=40, batch_size=200, learning_rate=5e-3, progress=False)
    flow = fit.module().double()
    steps = 300
    along = torch.linspace(-6.0, 7.0, steps, dtype=torch.float64)
    grid = torch.cartesian_prod(along, along)
    with torch.no_grad():
        total = sum(float(flow.log_prob(part).exp().sum()) for part in grid.split(50_000))  # type: ignore[operator]
    assert total * float(along[1] - along[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", ["real_nvp", "glow", "maf", "iaf", "neural_spline_flow"])
def test_codes_are_exact_and_draws_have_the_density_they_come_with(name: str) -> None:
    """In single precision, as it is used."""
    fit = lvm.fit(small(name), engine="pyro", max_steps=4, learning_rate=1e-3, progress=False)
    flow, x = fit.module(), fit.attached.arguments["x"]
    with torch.no_grad():
        back = flow.data(flow.latent(x))  # type: ignore[operator]
        torch.testing.assert_close(back, x, atol=1e-5, rtol=0)


def test_dequantisation_draws_within_the_level_and_bits_count_it() -> None:
    levels = torch.randint(0, 17, (50, 64), generator=torch.Generator().manual_seed(0))
    x = (levels + 0.5) / 17
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = (dequantize(17)(x)["x"] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal((first * 17).floor().long(), levels)
    # A uniform density on (0, 1) says nothing of 17 levels: log2 17 bits each.
    assert bits_per_dimension(0.0, 64, 17) == pytest.approx(math.log2(17))
    assert bits_per_dimension(64 * math.log(17), 64, 17) == pytest.approx(0.0)


@pytest.mark.slow
def test_a_neural_spline_flow_beats_factor_analysis_and_a_mixture_on_digits() -> None:
    """48.71 nats of factor analysis with 30 factors, 60.73 of ten Gaussians, on the same held-out digits."""
    whole, test = flows.flow_data("digits"), flows.flow_data("digits", part="test")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    valid, train = whole[order[:150]], whole[order[150:]]
    problem = lvm.problem("neural_spline_flow")
    problem = lvm.Problem(problem.model, train, problem.args[1])
    fit = lvm.fit(
        problem, transform=dequantize(17), validation={"x": valid}, batch_size=128, learning_rate=2e-3, schedule="warmup_cosine",
        max_steps=1000, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        held_out = float(fit.module().log_prob(test).mean())  # type: ignore[operator]
    assert held_out > 75.0


# --- autoregressive ---------------------------------------------------------------------------------------------------

NETWORKS = {
    "made": lambda: autoregressive.Made(16, 2, hidden=20, layers=2),
    "made of levels": lambda: autoregressive.Made(16, 5, hidden=20, layers=1),
    "pixel cnn": lambda: autoregressive.GatedPixelCNN(4, 4, 3, channels=4, layers=3),
    "gru": lambda: sequences.Recurrent(5, 16, hidden=8, layers=2, cell="gru"),
    "lstm": lambda: sequences.Recurrent(5, 16, hidden=8, layers=1, cell="lstm"),
    "wavenet": lambda: sequences.WaveNet(5, 16, channels=6, layers=4),
    "transformer": lambda: sequences.Transformer(5, 16, width=8, heads=2, layers=2),
}


@cache
def network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name]().double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_element_sees_itself_or_later_ones_and_the_first_is_seen(name: str) -> None:
    module = network(name)
    x = torch.randint(0, module.levels, (3, 16), generator=torch.Generator().manual_seed(1)).double()
    before = module.logits(x)
    for j in range(16):
        changed = x.clone()
        changed[:, j] = (changed[:, j] + 1) % module.levels
        moved = (module.logits(changed) - before).abs().amax((0, 2))
        assert float(moved[: j + 1].max()) == 0.0
        if j == 0:
            assert float(moved[1:].max()) > 0


@pytest.mark.parametrize("name", ["made", "pixel cnn", "transformer"])
def test_probabilities_of_all_small_images_sum_to_one(name: str) -> None:
    made = {
        "made": lambda: autoregressive.Made(9, 2, hidden=12, layers=1),
        "pixel cnn": lambda: autoregressive.GatedPixelCNN(3, 3, 2, channels=3, layers=2),
        "transformer": lambda: sequences.Transformer(2, 9, width=8, heads=2, layers=1),
    }[name]
    module = made().double().eval()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 9)
    with torch.no_grad():
        assert float(module.log_prob(every).logsumexp(0)) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("made")])
def test_cached_draws_are_the_uncached_ones(name: str) -> None:
    module = network(name)
    drawn = []
    for cached in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            drawn.append(module.sample(6, cached=cached))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["gru", "lstm", "wavenet", "transformer"])
def test_cached_logits_are_the_uncached_ones_in_single_precision(name: str) -> None:
    module = NETWORKS[name]().eval()
    before = torch.randint(0, 5, (4, 16), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole, kept = module.outputs(before), module.start(4)
        for t in range(16):
            logits, kept = module.step(kept, before[:, t])
            torch.testing.assert_close(logits, whole[:, t], atol=1e-5, rtol=0)


def test_text_is_letters_and_spaces_and_its_parts_are_apart() -> None:
    train, test = sequences.text_data("descriptions", 32), sequences.text_data("descriptions", 32, part="test")
    assert train.shape[1] == 32 and 8 < len(train) / len(test) < 10
    lines = sequences.decode(train[:3])
    assert all(len(line) == 32 and set(line) <= set(" abcdefghijklmnopqrstuvwxyz") for line in lines)


# --- a GAN ------------------------------------------------------------------------------------------------------------


def test_a_gan_has_samples_and_no_density() -> None:
    x, _ = gan.ring(200)
    trained = gan.train_gan(x, steps=3, hidden=8)
    assert trained.sample(5).shape == (5, 2)
    assert torch.equal(trained.sample(5, seed=1), trained.sample(5, seed=1))
    with pytest.raises(lvm.ProblemError, match=r"no log p\(x\).*defines samples and no density.*Fix:"):
        trained.log_prob(x)


def test_coverage_counts_modes() -> None:
    x, centres = gan.ring(4000, seed=1)
    whole = gan.mode_coverage(x, centres, scale=0.05)
    assert whole.covered == 8 and whole.good > 0.98 and whole.divergence < 0.01
    one = gan.mode_coverage(x[(x - centres[0]).norm(dim=1) < 0.5], centres, scale=0.05)
    assert one.covered == 1 and one.divergence == pytest.approx(math.log(8))
    assert gan.mode_coverage(torch.zeros(10, 2), centres, scale=0.05).good == 0.0


def test_training_a_gan_is_repeatable_and_leaves_the_random_state_alone() -> None:
    x, _ = gan.ring(200)
    before = torch.get_rng_state()
    first, second = (gan.train_gan(x, steps=5, hidden=8, seed=3).sample(4) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps"), ({"learning_rate": -1.0}, "learning_rate=-1"), ({"average": 1.0}, "average=1")],
)
def test_a_gan_refuses_bad_options(options, message: str) -> None:
    with pytest.raises(lvm.ArgumentError, match=message) as error:
        gan.train_gan(gan.ring(50)[0], **options)
    assert "Fix:" in str(error.value)


@pytest.mark.slow
def test_a_gan_finds_the_ring_with_the_penalty() -> None:
    x, centres = gan.ring(2000)
    trained = gan.train_gan(x, steps=3000, latent=4, hidden=64)
    found = gan.mode_coverage(trained.sample(4000), centres, scale=0.05)
    assert found.covered >= 7 and found.good > 0.5


# --- bijections of whole numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layers"), [("autoregressive", 2), ("bipartite", 3)])
@pytest.mark.parametrize("levels", [2, 3])
def test_a_discrete_flow_is_a_bijection_whose_probabilities_sum_to_one(kind: str, layers: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    shares = torch.rand(4, levels, generator=generator).softmax(-1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = DiscreteFlow(4, levels, kind=kind, layers=layers, hidden=16, generator=generator, shares=shares).double()
        with torch.no_grad():
            for parameter in flow.networks.parameters():
                parameter += torch.randn_like(parameter)
    rows = torch.tensor(list(itertools.product(range(levels), repeat=4)))
    base = flow.to_base(rows)
    assert len({tuple(row) for row in base.tolist()}) == len(rows) and not torch.equal(base, rows)
    assert torch.equal(flow.from_base(base), rows)
    log_p = flow.log_prob(rows.double())
    assert float(log_p.detach().exp().sum()) == pytest.approx(1.0, abs=1e-5)
    by_hand = flow.base.log_softmax(-1)[torch.arange(4), base].sum(-1)
    torch.testing.assert_close(log_p, by_hand)
    log_p.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) and float(p.grad.abs().max()) > 0 for p in flow.parameters())
