"""The page of references has every one that a docstring has, once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bibliography() -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location("bibliography", ROOT / "docs" / "bibliography.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_every_link_of_a_docstring_is_on_the_page_once(bibliography: ModuleType) -> None:
    links = {
        link.rstrip("/").lower()
        for _, section in bibliography.sections(ROOT)
        for link in bibliography.LINK.findall(section)
    }
    found = [entry.link.rstrip("/").lower() for entry in bibliography.entries(ROOT) if entry.link]
    assert len(found) > 150 and len(set(found)) == len(found)
    assert set(found) == links


def test_entries_are_whole(bibliography: ModuleType) -> None:
    found = {entry.link: entry for entry in bibliography.entries(ROOT)}
    assert not [entry.text for entry in found.values() if len(entry.text) < 15 or entry.text[0] in "(,;"]
    vae = found["https://arxiv.org/abs/1312.6114"]
    assert vae.text == "Kingma, D. P., Welling, M. (2014). Auto-encoding variational Bayes. ICLR"
    assert "models/pyrolvm_models/vae.py" in vae.modules
    assert "https://doi.org/10.1016/0165-1684(94)90029-9" in found


def test_sections_of_every_form_are_read(bibliography: ModuleType) -> None:
    section = """\
    First, A., Second, B. (2001). A title that goes on. Journal
        1, 2-3. https://doi.org/10.1/a(1)b
    Third et al.
    (2002), "Another", https://arxiv.org/abs/1; Fourth, *Without a link*, 1996;
    Fifth, https://arxiv.org/abs/2 (a remark)
"""
    assert bibliography.split(section) == [
        ("First, A., Second, B. (2001). A title that goes on. Journal 1, 2-3", "https://doi.org/10.1/a(1)b"),
        ('Third et al. (2002), "Another"', "https://arxiv.org/abs/1"),
        ("Fourth, *Without a link*, 1996", ""),
        ("Fifth", "https://arxiv.org/abs/2"),
    ]
    page = bibliography.page(ROOT, "SOURCE")
    assert "(SOURCE/models/pyrolvm_models/vae.py)" in page
