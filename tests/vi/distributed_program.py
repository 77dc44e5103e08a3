"""What the processes of ``tests/vi/test_distributed.py`` run: one fit each, whose numbers the first one writes as JSON.

torchrun --nproc-per-node 2 tests/vi/distributed_program.py rows FOUND [OUT]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm

TOGETHER = "RANK" in os.environ


def regression(rows: int) -> lvm.Problem:
    """A logistic regression."""
    random = np.random.default_rng(4)
    x, b = torch.as_tensor(random.normal(size=(rows, 3))), torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    y = (torch.as_tensor(random.random(rows)) < torch.sigmoid(x @ b - 0.3)).double()

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 5.0))
        b = pyro.sample("b", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=a + x @ b), obs=y)

    return lvm.Problem(model, x, y)


def factors(rows: int) -> lvm.Problem:
    """A network whose rows have latents of their own."""
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6)).double()
    z = torch.randn(rows, 2, dtype=torch.float64)
    x = torch.tanh(z @ torch.randn(2, 6, dtype=torch.float64)) + 0.1 * torch.randn(rows, 6, dtype=torch.float64)

    def model(x: torch.Tensor) -> None:
        pyro.module("net", net)
        noise = pyro.sample("noise", dist.HalfNormal(x.new_tensor(1.0)))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), noise).to_event(1), obs=x)

    return lvm.Problem(model, x)


def main() -> None:
    """Makes the fit that is asked for."""
    what, found, *rest = sys.argv[1:]
    out: dict[str, Any] = {"out": rest[0], "resume": True} if rest else {}
    common: dict[str, Any] = {"seed": 0, "progress": False, "distributed": TOGETHER, **out}
    if what == "rows":
        fit = lvm.fit(regression(300_000), batch_size=1024, **common)
    else:
        fit = lvm.fit(
            factors(400), "amortized", batch_size=64, max_steps=120, tolerance=0, draws=50, engine="torch",
            num_particles=2, **(common | ({"checkpoint_every": 1e-9} if out else {})),
        )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        numbers = {name: value.double().flatten().tolist() for name, value in fit.params.items()}
        drawn = {
            name: fit.data["posterior"][name].values[:, :20].ravel().tolist()
            for name in fit.data["posterior"].data_vars
        }
        losses = fit.data["optimization"]["elbo"].values.ravel().tolist()
        Path(found).write_text(json.dumps({"params": numbers, "draws": drawn, "elbo": losses}))


if __name__ == "__main__":
    main()
