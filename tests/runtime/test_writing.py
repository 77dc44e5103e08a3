"""Files of users are the old ones or the new ones, never half of them."""

from __future__ import annotations

import sys

import pytest

from pyrolvm._base import writing


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(unnamed, tmp_path, monkeypatch):
    if not unnamed:  # a file system without files that have no name
        monkeypatch.setattr(writing, "_unnamed", lambda folder: None)
    file, seen = tmp_path / "p.csv", []
    file.write_text("old")

    def half(opened):
        opened.write(b"ne")
        seen.extend(path.name for path in tmp_path.iterdir())
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        writing.replace_file(file, half)
    assert len(seen) == (1 if unnamed and sys.platform == "linux" else 2)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    writing.replace_file(file, lambda opened: opened.write(b"new"))
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]
