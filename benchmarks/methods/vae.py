"""VAEs by stock Pyro, hand-written PyTorch (eager, compiled, CUDA graphs), native NumPyro and pyrolvm.

All start from the same weights, see batches of the same size from shuffled passes, and take Adam at a rate of 0.001 with betas
(0.9, 0.99) on the ELBO with its analytic KL and one draw.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from problems import Arrays
from problems.vae import LATENT, exported, loaded

from methods.clocks import JaxClock, best_threads, pyrolvm_loaded

Found = tuple[dict[str, Any], Arrays]

RATE, BETAS, EPSILON = 1e-3, (0.9, 0.99), 1e-8


def networks(job: dict[str, Any], arrays: Arrays, device: str) -> tuple[Any, Any]:
    """Encoder and decoder of the job's kind with the given first weights."""
    encoder, decoder = loaded(job["network"], arrays)
    return encoder.to(device), decoder.to(device)


def pyro(job: dict[str, Any], arrays: Arrays) -> Found:
    """Stock Pyro."""
    import pyro as library
    import torch
    from pyro.infer import SVI, TraceMeanField_ELBO
    from pyro.optim import Adam

    x, order = _data(job, arrays)

    def build() -> tuple[Any, Any, Any]:
        library.clear_param_store()
        encoder, decoder = networks(job, arrays, job["device"])
        model, guide = programs(LATENT)
        adam = Adam({"lr": RATE, "betas": BETAS, "eps": EPSILON})
        return encoder, decoder, SVI(model, guide, adam, TraceMeanField_ELBO())

    encoder, decoder, svi = build()
    threads = best_threads(lambda: svi.step(x[order[0]], decoder, encoder))
    torch.manual_seed(job["seed"])
    encoder, decoder, svi = build()
    run = _timed(lambda i: svi.step(x[order[i]], decoder, encoder), job)
    return _found(run, 0.0, "pyro", threads=threads), exported(encoder, decoder)


def torch_eager(job: dict[str, Any], arrays: Arrays) -> Found:
    """PyTorch as one would write it by hand."""
    import torch

    x, order = _data(job, arrays)

    def build() -> tuple[Any, Any, Callable[[Any], None]]:
        encoder, decoder = networks(job, arrays, job["device"])
        adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, betas=BETAS, eps=EPSILON)

        def step(rows: Any) -> None:
            adam.zero_grad()
            _loss(encoder, decoder, x[rows]).backward()
            adam.step()

        return encoder, decoder, step

    _, _, trial = build()
    threads = best_threads(lambda: trial(order[0]))
    torch.manual_seed(job["seed"])
    encoder, decoder, step = build()
    run = _timed(lambda i: step(order[i]), job)
    return _found(run, 0.0, "eager", threads=threads), exported(encoder, decoder)


def torch_compiled(job: dict[str, Any], arrays: Arrays) -> Found:
    """PyTorch by hand with loss, gradient and Adam in one graph of ``torch.compile``."""
    import torch

    x, order = _data(job, arrays)
    encoder, decoder = networks(job, arrays, job["device"])
    modules = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    compiled = CompiledAdam(modules, x, BETAS)
    compiled.rate.fill_(RATE)
    torch.manual_seed(job["seed"])
    started = time.perf_counter()
    compiled(order[0])
    _wait(job["device"])
    compile_seconds = time.perf_counter() - started
    run = _timed(lambda i: compiled(order[i]), job, first=1)
    modules.load_state_dict(compiled.params)
    return _found(run, compile_seconds, "compiled"), exported(encoder, decoder)


class CompiledAdam:
    """Loss, gradient and Adam of an encoder and a decoder in one graph of ``torch.compile``: call it with the rows of a batch.

    Args:
        modules: the networks, which stay as they are.
        x: the images.
        betas: Adam's.

    Attributes:
        params: weights by name, written into by each step.
        rate: of the next step.
        count: the steps that Adam's corrections know of.
    """

    def __init__(self, modules: Any, x: Any, betas: tuple[float, float]) -> None:
        import torch

        self.params = {name: value.detach().clone() for name, value in modules.named_parameters()}
        self.rate, self.count = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
        first = [torch.zeros_like(value) for value in self.params.values()]
        second = [torch.zeros_like(value) for value in self.params.values()]

        def loss(values: dict[str, Any], batch: Any) -> Any:
            def part(name: str) -> Callable[[Any], Any]:
                own = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(name)}
                return lambda argument: torch.func.functional_call(modules[name], own, (argument,))

            return _loss(part("encoder"), part("decoder"), batch)

        def step(rows: Any) -> None:
            gradients = torch.func.grad(loss)(self.params, x[rows])
            self.count.add_(1)
            corrections = 1 - betas[0] ** self.count, 1 - betas[1] ** self.count
            for (name, value), m, v in zip(self.params.items(), first, second, strict=True):
                m.lerp_(gradients[name], 1 - betas[0])
                v.lerp_(gradients[name].square(), 1 - betas[1])
                value.sub_(self.rate * (m / corrections[0]) / ((v / corrections[1]).sqrt() + EPSILON))

        self._step = torch.compile(step, fullgraph=True)

    def __call__(self, rows: Any) -> None:
        """Takes a step."""
        self._step(rows)


def torch_graphs(job: dict[str, Any], arrays: Arrays) -> Found:
    """PyTorch by hand, its whole step recorded as one CUDA graph."""
    import torch

    x, order = _data(job, arrays)
    encoder, decoder = networks(job, arrays, job["device"])
    state = [value.detach().clone() for value in (*encoder.parameters(), *decoder.parameters())]
    adam = torch.optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=RATE, betas=BETAS, eps=EPSILON, capturable=True, fused=True
    )
    batch = x[order[0]].clone()

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        _loss(encoder, decoder, batch).backward()
        adam.step()

    started = time.perf_counter()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    adam.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():  # back to the first weights and an empty Adam, in place
        for value, before in zip((*encoder.parameters(), *decoder.parameters()), state, strict=True):
            value.copy_(before)
        for entry in adam.state.values():
            for tensor in entry.values():
                tensor.zero_()
    _wait(job["device"])
    compile_seconds = time.perf_counter() - started

    def replay(i: int) -> None:
        torch.index_select(x, 0, order[i], out=batch)
        graph.replay()

    torch.manual_seed(job["seed"])
    run = _timed(replay, job)
    return _found(run, compile_seconds, "CUDA graph"), exported(encoder, decoder)


def numpyro(job: dict[str, Any], arrays: Arrays) -> Found:
    """Native NumPyro: ``SVI.update`` in ``lax.scan`` over the batches, as in its own example."""
    import jax
    import jax.numpy as jnp
    import numpyro as library
    import numpyro.distributions as dist
    from numpyro import optim
    from numpyro.infer import SVI, TraceMeanField_ELBO

    names = [name for name in arrays if name.startswith(("encoder.", "decoder."))]
    x = jnp.asarray(arrays["x"], dtype=jnp.float32)
    order = jnp.asarray(arrays["order"])

    def network(name: str, value: Any) -> Any:
        for i in (0, 2, 4):
            weight = library.param(f"{name}.{i}.weight", jnp.asarray(arrays[f"{name}.{i}.weight"]))
            value = value @ weight.T + library.param(f"{name}.{i}.bias", jnp.asarray(arrays[f"{name}.{i}.bias"]))
            value = jax.nn.relu(value) if i < 4 else value
        return value

    def model(batch: Any) -> None:
        with library.plate("data", len(batch)):
            z = library.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            library.sample("x", dist.Bernoulli(logits=network("decoder", z)).to_event(1), obs=batch)

    def guide(batch: Any) -> None:
        loc, log_scale = jnp.split(network("encoder", batch), 2, axis=-1)
        with library.plate("data", len(batch)):
            library.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    with JaxClock() as clock:
        svi = SVI(model, guide, optim.Adam(RATE, *BETAS, EPSILON), TraceMeanField_ELBO())
        state = svi.init(jax.random.PRNGKey(job["seed"]), x[order[0]])

        def loop(current: Any, rows: Any, images: Any) -> Any:
            return jax.lax.scan(lambda held, i: svi.update(held, images[i]), current, rows)

        ready = jax.jit(loop).lower(state, order, x).compile()
    started = time.perf_counter()
    state, _ = jax.block_until_ready(ready(state, order, x))
    run = time.perf_counter() - started
    params = svi.get_params(state)
    return _found(run, clock.total, "lax.scan"), {name: np.asarray(params[name]) for name in names}


def pyrolvm(job: dict[str, Any], arrays: Arrays) -> Found:
    """Pyrolvm as a user calls it: a model, a guide with its encoder, ``batch_size``."""
    import arviz_base  # noqa: F401  imports are not timed
    import jax  # noqa: F401

    lvm = pyrolvm_loaded()

    encoder, decoder = networks(job, arrays, "cpu")
    model, guide = programs(LATENT)
    x, _ = _data({**job, "device": "cpu"}, arrays)
    started = time.perf_counter()
    result = lvm.fit(
        lvm.Problem(model, x, decoder, encoder), guide, objective="TraceMeanField_ELBO", learning_rate=RATE, schedule="constant",
        max_steps=job["steps"], tolerance=0, num_particles=1, batch_size=job["batch"], draws=2, seed=job["seed"],
        device=job["device"], engine=job["engine"], progress=False,
    )  # fmt: skip
    seconds = dict(result.seconds)
    total = time.perf_counter() - started - seconds.get("draws", 0.0)
    found = {
        **_found(seconds["run"], total - seconds["run"], result.engine),
        "engine_reason": result.engine_reason,
        "phases": seconds,
    }
    values = {name.replace("$$$", "."): value.detach().cpu().numpy() for name, value in result.params.items()}
    return found, {name: value for name, value in values.items() if name in arrays}


def programs(latent: int) -> tuple[Any, Any]:
    """Pyro's model and guide of images, a decoder and an encoder."""
    import pyro as library
    import pyro.distributions as dist

    def model(x: Any, decoder: Any, encoder: Any) -> None:
        library.module("decoder", decoder)
        with library.plate("data", len(x)):
            z = library.sample("z", dist.Normal(x.new_zeros(latent), 1.0).to_event(1))
            library.sample("x", dist.Bernoulli(logits=decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(x: Any, decoder: Any, encoder: Any) -> None:
        library.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, dim=-1)
        with library.plate("data", len(x)):
            library.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def _loss(encoder: Callable[[Any], Any], decoder: Callable[[Any], Any], x: Any) -> Any:
    """Minus the ELBO of a batch, summed over its images."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    loc, log_scale = encoder(x).chunk(2, dim=-1)
    scale = log_scale.exp()
    logits = decoder(loc + scale * torch.randn_like(scale))
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * log_scale).sum()
    return binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl


def _data(job: dict[str, Any], arrays: Arrays) -> tuple[Any, Any]:
    import torch

    x = torch.as_tensor(arrays["x"]).to(device=job["device"], dtype=torch.float32)
    return x, torch.as_tensor(arrays["order"]).to(job["device"])


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def _timed(step: Callable[[int], Any], job: dict[str, Any], first: int = 0) -> float:
    """Wall seconds of the job's steps, from the first that is given; those before it are counted as if they took as long."""
    _wait(job["device"])
    started = time.perf_counter()
    for i in range(first, job["steps"]):
        step(i)
    _wait(job["device"])
    return (time.perf_counter() - started) * job["steps"] / (job["steps"] - first)


def _found(run: float, compile_seconds: float, engine: str, **more: Any) -> dict[str, Any]:
    return {
        "seconds": {"total": run + compile_seconds, "compile": compile_seconds, "run": run},
        "engine": engine,
        **more,
    }
