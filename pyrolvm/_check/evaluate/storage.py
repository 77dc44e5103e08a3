"""Evaluations on disk: netCDF and JSON, in folders as :mod:`pyrolvm._runs` makes them."""

from __future__ import annotations

import math
from pathlib import Path

from pyrolvm import _runs as runs
from pyrolvm._check.evaluate.result import Evaluation
from pyrolvm._check.evaluate.saving import FORM, PLAIN
from pyrolvm._program.image import Image
from pyrolvm._results import store
from pyrolvm._results.nested import read_verdict
from pyrolvm._runs.readers import parsing

__all__ = ["CODEC", "COMMAND", "load"]

COMMAND = "evaluate"


def load(path: str | Path) -> Evaluation:
    """Reads an evaluation.

    Raises:
        StoreError: if there is none, or a file is damaged.
    """
    import pandas as pd

    folder = Path(path)
    paths = runs.verified(folder, ("data", "meta"))
    meta = paths["meta"].json()
    store.check_types(paths["meta"].path, meta, PLAIN)
    data = paths["data"].tree()
    with parsing(paths["meta"].path):
        table = pd.DataFrame(meta["table"]).set_index("figure").replace({None: math.nan})
        numbers = ["value", "error", "row_error", "train"]
        table[numbers] = table[numbers].astype(float)
        auroc = None if meta["auroc"] is None else pd.DataFrame(meta["auroc"]).set_index("data set")[meta["scores"]]
        verdict = read_verdict(meta["verdict"])
        left_out = {str(name): str(why) for name, why in meta["left_out"]}
        image = None if meta["image"] is None else Image(**meta["image"])
    units = None
    if "units" in data.children:
        units = data["units"].to_dataset().to_dataframe()
        units["active"] = units["active"].astype(bool)
    plain = {name: meta[name] for name in PLAIN} | {"notes": tuple(meta["notes"]), "left_out": left_out}
    return Evaluation(table=table, units=units, auroc=auroc, data=data, verdict=verdict, image=image, **plain)


CODEC: runs.Codec[Evaluation] = runs.Codec(FORM.kind, FORM.parts, load)
