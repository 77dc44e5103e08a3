"""Evaluations on disk: netCDF and JSON, in folders as :mod:`pyrolvm.runs` makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyrolvm import runs, store
from pyrolvm.errors import StoreError
from pyrolvm.evaluation.result import Evaluation
from pyrolvm.program.image import Image
from pyrolvm.store.nested import read_verdict

__all__ = ["CODEC", "COMMAND", "load"]

KIND, COMMAND = "Evaluation", "evaluate"

_PLAIN: dict[str, Any] = {
    "name": str, "problem": str, "left_out": list, "notes": list, "titles": dict, "site": str, "draws": int, "exact": bool,
    "engine": str, "engine_reason": str, "seed": int, "seconds": float,
}  # fmt: skip


def _parts(evaluation: Evaluation) -> Mapping[str, runs.Part]:
    meta: dict[str, Any] = {"kind": KIND}
    for name in _PLAIN:
        value = getattr(evaluation, name)
        meta[name] = list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
    meta["left_out"] = [[name, why] for name, why in evaluation.left_out.items()]  # JSON's objects have no order
    shown = evaluation.as_dict()
    meta |= {
        "table": shown["table"],
        "auroc": shown["auroc"],
        "scores": [] if evaluation.auroc is None else list(evaluation.auroc.columns),
        "verdict": shown["verdict"],
    }
    meta["image"] = None if evaluation.image is None else asdict(evaluation.image)
    return {
        "data": (".nc", lambda file: store.write_tree(evaluation.data, file)),
        "meta": (".json", runs.as_json(meta)),
    }


def load(path: str | Path) -> Evaluation:
    """Reads an evaluation.

    Raises:
        StoreError: if there is none, or a file is damaged.
    """
    import pandas as pd

    folder = Path(path)
    paths = runs.verified(folder, ("data", "meta"))
    meta = paths["meta"].json()
    if meta.get("kind") != KIND:
        raise StoreError(f"{folder} holds a {meta.get('kind')!r}, not an evaluation. Fix: use lvm.load(path).")
    store.check_types(paths["meta"].path, meta, _PLAIN)
    data = paths["data"].tree()
    try:
        table = pd.DataFrame(meta["table"]).set_index("figure").replace({None: math.nan})
        numbers = ["value", "error", "row_error", "train"]
        table[numbers] = table[numbers].astype(float)
        auroc = None if meta["auroc"] is None else pd.DataFrame(meta["auroc"]).set_index("data set")[meta["scores"]]
        verdict = read_verdict(meta["verdict"])
        left_out = {str(name): str(why) for name, why in meta["left_out"]}
        image = None if meta["image"] is None else Image(**meta["image"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{paths['meta'].path} is damaged: {error}. Fix: restore it, or run again.") from error
    units = None
    if "units" in data.children:
        units = data["units"].to_dataset().to_dataframe()
        units["active"] = units["active"].astype(bool)
    plain = {name: meta[name] for name in _PLAIN} | {"notes": tuple(meta["notes"]), "left_out": left_out}
    return Evaluation(table=table, units=units, auroc=auroc, data=data, verdict=verdict, image=image, **plain)


CODEC: runs.Codec[Evaluation] = runs.Codec(KIND, _parts, load)
