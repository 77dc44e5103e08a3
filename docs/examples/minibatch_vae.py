"""A variational autoencoder of 8 x 8 digits: minibatches, an amortized guide, and pictures from the DataTree.

python docs/examples/minibatch_vae.py FOLDER [--quick]
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

import pyrolvm as lvm


def rows_of_digits(rows, titles):
    """Draws images, an array (row, image, 64) of values from 0 to 1, as rows of small pictures."""
    figure = Figure(figsize=(0.6 * len(rows[0]) + 1.2, 0.68 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, images, title in zip(grid, rows, titles, strict=True):
        for cell, image in zip(axes, images, strict=True):
            cell.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
        axes[0].set_ylabel(title, rotation=0, ha="right", va="center")
    return figure


def main(folder, quick=False):
    """Fits the autoencoder and draws data, reconstructions and digits that never were."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    problem = lvm.problem("vae", images=500 if quick else None)
    fit = lvm.fit(problem, "amortized", batch_size=128, max_steps=60 if quick else 2000, draws=100)
    print(fit)
    print(fit.verdict)
    print(f"ELBO of an image: {fit.elbo / len(problem.args[0]):.2f} nats")

    # Every group is an xarray Dataset with named dims. A predictive draw is an image of 0s and 1s; their mean is grey.
    some = {"data": slice(0, 12)}
    data = fit.data["observed_data"]["x"].isel(some)
    again = fit.data["posterior_predictive"]["x"].isel(some).mean(["chain", "draw"])

    # Digits that never were: draws of the codes from their prior, through the decoder that the fit found.
    new = fit.data["prior_predictive"]["x"].isel(chain=0, draw=0, **some)
    rows = [data.values, again.values, new.values]
    rows_of_digits(rows, ["data", "reconstructed", "new"]).savefig(out / "digits.png", dpi=150)

    # How many of the codes' dimensions does the decoder use? Those whose mean differs between images.
    spread = fit.data["posterior"]["z"].mean(["chain", "draw"]).var("data")
    print(f"dimensions in use: {int((spread > 0.05).sum())} of {spread.sizes['latent']}")


if __name__ == "__main__":
    main(sys.argv[1], "--quick" in sys.argv)
