"""Readers of files that are damaged, forged or no files: refused in words, in little memory, or read as they are."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from pyrolvm._base.errors import DataError, StoreError
from pyrolvm._cli.data_files import DATA
from pyrolvm._cli.sources import checked, load_data
from pyrolvm._results.store import write_tree
from pyrolvm._runs import readers
from pyrolvm._runs.checkpoints import SCHEMA, newest
from pyrolvm._runs.files import GROWTH, Stored
from pyrolvm._runs.sealing import sealed

SCRIPT = Path(__file__).with_name("forged.py")
MEGABYTES_GROWN = 500
"""What the reading process may have grown by, of the gigabyte it was given."""


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("forged", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


forged = _load_script()


def _stored(path: Path) -> Stored:
    """A file of a result, as it is read after its manifest."""
    return Stored(path, readers.read_bytes(path, growth=GROWTH))


def _read_all(folder: Path, flips: int) -> tuple[int, list[list[Any]]]:
    """How many files were written, and what the process with little memory said of each."""
    count = forged.write(folder)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(flips)], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return count, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[list[Any]]]:
    return _read_all(tmp_path_factory.mktemp("forged"), 30)


def test_every_forged_file_is_refused_with_a_remedy(reports: Any, record_property: Any) -> None:
    count, found = reports
    told = [one for one in found if not one[0].startswith("flipped")]
    assert len(told) == count
    wrong = [one for one in told if one[2] != ("loaded" if one[0] == "right" else "refused")]
    assert not wrong, wrong
    record_property("evidence", f"{count} files, {Counter(one[2] for one in told)}")


def test_random_damage_ends_in_a_refusal_or_is_read(reports: Any) -> None:
    outcomes = Counter(one[2] for one in reports[1] if one[0].startswith("flipped"))
    assert set(outcomes) == {"refused", "loaded"} and outcomes.total() == 150, outcomes


def test_forged_files_take_little_memory(reports: Any) -> None:
    grown = [one[4] for one in reports[1]]
    assert (grown[-1] - grown[0]) / 1024 < MEGABYTES_GROWN


def test_a_forged_file_runs_nothing(reports: Any) -> None:
    assert not Path("forged").exists()


@pytest.mark.slow
@pytest.mark.fault("fuzz")
def test_much_random_damage(tmp_path: Path, record_property: Any) -> None:
    found = _read_all(tmp_path, 2500)[1]
    outcomes = Counter(one[2] for one in found)
    assert set(outcomes) == {"refused", "loaded"}, [one for one in found if one[2] not in ("refused", "loaded")]
    assert (found[-1][4] - found[0][4]) / 1024 < MEGABYTES_GROWN
    record_property("evidence", f"{len(found)} files: {dict(outcomes)}")


# --- what is no file --------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Paths that are no regular files, and what they are called."""
    (tmp_path / "file").write_bytes(b'{"x": [1]}')
    paths = {name: tmp_path / f"{name}.json" for name in ("folder", "pipe", "socket", "link", "nowhere", "dangling")}
    paths["folder"].mkdir()
    os.mkfifo(paths["pipe"])
    paths["link"].symlink_to(tmp_path / "file")
    paths["dangling"].symlink_to(tmp_path / "none")
    paths |= {"device": Path("/dev/zero"), "long": tmp_path / f"{'a' * 300}.json", "null": tmp_path / "a\0.json"}
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # paths of sockets are short
        server.bind("socket.json")
        os.chdir(here)
        yield paths


@pytest.mark.parametrize("name", ["folder", "pipe", "socket", "link", "nowhere", "dangling", "device", "long", "null"])
def test_what_is_no_file_is_refused_without_waiting(name: str, odd: dict[str, Path]) -> None:
    for read in (readers.read_json, readers.read_object, _stored):
        with pytest.raises(StoreError, match="Fix: "):
            read(odd[name])


@pytest.mark.parametrize("name", ["folder", "pipe", "socket", "nowhere", "dangling", "long", "null"])
def test_no_data_are_read_from_what_is_no_file(name: str, odd: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="Fix: "):
        load_data(odd[name])


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".json"])
def test_a_device_under_the_name_of_data_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is a device, expected a file"):
        load_data(path)


def test_a_link_to_data_is_followed_and_one_in_a_run_is_not(odd: dict[str, Path]) -> None:
    assert checked(load_data(odd["link"])["x"]).tolist() == [1]
    with pytest.raises(StoreError, match="is a symbolic link"):
        readers.read_json(odd["link"])


@pytest.mark.parametrize("change", ["grows", "shrinks", "is written to"])
@pytest.mark.parametrize(("manner", "error"), [(readers.STORED, StoreError), (DATA, DataError)])
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: str, manner: readers.Manner, error: type[Exception], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    with pytest.raises(error, match="changed while it was read"), readers.opened(path, manner) as file:
        file.read(1)
        if change == "is written to":
            path.write_bytes(b"1" * 100)
            os.utime(path, ns=(1, 1))
        else:
            os.truncate(path, 200 if change == "grows" else 50)


def test_a_file_that_vanishes_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with readers.opened(path) as file:
        path.unlink()
        assert file.read() == b"content"


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state": 1, "chunks": []},
        {"state": {"value": 1, "file": []}, "chunks": 5},
        {"state": {"value": 1, "file": {"name": "../x"}}, "chunks": []},
    ],
)
def test_a_forged_checkpoint_with_a_right_checksum_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-00000001.json").write_bytes(sealed(content, SCHEMA))
    with pytest.raises(StoreError, match="Fix: "):
        newest(tmp_path)


# --- what is right ----------------------------------------------------------------------------------------------------


def test_values_that_came_from_a_compressed_file_are_saved_plainly_and_read(tmp_path: Path) -> None:
    values = np.arange(6.0)
    values[2] = np.nan
    xr.Dataset({"x": ("row", values)}).to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf", encoding={"x": {"compression": "gzip", "chunksizes": (2,)}}
    )
    with pytest.raises(StoreError, match="compressed"):
        _stored(tmp_path / "a.nc").tree()
    tree = xr.DataTree.from_dict({"/posterior": xr.load_dataset(tmp_path / "a.nc", engine="h5netcdf")})
    with (tmp_path / "b.nc").open("wb") as file:
        write_tree(tree, file)
    np.testing.assert_array_equal(_stored(tmp_path / "b.nc").tree()["posterior"]["x"], values)


def test_all_kinds_of_values_that_a_result_has_are_read(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {
            "text": ("row", ["a", "bé", ""]), "truth": ("row", [True, False, True]), "none": (("row", "no"), np.zeros((3, 0))),
            "complex": ("row", np.array([1j, 2, 3])), "half": ("row", np.ones(3, "f2")), "one": ((), 2.0),
            "table": (("row", "two"), [["a", "b"]] * 3), "unsigned": ("row", np.array([1, 2, 2**64 - 1], "u8")),
        },
        coords={"row": ["x", "y", "z"]},
        attrs={"words": ["a", "b"], "nothing": "", "numbers": [1, 2], "long": "x" * 100_000},
    )  # fmt: skip
    with (tmp_path / "a.nc").open("wb") as file:
        write_tree(xr.DataTree.from_dict({"/a/b": dataset}), file)
    found = _stored(tmp_path / "a.nc").tree()["a/b"].to_dataset()
    xr.testing.assert_equal(found, dataset)
    assert found.attrs["long"] == "x" * 100_000 and found.attrs["words"] == ["a", "b"]


def test_tensors_of_every_kind_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    kinds = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
    tensors = {str(kind): torch.ones(2, 3, dtype=kind) for kind in kinds} | {"empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"a": "b"})
    found = _stored(tmp_path / "a.safetensors").tensors()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
