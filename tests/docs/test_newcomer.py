"""From the front page to a posterior of one's own table and a prediction, by what stands on the pages and nothing else."""

from __future__ import annotations

import csv
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def section(page: Path, heading: str) -> str:
    """What stands under a heading."""
    text = page.read_text(encoding="utf-8")
    assert f"\n## {heading}\n" in text
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """The calls of the console blocks, in order."""
    lines = [line for language, code in FENCE.findall(text) if language == "console" for line in code.splitlines()]
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]


@pytest.mark.slow
def test_a_newcomer_gets_from_the_front_page_to_a_prediction(tmp_path: Path) -> None:
    assert ":link: start\n" in (DOCS / "index.md").read_text(encoding="utf-8")
    start = DOCS / "start.md"
    install = commands(section(start, "Install"))
    assert [words[:2] for words in install] == [["pip", "install"], ["pip", "install"], ["pyrolvm", "doctor"]]
    own = section(start, "A table of your own")
    (program,) = (code for language, code in FENCE.findall(own) if language == "python")
    named = re.search(r"Write this into `(\w+\.py)`", own)
    assert named is not None
    (tmp_path / named[1]).write_text(program, encoding="utf-8")

    from sklearn.datasets import load_iris

    iris = load_iris()
    rows = [(iris.target_names[k], *x[2:]) for k, x in zip(iris.target, iris.data, strict=True)]
    known, new = [row for i, row in enumerate(rows) if i % 5], rows[::5]
    for name, header, kept in (
        ("iris.csv", ("species", "length", "width"), known),
        ("new.csv", ("species", "length"), [row[:2] for row in new]),
    ):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])

    verdicts = {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for words in (install[-1], *commands(own)):
        assert words[0] == "pyrolvm"
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
        verdicts[words[1]] = done.stdout
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "trusted" in verdicts["infer"] and "trusted" in verdicts["diagnose"]

    with (tmp_path / "predicted.csv").open(encoding="utf-8") as file:
        predicted = list(csv.DictReader(file))
    assert len(predicted) == len(new)
    truth = np.array([row[2] for row in new])
    low, high, mean = (np.array([float(row[column]) for row in predicted]) for column in ("q05", "q95", "mean"))
    assert np.mean((truth >= low) & (truth <= high)) > 0.75
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.3 < truth.std()
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 120, f"{seconds:.0f} s of CPU"
