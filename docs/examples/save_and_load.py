"""Save a result, load it in another session, and pick up where a run stopped.

python docs/examples/save_and_load.py FOLDER [--quick]
"""

import sys
from pathlib import Path

import pyrolvm as lvm


def main(folder, quick=False):
    """Fits, saves and loads; then fits into a folder twice, the second time for free."""
    out = Path(folder)
    problem = lvm.problem("eight_schools_noncentered")
    steps = 200 if quick else 5000

    fit = lvm.fit(problem, "full_rank", max_steps=steps)
    fit.save(out / "full_rank")  # netCDF for the draws, safetensors for the parameters, JSON for the rest

    again = lvm.load(out / "full_rank")  # a registered problem and guide are found by their names
    assert again.data["posterior"].equals(fit.data["posterior"])
    print(again, again.stop_reason, sep="\n")
    print(again.sample(5)["tau"].values)  # fresh draws from the loaded guide

    # A model of your own has no registered name: give it again, and it is checked to have the same data.
    own = lvm.Problem(problem.model, *problem.args)
    lvm.fit(own, "full_rank", max_steps=steps, out=out / "own")
    print(lvm.load(out / "own", problem=own).sample(5)["tau"].values)

    # The same call again: with resume=True the finished result is read instead of made.
    resumed = lvm.fit(own, "full_rank", max_steps=steps, out=out / "own", resume=True)
    print(f"resumed, first made in {sum(resumed.seconds.values()):.1f} s")


if __name__ == "__main__":
    main(sys.argv[1], "--quick" in sys.argv)
