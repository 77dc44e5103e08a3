"""Results that are written and read as text, as small as a run can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from pyrolvm import _runs as runs

__all__ = ["TEXT", "TINY", "Y", "model", "run"]

Y = torch.tensor([0.3, 1.1, -0.4])
TINY = Path(__file__).parents[1] / "faults" / "tiny.py"
TEXT: runs.Codec[str] = runs.Codec(
    "Text",
    lambda text: {"text": (".txt", lambda file: file.write(text.encode()))},
    lambda folder: runs.verified(folder, ("text",))["text"].content.decode(),
)


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def run(out: Path, work: Callable[[Any], str], about: str = "a", **words: Any) -> str:
    return runs.run(runs.order(out, **words), "write", {"what": about}, TEXT, work)
