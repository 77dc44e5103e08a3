"""Compresses rows that a model has not seen by ``lvm.compress``, beside what knows no model: deflate, bz2, xz, PNG and WebP.

    python benchmarks/compression.py --fits runs/compression           writes benchmarks/results/compression.json
    python benchmarks/compression.py --case "MNIST, vae" --fits runs   measures one again and leaves the others as they are

Fits are kept in a folder and taken from it where they are there. Each file is decoded by other processes, with one thread and with two,
and compared with what went in. Seconds are of the processor. ``-ELBO`` is that of ``lvm.evaluate`` on the same rows; of models without
latents it is minus log p(x).
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import math
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, Row, chosen, parser, report, table
from PIL import Image

import pyrolvm as lvm
from pyrolvm._check.compress.inference import compressed
from pyrolvm_models.autoregressive import image_data
from pyrolvm_models.datasets import ALPHABET
from pyrolvm_models.sequences import text_data

MNIST = {"data": "binarized_mnist", "hidden": [200, 200], "latent": 40}
TEXT = {"batch_size": 64, "learning_rate": 2e-3, "schedule": "warmup_cosine", "max_steps": 600}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "digits, vae": ("vae", {}, {}),
    "digits, vae prior=vamp": ("vae", {"prior": "vamp"}, {}),
    "digits, ladder_vae": ("ladder_vae", {}, {}),
    "digits, discrete_vae": ("discrete_vae", {}, {}),
    "digits, autoregressive_vae": ("autoregressive_vae", {"context": 1}, {}),
    "digits, made": ("made", {"dropout": 0.3}, {"learning_rate": 1e-3}),
    "17 levels, vae": ("vae", {"likelihood": "logistic"}, {}),
    "text, recurrent_text": ("recurrent_text", {"dropout": 0.3}, TEXT),
    "text, wavenet": ("wavenet", {"dropout": 0.3}, TEXT),
    "text, transformer_text": ("transformer_text", {"dropout": 0.2}, TEXT),
    "digits, discrete_flow": ("discrete_flow", {}, {"schedule": "warmup_cosine"}),
    "MNIST, vae": ("vae", MNIST, {"max_steps": 12_000, "learning_rate": 2e-3, "schedule": "warmup_cosine", "draws": 2}),
}
"""Problem, its options, and those of the fit."""

COLUMNS = {
    "case": "data, model", "net": "net", "with_initial": "with initial bits", "whole": "whole file", "bound": "-ELBO or -log p",
    "excess": "net above it, %", "deflate": "deflate", "bz2": "bz2", "xz": "xz", "png": "PNG", "webp": "WebP",
    "saved": "below the best, %",
    "rows": "rows", "compress_rows": "rows/s in", "decode_rows": "rows/s out", "same": "round trip", "status": "status",
}  # fmt: skip


def unseen(name: str, options: dict[str, Any]) -> torch.Tensor:
    """Rows that the fit has not seen."""
    if name in ("recurrent_text", "wavenet", "transformer_text"):
        return text_data("descriptions", lvm.problem(name, **options).args[0].shape[1], part="test")
    if name in ("made", "discrete_flow"):
        return image_data("binary_digits", part="test")[0]
    rows: torch.Tensor = lvm.problem(name, **{**options, "split": "test"}).args[0]
    return rows


def others(x: np.ndarray[Any, Any], levels: int) -> Row:
    """Bits of a number by compressors that know no model, each on the layout of the rows that suits it best."""
    whole = x.astype(np.uint8)
    layouts = [whole.tobytes()]
    if levels == 2:
        layouts += [np.packbits(whole).tobytes(), np.packbits(whole, axis=1).tobytes()]
    if levels == len(ALPHABET):
        layouts = ["".join(ALPHABET[code] for code in line).encode() for line in [whole.reshape(-1)]]
    best = {
        "deflate": min(len(zlib.compress(one, 9)) for one in layouts),
        "bz2": min(len(bz2.compress(one, 9)) for one in layouts),
        "xz": min(len(lzma.compress(one, preset=9 | lzma.PRESET_EXTREME)) for one in layouts),
    }
    side = math.isqrt(x.shape[1])
    if side * side == x.shape[1] and levels != len(ALPHABET):
        best |= pictures(whole.reshape(len(x), side, side), levels)
    return {name: 8 * size / x.size for name, size in best.items()}


def pictures(images: np.ndarray[Any, Any], levels: int) -> dict[str, int]:
    """Bytes of all images side by side as one."""
    across = math.isqrt(len(images))
    down = math.ceil(len(images) / across)
    side = images.shape[1]
    sheet = np.zeros((down * across, side, side), dtype=np.uint8)
    sheet[: len(images)] = images
    sheet = sheet.reshape(down, across, side, side).swapaxes(1, 2).reshape(down * side, across * side)
    shown = Image.fromarray(sheet * 255 if levels == 2 else sheet)
    sizes = {}
    for name, picture, words in (
        ("png", shown.convert("1") if levels == 2 else shown, {"optimize": True}),
        ("webp", shown, {"lossless": True, "quality": 100, "method": 6}),
    ):
        file = io.BytesIO()
        picture.save(file, name, **words)
        sizes[name] = len(file.getvalue())
    return sizes


def decoded_elsewhere(run: Path, blob: bytes, x: torch.Tensor, name: str) -> bool:
    """Whether other processes, with one thread and with two, decode it to what went in."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.lvmz").write_bytes(blob)
        for threads in ("1", "2"):
            words = ["decompress", str(run), f"{folder}/x.lvmz", "--out", f"{folder}/{threads}.npz"]
            subprocess.run(
                [sys.executable, "-m", "pyrolvm", *words], check=True, env={**os.environ, "OMP_NUM_THREADS": threads}
            )
            if not np.array_equal(np.load(f"{folder}/{threads}.npz")[name], x.numpy()):
                return False
    return True


def fitted(case: str, folder: Path, steps: int, seed: int) -> tuple[lvm.Fit, float | None]:
    """The fit of a case, made where it is not there yet, and the seconds that took."""
    name, options, words = CASES[case]
    run = folder / case.replace(", ", "-").replace(" ", "-").replace("=", "-")
    if run.is_dir():
        found = lvm.load(run)
        return found, None
    settings = {
        "batch_size": 128,
        "num_particles": 1,
        "max_steps": steps,
        "learning_rate": 3e-3,
        "tolerance": 0,
        "draws": 100,
    } | words
    began = time.process_time()
    fit = lvm.fit(lvm.problem(name, **options), seed=seed, progress=False, **settings)
    spent = time.process_time() - began
    fit.save(run)
    return fit, spent


def measure(case: str, folder: Path, steps: int, seed: int) -> Row:
    """One row of the table."""
    name, options, _ = CASES[case]
    x = unseen(name, options)
    fit, spent = fitted(case, folder, steps, seed)
    began = time.process_time()
    found = compressed(fit, x, check=False)
    packed = time.process_time() - began
    began = time.process_time()
    back = lvm.decompress(fit, found.blob)
    opened = time.process_time() - began
    run = folder / case.replace(", ", "-").replace(" ", "-").replace("=", "-")
    same = torch.equal(back, x) and decoded_elsewhere(run, found.blob, x, next(iter(fit.attached.arguments)))
    table = lvm.evaluate(fit, x, draws=20, pictures=False, progress=False, train_rows=2).table.value
    bound = -float(table["ELBO" if "ELBO" in table else "log p(x)"]) / math.log(2) / found.dimensions
    levels = len(ALPHABET) if case.startswith("text") else 17 if case.startswith("17") else 2
    general = others(x.numpy(), levels)
    net = found.per_dimension(found.net_bits)
    return {
        "case": case, "rows": found.rows, "dimensions": found.dimensions, "net": net,
        "with_initial": found.per_dimension(found.net_bits + found.initial_bits), "whole": found.per_dimension(found.file_bits),
        "initial_bits": found.initial_bits, "bytes": len(found.blob), "bound": bound, "excess": 100 * (net / bound - 1),
        "bound_at_latents": found.per_dimension(found.bound_bits), **general,
        "saved": 100 * (1 - found.per_dimension(found.file_bits) / min(general.values())), "compress_rows": found.rows / packed,
        "decode_rows": found.rows / opened, "fit_seconds": spent, "same": "exact" if same else "WRONG", "status": "ok",
    }  # fmt: skip


def main() -> None:
    """Measures the cases, and writes after each."""
    args_of = parser(__doc__)
    args_of.add_argument("--case", action="append", help="only these cases; the others stay as they are")
    args_of.add_argument("--fits", type=Path, default=Path("runs/compression"), help="where fits are kept")
    args_of.add_argument("--steps", type=int, default=3_000, help="steps of a fit, where a case does not say")
    args = args_of.parse_args()
    path = args.out or RESULTS / "compression.json"
    before = {row["case"]: row for row in json.loads(path.read_text())["rows"]} if args.case and path.exists() else {}
    steps = 20 if args.quick else args.steps
    for case in chosen(list(CASES), args.case):
        try:
            before[case] = measure(case, args.fits, steps, args.seed)
        except Exception as error:
            before[case] = {"case": case, "status": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        rows = [before[name] for name in CASES if name in before]
        report("compression", args, {"rows": rows})
        print(table([before[case]], COLUMNS), flush=True)


if __name__ == "__main__":
    main()
