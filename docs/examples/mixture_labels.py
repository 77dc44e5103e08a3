"""A mixture of Gaussians: labels that switch, quantities that do not, and assignments that were summed out.

python docs/examples/mixture_labels.py [--quick]
"""

import sys

import numpy as np

import pyrolvm as lvm


def main(quick=False):
    """Fits two seeds of one guide, whose labels may differ, and compares what does not depend on labels."""
    problem = lvm.problem("gaussian_mixture", components=3)
    print(problem)
    steps = 80 if quick else None
    fits = {f"seed {seed}": lvm.fit(problem, "full_rank", seed=seed, max_steps=steps, draws=1000) for seed in (0, 1)}

    # The sites: component 0 of one fit need not be component 0 of the other.
    for name, fit in fits.items():
        petal = fit.data["posterior"]["locs"].sel(feature="petal length").mean(["chain", "draw"])
        print(f"{name}: mean petal length by component {np.round(petal.values, 2)}")

    # The quantities, functions of a draw that are the same under every order of the labels.
    for name, fit in fits.items():
        petal = fit.data["quantities"]["loc"].sel(feature="petal length").mean(["chain", "draw"])
        print(f"{name}: mean petal length by rank      {np.round(petal.values, 2)}")

    # A comparison looks at the quantities by itself, because the problem names some.
    report = lvm.compare(fits, reference="seed 0")
    print(report.methods[["agrees", "differs", "unclear"]])

    # The assignments z were summed out during the fit and drawn afterwards, one for each draw of the rest.
    z = fits["seed 0"].data["posterior"]["z"].stack(sample=("chain", "draw"))
    for i, j in ((50, 51), (0, 50), (70, 127)):
        together = float((z.isel(data=i) == z.isel(data=j)).mean())
        print(f"flowers {i} and {j} are in one component with probability {together:.2f}")


if __name__ == "__main__":
    main("--quick" in sys.argv)
