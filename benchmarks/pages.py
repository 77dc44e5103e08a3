"""Puts the tables of committed results into the pages of the docs, between their markers.

    python benchmarks/pages.py

A marker ``<!-- results: NAME -->`` is followed by the table of ``benchmarks/results/NAME.json`` up to ``<!-- end -->``; of results of
problems that have several pages, each page has its rows.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import calibration as calibrated
import common
import compression as compressions
import deep as autoencoders
import density_engines as densities
import durability as durable
import evidence as estimates
import first as beginnings
import gaps as losses
import held_out as unseen
import ica as separation
import iwae as bounds
import likelihood as likelihoods
import load as loads
import many_chains as crowds
import nats as likelier
import objectives as gradients
import peer_programs as peers
import samplers as chains
import stopping as stops
import sweep as sweeps
import tradeoffs as trades
import zoo as models_of_the_zoo
from posteriordb import run as whole

import guides

DOCS = common.HERE.parent / "docs"
PAGES = (
    "calibrate.md",
    "choose-a-guide.md",
    "compress.md",
    "durability.md",
    "engines-coverage.md",
    "engines.md",
    "evidence.md",
    "gaps.md",
    "how-vi-fails.md",
    "kernels.md",
    "objectives.md",
    "sweep.md",
    "trade-offs.md",
    "vi-or-mcmc.md",
    "zoo-deep.md",
    "zoo-likelihood.md",
    "zoo.md",
    "../README.md",
)
MARK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def svi(found: dict[str, Any]) -> str:
    """Steps a second and seconds to all steps, by every method."""
    rows = []
    for problem, guide in dict.fromkeys((row["problem"], row["guide"]) for row in found["rows"]):
        by = {r["method"]: r for r in found["rows"] if (r["problem"], r["guide"]) == (problem, guide)}
        row = {"problem": problem, "guide": guide, "engine": by["pyrolvm"]["engine"]}
        for method in ("pyrolvm", "numpyro", "pyro"):
            measured = by.get(method, {})
            row |= {f"{method} {key}": measured.get(key) for key in ("steps_per_s", "total_s", "elbo")}
        rows.append(row)
    columns = {
        "problem": "problem", "guide": "guide", "engine": "engine", "pyrolvm steps_per_s": "steps/s", "numpyro steps_per_s": "NumPyro",
        "pyro steps_per_s": "Pyro", "pyrolvm total_s": "total, s", "numpyro total_s": "NumPyro, s", "pyro total_s": "Pyro, s",
        "pyrolvm elbo": "ELBO", "numpyro elbo": "NumPyro's",
    }  # fmt: skip
    return common.table(rows, columns)


def nuts(found: dict[str, Any]) -> str:
    """Seconds and effective draws a second, by every method."""
    columns = {
        "problem": "problem", "method": "method", "total_s": "total, s", "ess": "min ESS", "ess_per_s": "ESS/s",
        "ess_per_s_sampling": "ESS/s, sampling", "z_mean": "worst z of a mean", "rhat": "R-hat", "divergences": "divergences",
        "status": "status",
    }  # fmt: skip
    return common.table(found["rows"], columns)


def vae(found: dict[str, Any]) -> str:
    """Milliseconds a step, by every method."""
    columns = {
        "method": "method", "ms_per_step": "ms/step", "compile_s": "compile, s", "total_s": "total, s", "elbo": "ELBO/image",
        "engine": "engine",
    }  # fmt: skip
    return common.table([row for row in found["rows"] if row["status"] == "ok"], columns)


def by_row(columns: dict[str, str], part: str = "rows") -> Callable[[dict[str, Any]], str]:
    """The rows of a result, by these columns."""
    return lambda found: common.table(found[part], columns)


def durability(found: dict[str, Any]) -> str:
    """Memory of long fits, and what their checkpoints cost."""
    return "\n\n".join(
        common.table(found[part], columns) for part, columns in (("memory", durable.MEMORY), ("costs", durable.COSTS))
    )


def evidence(found: dict[str, Any]) -> str:
    """Errors made and stated of every method on every model, and the sandwich."""
    rows = [row | {name: f"{row[name]:.0%}" for name in ("inside", "trusted")} for row in found["rows"]]
    gaps = sorted(row["gap"] for row in found["sandwich"])
    words = (
        f"Bidirectional annealing on data simulated from a logistic regression with 10 unknowns, {len(gaps)} data sets: the bounds are "
        f"{gaps[len(gaps) // 2]:.3f} nats apart in the median, {gaps[-1]:.3f} at most. Below zero the bounds cross, by their noise."
    )
    return common.table(rows, estimates.COLUMNS) + (f"\n\n{words}" if gaps else "")


def zoo(found: dict[str, Any]) -> str:
    """Which engine took each problem, and why."""
    columns = {
        "problem": "problem", "method": "method", "engine": "engine", "compile": "compile, s", "run": "run, s", "total": "total, s",
        "reason": "why",
    }  # fmt: skip
    return common.table(found["rows"], columns)


def posteriordb(found: dict[str, Any]) -> str:
    """What each method reaches on whole posteriors, and each posterior by the ladder."""
    rows = found["rows"]
    names = list(dict.fromkeys(row["posterior"] for row in rows))
    reached = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        line = {"method": method} | whole.summary(mine, list(dict.fromkeys(row["posterior"] for row in mine)))
        for share in ("trusted_wrong_share", "good_trusted_share"):
            line[share] = None if line[share] is None else f"{line[share]:.1%}"
        reached.append(line)
    columns = {
        "method": "method", "posteriors": "posteriors", "results": "runs", "failures": "failures",
        "good_posteriors": "within 0.1 sd, 10%", "strict_posteriors": "within 0.05 sd, 5%", "trusted_results": "runs trusted",
        "trusted_wrong_share": "of those off", "good_trusted_share": "of the good, trusted", "median_seconds": "median s",
    }  # fmt: skip
    shown = {
        "posterior": "posterior", "mean_error": "mean off, sds", "mean_error_at": "at", "sd_error": "sd off", "sd_error_at": "at ",
        "khat": "k-hat", "verdicts": "verdicts", "good": "within 0.1", "strict": "within 0.05", "seconds": "s",
    }  # fmt: skip
    parts = [common.table(reached, columns)]
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] in ("infer-vi", "infer")):
        mine = [row for row in rows if row["method"] == method]
        parts.append(f"`{method}`:\n\n" + common.table(whole.table(mine, names), shown))
    return "\n\n".join(parts)


def samplers(found: dict[str, Any]) -> str:
    """Gradients and seconds of each method, and what they are beside those of the first."""
    lines = "\n".join(f"- {line}" for line in found["ratios"])
    return f"{common.table(found['rows'], chains.COLUMNS)}\n\n{lines}"


def ica(found: dict[str, Any]) -> str:
    """Separation beside FastICA, and what noise costs."""
    parts = (("separation", separation.SEPARATION), ("noise", separation.NOISY))
    return "\n\n".join(common.table(found[part], columns) for part, columns in parts)


def gaps(found: dict[str, Any]) -> str:
    """What is known in closed form, and the digits."""
    parts = [common.table(found["rows"], losses.SHOWN)]
    for row in found.get("digits", []):
        shown: dict[str, Any] = {key: f"{row[key]:.2f}" for key in losses.DIGITS}
        shown |= {"active": f"{row['active']} of {row['units']}"}
        error = max(row[f"{name}_error"] for name in ("evidence", "best", "elbo"))
        words = (
            f"The zoo's `vae`, 8 units, {row['rows']} of its rows, nats an image. After k steps of refinement the encoder's output has "
            f"the ELBO shown; each figure has an error of at most {error:.1g}."
        )
        parts.append(words + "\n\n" + common.table([shown], losses.DIGITS))
    return "\n\n".join(parts)


def peer_programs(found: dict[str, Any]) -> str:
    """What becomes of each of Pyro's own example files, and the shares."""
    total = found["summary"]
    words = (
        f"{total['files_that_run']} of {total['files']} files run unchanged. Of {total['rows']} fits of {found['settings']['steps']:,} "
        f"steps {total['runs']} run, {total['refused']} are refused with the reason, {total['crashed']} crash, and {total['wrong']} "
        f"state another log density of their draws than stock Pyro. {total['stock']} run on stock Pyro."
    )
    return words + "\n\n" + common.table(peers.by_file(found["rows"]), peers.BY_FILE)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "calibration": by_row(calibrated.COLUMNS),
    "compression": by_row(compressions.COLUMNS),
    "deep": by_row(autoencoders.COLUMNS),
    "durability": durability,
    "first": lambda found: common.table(found["rows"], beginnings.COLUMNS | beginnings.BEFORE),
    "likelihood": by_row(likelihoods.COLUMNS),
    "load": by_row(loads.COLUMNS),
    "nats": likelier.shown,
    "objectives": by_row(gradients.COLUMNS),
    "stopping": by_row(stops.COLUMNS, "summary"),
    "sweep": by_row(sweeps.COLUMNS),
    "evidence": evidence,
    "gaps": gaps,
    "svi_speed": svi,
    "nuts_speed": nuts,
    "peer_programs": peer_programs,
    "many_chains": by_row(crowds.COLUMNS),
    "samplers": samplers,
    "vae_speed": vae,
    "vae_speed_convolutional": vae,
    "zoo": by_row(models_of_the_zoo.COLUMNS),
    "ica": ica,
    "iwae": by_row(bounds.COLUMNS),
    "density_engines": by_row(densities.COLUMNS),
    "zoo_engines": zoo,
    "posteriordb": posteriordb,
    "posteriordb_hard": posteriordb,
    "posteriordb_guides": posteriordb,
    **{f"tradeoffs_{name}": partial(trades.shown, name) for name in trades.SECTIONS},
}
"""The table of each result; the others are of guides."""


def note(found: dict[str, Any]) -> str:
    """Where and how it was measured."""
    machine = found["hardware"]
    names = ("torch", "pyro-ppl", "jax", "numpyro", "nutpie", "pymc", "pystan")
    known = found["versions"] | (found["versions_of_peers"] or {})
    versions = ", ".join(f"{name} {known[name]}" for name in names if name in known)
    return (
        f"{machine['processor']}, {machine['cores']} cores; Python {known['python']}, {versions}; {found['date']}. "
        f"Made by `{found['command']}`; all figures are in `benchmarks/results/{found['benchmark']}.json`."
    )


def fill(text: str, page: str = "") -> str:
    """A page with the tables of the committed results between its markers."""

    def put(match: re.Match[str]) -> str:
        found = json.loads((common.RESULTS / f"{match[2]}.json").read_text(encoding="utf-8"))
        if match[2] == "held_out":
            return f"{match[1]}\n{unseen.shown(found, page)}\n\n{note(found)}\n\n{match[3]}"
        made = TABLES.get(match[2])
        shown = guides.table(found) if made is None else f"{made(found)}\n\n{note(found)}\n"
        return f"{match[1]}\n{shown}\n{match[3]}"

    return MARK.sub(put, text)


def main() -> None:
    """Fills in the tables, or with ``--check`` tells whether they are what the results say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    for page in PAGES:
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        filled = fill(text, page.removesuffix(".md"))
        if check and filled != text:
            raise SystemExit(f"{page} is out of date. Fix: python benchmarks/pages.py")
        path.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
