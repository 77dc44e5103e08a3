"""What is ready to be offered to other projects runs without this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "upstream" / "arviz_base"


def test_it_imports_nothing_of_ours() -> None:
    for file in FOLDER.glob("*.py"):
        assert "import pyrolvm" not in file.read_text(encoding="utf-8"), file


@pytest.mark.slow
def test_the_converters_for_arviz_base_pass_their_tests(tmp_path: Path) -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(FOLDER), "-c", os.devnull, str(FOLDER)]
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
