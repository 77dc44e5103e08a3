"""The gallery's notebooks are run ones, small, and listed; the site is built of all pages without a warning."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "gallery").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_run_from_its_beginning_and_is_small(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})], "a notebook has a picture"
    assert path.stat().st_size < 300_000


def test_the_gallery_lists_and_pictures_each_notebook() -> None:
    text = (DOCS / "gallery" / "index.md").read_text(encoding="utf-8")
    named = {path.stem for path in NOTEBOOKS}
    assert set(re.findall(r":link: (\w+)\n", text)) == named
    assert {path.stem for path in (DOCS / "images" / "gallery").glob("*.png")} == named
    assert named <= set(text.rpartition("```{toctree}")[2].split())


@pytest.mark.slow
def test_every_page_and_every_public_name_is_in_the_site() -> None:
    import pyrolvm as lvm

    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or f"\n{page.stem}\n" in index, page
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    for name in lvm.__all__:
        assert re.search(rf"auto\w+:: (pyrolvm\.)?{name}$", reference, re.MULTILINE) or name == "__version__", name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("run_notebooks", DOCS / "run_notebooks.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    (tmp_path / "images" / "gallery").mkdir(parents=True)
    (tmp_path / "gallery").mkdir()
    tool.run(Path(shutil.copy(path, tmp_path / "gallery")))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api" / "inference.html").is_file()
    command = [sys.executable, str(DOCS / "check_links.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "sub" / "a.html").write_text('<h2 id="there">A</h2>')
    good = (
        '<a href="sub/a.html#there"></a><img src="picture.png"/><a href="#"></a><a href="https://elsewhere.org/x"></a>'
    )
    inside = '<a href="https://github.com/pyrolvm/pyrolvm/blob/main/README.md"></a>'
    bad = '<a href="sub/a.html#gone"></a><a href="sub/b.html"></a><img src="lost.png"/>'
    (tmp_path / "index.html").write_text(good + inside + bad + inside.replace("README", "NOTHING"))
    command = [sys.executable, str(DOCS / "check_links.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("8 links") and "4 broken; 1 lead elsewhere" in done.stdout
    for word in ("#gone: the page has no such heading", "sub/b.html", "lost.png", "NOTHING"):
        assert word in done.stdout, word
