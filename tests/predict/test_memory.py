"""How much memory predictions take beyond what is there before them, measured in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")]

MEASURED = """
import json

import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm


def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def line(x, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 5.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ b, s), obs=y)


x = torch.randn(100, 3)
fit = lvm.fit(lvm.Problem(line, x, x.sum(1)), "mean_field", max_steps=100, draws=4000, engine="pyro", progress=False)
lvm.predict(fit, x[:5], draws=20, summary=True)
new, found = torch.randn(10_000, 3), [peak()]
lvm.predict(fit, new, draws=4000, summary=True)
found.append(peak())
assert lvm.predict(fit, new, draws=4000)["predictions"]["y"].shape == (1, 4000, 10_000)
found.append(peak())
print(json.dumps(found))
"""

RESULT = 4_000 * 10_000 * 4 / 2**20
"""MiB of the draws that are asked for, in single precision."""


def test_draws_are_held_once_and_summaries_keep_none() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    before, summary, draws = json.loads(done.stdout.splitlines()[-1])
    assert summary - before < 0.5 * RESULT
    assert draws - before < 1.4 * RESULT
