"""VAEs of 28 x 28 pixels, 50 latents, batch 128: milliseconds a step, compile seconds, and the ELBO after the same number of steps.

    python benchmarks/vae_speed.py                             # 784-200-200-50
    python benchmarks/vae_speed.py --network convolutional     # strided convolutions, as one writes them in PyTorch
    python benchmarks/vae_speed.py --device cuda
    python benchmarks/vae_speed.py --images mnist.npy          # uint8, (rows, 784), 0 or 1
    python benchmarks/vae_speed.py --quick

It measures speed: without ``--images`` the pixels are drawn from a random network. Each run is a fresh process with empty
compile caches; methods take turns, and medians are shown. ELBOs are computed from the final weights by one program,
in double precision.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import common
import fresh
import numpy as np
from problems import vae

METHODS = ("pyro", "torch_eager", "torch_compiled", "torch_graphs", "numpyro", "pyrolvm")
DENSE_ALONE = ("numpyro",)
"""Methods whose networks are not torch's, and are written for dense ones."""
HELD_OUT = 1_000
COLUMNS = {
    "method": "method", "ms_per_step": "ms/step", "compile_s": "compile + set-up s", "total_s": "total s", "elbo": "ELBO/image",
    "elbo_error": "+-", "engine": "engine", "status": "status",
}  # fmt: skip


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__)
    parser.add_argument("--network", choices=vae.NETWORKS, default="dense")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--rows", type=int, default=20_000, help="generated images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--engine", default="auto", help="the engine of pyrolvm")
    parser.add_argument(
        "--images", type=Path, help="a .npy file of binary images (rows, 784) instead of generated ones"
    )
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.steps, args.rows = 1, 400, 3_000
    able = [m for m in METHODS if m not in DENSE_ALONE or args.network == "dense"]
    methods = common.chosen([m for m in able if m != "torch_graphs" or args.device != "cpu"], args.method)
    before = common.load()
    rng = np.random.default_rng(args.seed)
    pictures = np.load(args.images, allow_pickle=False) if args.images else vae.images(rng, args.rows + HELD_OUT)
    x, held_out = pictures[:-HELD_OUT], pictures[-HELD_OUT:]
    first = vae.weights(args.network, args.seed)
    runs: dict[str, list[common.Row]] = {method: [] for method in methods}
    for repetition in range(args.repetitions):
        order = vae.order(np.random.default_rng(args.seed + repetition), len(x), args.batch, args.steps)
        for method in methods:
            if repetition and runs[method][0]["status"] != "ok":
                continue
            job = {
                "seed": args.seed + repetition, "steps": args.steps, "batch": args.batch, "device": args.device,
                "engine": args.engine, "network": args.network,
            }  # fmt: skip
            arrays = {"x": x, "order": order, **first}
            found, out = fresh.run(f"vae.{method}", job, arrays, python=sys.executable, timeout=args.timeout)
            print(
                f"  vae {method} #{repetition}: {found['status']} {found.get('seconds', '')}",
                file=sys.stderr,
                flush=True,
            )
            found.pop("versions", None)
            if found["status"] == "ok" and set(first) <= set(out):
                found["elbo"], found["elbo_error"] = vae.elbo(args.network, out, held_out)
            elif found["status"] == "ok":
                found["status"] = f"failed: the weights {sorted(set(first) - set(out))[:3]} did not come back"
            runs[method].append(found)
    rows = [_row(method, repeats, args.steps) for method, repeats in runs.items()]
    print(common.table(rows, COLUMNS))
    compared = _ratios(rows)
    print("\n" + common.table(compared, {key: key for key in compared[0]}))
    start = vae.elbo(args.network, first, held_out)[0]
    print(
        f"\nThe first weights have ELBO {start:.1f} an image; the images are {'given' if args.images else 'generated'}."
    )
    found = {"load_at_start": before, "elbo_of_first_weights": start, "rows": rows, "ratios": compared}
    name = "vae_speed" if args.network == "dense" else f"vae_speed_{args.network}"
    name = name if args.device == "cpu" else f"{name}_{args.device}"
    path = common.report(name, args, {**found, "device": _device(args.device)})
    print(f"written to {path}")


def _row(method: str, repeats: list[common.Row], steps: int) -> common.Row:
    bad = [found["status"] for found in repeats if found["status"] != "ok"]
    seconds: Any = {
        phase: common.median(f.get("seconds", {}).get(phase) for f in repeats) for phase in ("total", "compile", "run")
    }
    values = [found["elbo"] for found in repeats if "elbo" in found]
    errors = [found["elbo_error"] for found in repeats if "elbo" in found]
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {
        "method": method,
        "ms_per_step": None if seconds["run"] is None else 1e3 * seconds["run"] / steps,
        "compile_s": seconds["compile"],
        "total_s": seconds["total"],
        "elbo": float(np.mean(values)) if values else None,
        "elbo_error": spread if spread is not None else (errors[0] if errors else None),
        "engine": repeats[0].get("engine"),
        "engine_reason": repeats[0].get("engine_reason"),
        "status": bad[0] if bad else "ok",
        "runs": repeats,
    }


def _ratios(rows: list[common.Row]) -> list[common.Row]:
    """Each method's time of a step over pyrolvm's: above 1 is better for pyrolvm."""
    mine = next((row["ms_per_step"] for row in rows if row["method"] == "pyrolvm"), None)
    return [
        {
            f"{row['method']} / pyrolvm": common.ratio(row["ms_per_step"], mine)
            for row in rows
            if row["method"] != "pyrolvm"
        }
    ]


def _device(name: str) -> str:
    """The GPU's name, asked of a process of its own."""
    if name == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(name) if torch.cuda.is_available() else name


if __name__ == "__main__":
    main()
