"""Evaluations as they are written: netCDF and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from pyrolvm import _runs as runs
from pyrolvm._check.evaluate.evaluated import Evaluated
from pyrolvm._results.saving import write_tree

__all__ = ["FORM", "PLAIN"]

PLAIN: dict[str, object] = {
    "name": str, "problem": str, "left_out": list, "notes": list, "titles": dict, "site": str, "draws": int, "exact": bool,
    "engine": str, "engine_reason": str, "seed": int, "seconds": float,
}  # fmt: skip


def _parts(evaluation: Evaluated) -> Mapping[str, runs.Part]:
    meta: dict[str, object] = {"kind": "Evaluation"}
    for name in PLAIN:
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
        "data": (".nc", lambda file: write_tree(evaluation.data, file)),
        "meta": (".json", runs.as_json(meta)),
    }


FORM: runs.Codec[Evaluated] = runs.Codec("Evaluation", _parts)
