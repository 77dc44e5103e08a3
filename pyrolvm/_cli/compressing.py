"""``pyrolvm compress`` and ``pyrolvm decompress``: rows of data by a saved fit of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyrolvm._base.writing import replace_file
from pyrolvm._check.compress.inference import compressed, decompressed
from pyrolvm._cli.data_files import DATA
from pyrolvm._cli.fitted import arguments_in, attached
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_file
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.sources import load_data
from pyrolvm._runs.readers import read_bytes

__all__ = ["run"]

COMPRESSED = (".lvmz",)
ROWS = (".npz", ".csv")
MOST_BYTES = 2**34


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs either command."""
    return _compress(args, out) if args.command == "compress" else _decompress(args, out)


def _compress(args: argparse.Namespace, out: Output) -> int:
    file = choose_file(args.out, COMPRESSED, overwrite=args.overwrite)
    fit = attached(args)
    found = compressed(fit, arguments_in(load_data(Path(args.file)), fit, args.file), check=args.check)
    replace_file(file, lambda opened: opened.write(found.blob))
    bits = {
        "net": found.net_bits, "initial": found.initial_bits, "whole file": found.file_bits, "bound": found.bound_bits
    }  # fmt: skip
    each = {name: found.per_dimension(value) for name, value in bits.items()}
    out.line(f"{fit.name} of {fit.attached.name}: {found.rows:,} rows of {found.dimensions} numbers", style="bold")
    out.table([[name, f"{bits[name]:,.0f}", f"{each[name]:.4f}"] for name in bits], ["", "bits", "a number"])
    out.line(f"{found.seconds:.1f} s to compress, {found.check_seconds:.1f} s to decode again")
    out.line(f"written: {file}")
    out.write_json(
        {
            "command": "compress", "run": args.target, "file": str(file), "rows": found.rows, "dimensions": found.dimensions,
            "bits": bits, "bits_per_dimension": each, "seconds": found.seconds, "check_seconds": found.check_seconds,
        }
    )  # fmt: skip
    return 0


def _decompress(args: argparse.Namespace, out: Output) -> int:
    file = choose_file(args.out, ROWS, overwrite=args.overwrite)
    fit = attached(args)
    name, rows = decompressed(fit, read_bytes(Path(args.file), DATA, limit=MOST_BYTES))
    array = rows.numpy()

    def write(opened: BinaryIO) -> None:
        if file.suffix.lower() == ".npz":
            np.savez_compressed(opened, **{name: array})  # type: ignore[arg-type]
            return
        flat = array.reshape(len(array), -1).astype(np.int64)
        heads = [name] if array.ndim == 1 else [f"{name}.{i + 1}" for i in range(flat.shape[1])]
        np.savetxt(opened, flat, fmt="%d", delimiter=",", header=",".join(heads), comments="")

    replace_file(file, write)
    shape = " x ".join(map(str, array.shape))
    out.line(f"{name}: {shape}")
    out.line(f"written: {file}")
    out.write_json({"command": "decompress", "run": args.target, "file": str(file), "shape": list(array.shape)})
    return 0
