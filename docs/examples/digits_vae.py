"""A variational autoencoder of binary 8 x 8 digits: trained, evaluated on digits it has not seen, and drawn.

python docs/examples/digits_vae.py FOLDER [--quick]
"""

import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyrolvm as lvm
from pyrolvm_models import datasets

LATENT, HIDDEN = 6, 64


class Encoder(nn.Module):
    """From an image to the Gaussian of its code."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.loc, self.log_scale = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x):
        """Location and scale of the code."""
        h = self.body(x)
        return self.loc(h), self.log_scale(h).exp()


def networks(seed=0):
    """The two networks, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(), nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 64))


ENCODER, DECODER = networks()


@lvm.model(images={"x": (8, 8)})
def model(x):
    """Pixels are white or black."""
    pyro.module("decoder", DECODER)
    with pyro.plate("image", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=DECODER(z)).to_event(1), obs=x)


def encoder(x):
    """The code of each image."""
    pyro.module("encoder", ENCODER)
    with pyro.plate("image", len(x)):
        pyro.sample("z", dist.Normal(*ENCODER(x)).to_event(1))


def photograph(count, seed=0):
    """Pieces of a photograph that comes with scikit-learn, bright pixels on."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg").mean(axis=2)[::4, ::4]
    random = np.random.default_rng(seed)
    tops, lefts = (random.integers(0, size - 8, count) for size in grey.shape)
    pieces = np.stack([grey[i : i + 8, j : j + 8] for i, j in zip(tops, lefts, strict=True)])
    return torch.as_tensor((pieces > grey.mean()).reshape(count, 64), dtype=torch.float32)


def main(folder, quick=False):
    """Fits the autoencoder, evaluates it, and writes a page, a folder of pictures and both results."""
    out = Path(folder)
    digits = datasets.digits()
    train, test = digits.binarized("train"), digits.binarized("test", seed=1)
    problem = lvm.Problem(model, train)
    fit = lvm.fit(problem, encoder, batch_size=100, max_steps=60 if quick else 2500, learning_rate=0.003, draws=50)
    print(f"{fit}\n")
    found = lvm.evaluate(
        fit,
        test,
        draws=50 if quick else 2000,
        train_rows=50 if quick else 450,
        labels=digits.test_labels,
        train_labels=digits.train_labels,
        outliers={"photograph": photograph(450), "upside down": test.flip(-1)},
    )
    print(found)
    fit.save(out / "fit", overwrite=True)
    found.save(out / "evaluation", overwrite=True)
    found.to_html(out / "report.html")
    for file in found.pictures(out / "pictures"):
        print(f"written: {file}")


if __name__ == "__main__":
    main(sys.argv[1], "--quick" in sys.argv)
