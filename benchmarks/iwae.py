"""Binarised MNIST under a 784-200-200-50 autoencoder: the importance-weighted bound of k = 1, 5 and 50 draws at equal epochs.

    python benchmarks/iwae.py --epochs 25
    python benchmarks/iwae.py --binarization dynamic --device cuda
    python benchmarks/iwae.py --quick

The network, two hidden tanh layers of 200 units and 50 Gaussian latents, is that of Burda, Grosse and Salakhutdinov
(https://arxiv.org/abs/1509.00519, one stochastic layer); the budget is not. log p(x) of test images is estimated by importance
sampling with 5,000 draws, the same images for every k, so that differences have smaller errors than values. The decoder's output
bias starts at the training images' mean, for every k. Images are fetched, or read from ``PYROLVM_DATA``. A k that is in the output file
already, of the same settings, is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from methods.vae import programs
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm_models import datasets

HIDDEN, LATENT = 200, 50
ACTIVE = 0.01
"""The variance of its posterior mean over images from which on a unit is active."""

COLUMNS = {
    "k": "k", "log_p": "test log p(x), nats", "log_p_error": "+-", "bound": "bound of k draws", "active_units": "active units",
    "gain": "better than the row above by", "gain_error": "+-", "ms_per_step": "ms/step", "train_seconds": "s",
    "status": "status",
}  # fmt: skip


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """Layers with tanh between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def networks(mean: Tensor, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Decoder and encoder, whose weights the seed tells."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pixels = len(mean)
        encoder = network((pixels, HIDDEN, HIDDEN, 2 * LATENT))
        decoder = network((LATENT, HIDDEN, HIDDEN, pixels))
    with torch.no_grad():
        decoder[-1].bias.copy_(torch.logit(mean.clamp(1e-3, 1 - 1e-3)))  # type: ignore[operator, union-attr]
    return decoder, encoder


class Dynamic(lvm.ImportanceWeighted_ELBO):
    """The bound of images whose pixels are drawn anew in each step from their intensities."""

    def particles(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """One estimate, at pixels of its own."""
        x, *rest = args
        pixels = (torch.rand(x.shape, dtype=x.dtype, device=x.device) < x).to(x)
        return super().particles(model, guide, pixels, *rest, **kwargs)


def train(k: int, x: Tensor, args: argparse.Namespace) -> tuple[lvm.Fit, nn.Sequential, nn.Sequential, int]:
    """Trains by ``lvm.fit``; the rate falls to a tenth, step by step."""
    (model, guide), (decoder, encoder) = programs(LATENT), networks(x.mean(0), args.seed)
    kind = Dynamic if args.binarization == "dynamic" else lvm.ImportanceWeighted_ELBO
    steps = args.epochs * len(x) // args.batch
    fit = lvm.fit(
        lvm.Problem(model, x, decoder, encoder), guide, objective=kind(k, gradient=args.gradient), batch_size=args.batch,
        optimizer=torch.optim.Adam, learning_rate=args.rate, schedule=lambda step: 0.1 ** (step / steps), max_steps=steps, tolerance=0,
        engine=args.engine, device=args.device, draws=2, seed=args.seed, progress=sys.stderr.isatty(),
    )  # fmt: skip
    for name, module in (("decoder", decoder), ("encoder", encoder)):
        prefix = f"{name}$$$"
        module.load_state_dict({n.removeprefix(prefix): v.cpu() for n, v in fit.params.items() if n.startswith(prefix)})
    return fit, decoder.to(args.device), encoder.to(args.device), steps


@torch.no_grad()
def log_weights(x: Tensor, decoder: nn.Module, encoder: nn.Module, draws: int, chunk: int, seed: int) -> Tensor:
    """Log importance weights of each image, ``(draws, images)``, decoding ``chunk`` codes at a time."""
    generator = torch.Generator(x.device).manual_seed(seed)
    rows, columns = max(1, chunk // draws), []
    for part in x.split(rows):
        loc, log_scale = encoder(part).chunk(2, dim=-1)
        found = []
        for size in [min(chunk // len(part), draws - i) for i in range(0, draws, chunk // len(part))]:
            noise = torch.randn(size, *loc.shape, generator=generator, device=x.device)
            z = loc + log_scale.exp() * noise
            logits = decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
            log_p = logits.mul(part).sum(-1) - nn.functional.softplus(logits).sum(-1)
            found.append(log_p - 0.5 * z.square().sum(-1) + 0.5 * noise.square().sum(-1) + log_scale.sum(-1))
        columns.append(torch.cat(found))
    return torch.cat(columns, 1).cpu()


def measure(
    k: int, fit: lvm.Fit, decoder: nn.Module, encoder: nn.Module, test: Tensor, steps: int, args: argparse.Namespace
) -> common.Row:
    """What a trained model is worth on test images."""
    began = time.perf_counter()
    weights = log_weights(test, decoder, encoder, args.draws, args.chunk, args.seed).double()
    log_p = weights.logsumexp(0) - math.log(len(weights))
    groups = weights[: len(weights) // k * k].unflatten(0, (-1, k)).logsumexp(1) - math.log(k)
    with torch.no_grad():
        variance = encoder(test)[:, :LATENT].var(0)
    per_epoch = max(1, steps // args.epochs)
    curve = -np.asarray(fit.losses)[: args.epochs * per_epoch].reshape(-1, per_epoch).mean(1) / args.rows
    return {
        "k": k,
        "log_p": float(log_p.mean()),
        "log_p_error": float(log_p.std() / math.sqrt(len(log_p))),
        "bound": float(groups.mean()),
        "elbo": float(weights.mean()),
        "active_units": int((variance > ACTIVE).sum()),
        "training_bound_by_epoch": curve.tolist(),
        "steps": steps,
        "ms_per_step": 1e3 * fit.seconds["run"] / steps,
        "train_seconds": fit.seconds["run"],
        "compile_seconds": fit.seconds["compile"],
        "test_seconds": time.perf_counter() - began,
        "engine": fit.engine,
        "objective": fit.data["posterior"].attrs["objective"],
        "status": "ok",
        "log_p_of_images": log_p.tolist(),
    }


def compared(rows: list[common.Row]) -> list[common.Row]:
    """Each row with what it gains on the one before, image by image."""
    for before, row in itertools.pairwise(rows):
        gain = np.array(row["log_p_of_images"]) - np.array(before["log_p_of_images"])
        row["gain"], row["gain_error"] = float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain)))
    return rows


def images(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Training images, or intensities to draw them from, and binary test images."""
    if args.binarization == "static":
        data = datasets.binarized_mnist()
        train, test = (torch.as_tensor(data.intensities(split)) for split in ("train", "test"))
    else:
        data = datasets.mnist()
        train, test = (torch.as_tensor(data.intensities(split)) for split in ("train", "test"))
        test = torch.bernoulli(test, generator=torch.Generator().manual_seed(args.seed))
    # Test images are sorted, nearly, by class: the first ones are not like the others.
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(args.seed))
    return train[: args.rows or None].float(), test[order[: args.test_rows or None]].float()


def known(path: Path, settings: dict[str, Any]) -> dict[int, common.Row]:
    """Rows of an earlier run with the same settings."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("training") != settings:
        return {}
    return {row["k"]: row for row in content["rows"] if row["status"] == "ok" and "log_p_of_images" in row}


def main() -> None:
    """Trains, measures, prints, writes after each k."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--epochs", type=int, default=25, help="passes over the training images, the same for every k")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 50], help="draws")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1e-3, help="Adam's first rate; the last is a tenth of it")
    parser.add_argument("--gradient", default="dreg", help="the bound's gradient: dreg or plain")
    parser.add_argument("--binarization", choices=("static", "dynamic"), default="static")
    parser.add_argument("--rows", type=int, default=0, help="use the first so many training images; 0 for all")
    parser.add_argument("--test-rows", type=int, default=0, help="use so many test images, drawn at random; 0 for all")
    parser.add_argument("--draws", type=int, default=5_000, help="draws of the test log p(x)")
    parser.add_argument("--chunk", type=int, default=20_000, help="codes decoded at a time: bounds the memory")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--engine", default="auto", help="the engine of pyrolvm")
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.rows, args.test_rows, args.draws = 2, 2_000, 100, 500
    before = common.load()
    train_images, test_images = images(args)
    args.rows, args.test_rows = len(train_images), len(test_images)
    names = ("epochs", "batch", "rate", "gradient", "binarization", "rows", "test_rows", "draws", "seed", "device")
    settings = {name: getattr(args, name) for name in names}
    name = "iwae" if args.binarization == "static" else "iwae_dynamic"
    path = args.out or common.RESULTS / (f"{name}_quick.json" if args.quick else f"{name}.json")
    found = known(path, settings)
    for k in args.k:
        if k not in found:
            print(f"  k = {k}", file=sys.stderr, flush=True)
            fit, decoder, encoder, steps = train(k, train_images, args)
            found[k] = measure(k, fit, decoder, encoder, test_images.to(args.device), steps, args)
        rows = compared([found[k] for k in sorted(found)])
        common.report(name, args, {"load_at_start": before, "training": settings, "rows": rows})
    print(common.table(rows, COLUMNS))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
