"""Forged and damaged files, and a process with little memory that reads each: ``python forged.py FOLDER FLIPS``.

It prints a line of JSON for each file: its name, what came of it, the message, and by how much the process grew.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

GIGABYTE = 1 << 30
HUGE = 300_000_000

# --- netCDF -----------------------------------------------------------------------------------------------------------


def whole() -> bytes:
    """A small result's draws."""
    draws = xr.Dataset(
        {"v": (("chain", "draw"), np.arange(12.0).reshape(3, 4)), "w": (("chain", "k"), np.ones((3, 2), "f4"))},
        coords={"k": ["one", "two"], "chain": [0, 1, 2]},
    )
    root = xr.Dataset(attrs={"l": ["a", "b"], "j": "x" * 3000})
    tree = xr.DataTree.from_dict({"/": root, "/posterior": draws, "/verdict": xr.Dataset(attrs={"status": "ok"})})
    return bytes(tree.to_netcdf(engine="h5netcdf"))


def hdf(build: Callable[[Any], None], **options: Any) -> bytes:
    """The bytes of a file that ``build`` fills."""
    content = io.BytesIO()
    with h5py.File(content, "w", **options) as file:
        build(file)
    return content.getvalue()


def _cycle(file: Any) -> None:
    file.create_group("a")["b"] = file["/"]


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((HUGE,), "f8")
    layout[:] = h5py.VirtualSource("other.nc", "x", (HUGE,))
    file.create_virtual_dataset("x", layout)


def _deep(file: Any) -> None:
    for _ in range(200):
        file = file.create_group("g")


def _many(file: Any) -> None:
    for index in range(20_002):
        file.create_group(str(index))


def _one_text_many_times(count: int = 100_000, length: int = 100_000) -> bytes:
    """Labels that all refer to the same long text."""

    def build(file: Any) -> None:
        values = np.array(["a" * length] + ["b"] * (count - 1), dtype=object)
        file.create_dataset("x", data=values, dtype=h5py.string_dtype())

    content = bytearray(hdf(build))
    with h5py.File(io.BytesIO(content), "r") as file:
        at = file["x"].id.get_offset()
    content[at : at + 16 * count] = content[at : at + 16] * count
    return bytes(content)


def _attribute_many_times() -> bytes:
    """An attribute of texts, by a file that also has a long one."""

    def build(file: Any) -> None:
        file.attrs["long"] = "a" * 3_000_000
        file.attrs["many"] = np.array(["b"] * 3000, dtype=object)

    return hdf(build)


def _endless_heap() -> bytes:
    content = bytearray(whole())
    at = content.index(b"GCOL") + 16
    while int.from_bytes(content[at : at + 2], "little"):
        at += 16 + (int.from_bytes(content[at + 8 : at + 16], "little") + 7) // 8 * 8
    content[at + 8 : at + 16] = bytes(8)
    return bytes(content)


def _vlen(file: Any) -> None:
    file.create_dataset("x", (3,), h5py.vlen_dtype(np.float64))


def _opaque(file: Any) -> None:
    file["x"] = np.zeros(3, "V8")


def _early(file: Any, **options: Any) -> None:
    file.create_dataset("x", data=np.zeros(2_000_000), chunks=(1_000_000,), **options)


TREES: dict[str, Callable[[], bytes]] = {
    "never written": lambda: hdf(lambda f: f.create_dataset("x", (HUGE,), "f8")),
    "never written, beyond all memory": lambda: hdf(lambda f: f.create_dataset("x", (2**30, 2**30), "f8")),
    "never written, in pieces": lambda: hdf(lambda f: f.create_dataset("x", (HUGE,), "f8", chunks=(1000,))),
    "never written, with a value": lambda: hdf(lambda f: f.create_dataset("x", (HUGE,), "f8", fillvalue=2.0)),
    "never written, in a group": lambda: hdf(lambda f: f.create_dataset("a/b/x", (HUGE,), "i1")),
    "one piece written of many": lambda: hdf(
        lambda f: f.create_dataset("x", (HUGE,), "f8", chunks=(1000,)).__setitem__(0, 1.0)
    ),
    "compressed": lambda: hdf(lambda f: _early(f, compression="gzip")),
    "compressed by another": lambda: hdf(lambda f: _early(f, compression="lzf")),
    "with checksums": lambda: hdf(lambda f: _early(f, fletcher32=True)),
    "labels never written": lambda: hdf(lambda f: f.create_dataset("x", (HUGE,), h5py.string_dtype())),
    "long labels never written": lambda: hdf(lambda f: f.create_dataset("x", (3,), "S900000000")),
    "one text many times": _one_text_many_times,
    "an attribute of many texts": _attribute_many_times,
    "a heap without end": _endless_heap,
    "external link": lambda: hdf(lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/"))),
    "soft link": lambda: hdf(lambda f: f.__setitem__("x", h5py.SoftLink("/"))),
    "two names": lambda: hdf(lambda f: f.__setitem__("y", f.create_dataset("x", data=[1.0]))),
    "a group in itself": lambda: hdf(_cycle),
    "deep groups": lambda: hdf(_deep),
    "many groups": lambda: hdf(_many),
    "virtual": lambda: hdf(_virtual),
    "external storage": lambda: hdf(
        lambda f: f.create_dataset("x", (80,), "u1", external=[("/etc/passwd", 0, 80)])
    ),
    "lists": lambda: hdf(_vlen),
    "opaque": lambda: hdf(_opaque),
    "references": lambda: hdf(lambda f: f.create_dataset("x", data=np.array([f.ref], dtype=h5py.ref_dtype))),
    "records": lambda: hdf(lambda f: f.create_dataset("x", data=np.zeros(3, "f8,i4"))),
    "arrays in arrays": lambda: hdf(lambda f: f.create_dataset("x", (2,), np.dtype(("f8", (10_000_000,))))),
    "a named type": lambda: hdf(lambda f: f.__setitem__("x", np.dtype("f8,i4"))),
    "no shape": lambda: hdf(lambda f: f.create_dataset("x", data=h5py.Empty("f8"))),
    "an attribute of records": lambda: hdf(lambda f: f.attrs.__setitem__("a", np.zeros(3, "f8,i4"))),
    "many attributes": lambda: hdf(lambda f: [f.attrs.__setitem__(str(i), i) for i in range(1001)]),
    "a block before it": lambda: hdf(lambda f: f.create_dataset("x", data=[1.0]), userblock_size=512),
    "nothing": lambda: b"",
    "no netCDF": lambda: b"CDF\x01" + bytes(100),
    "cut": lambda: whole()[:-100],
}  # fmt: skip

# --- safetensors ------------------------------------------------------------------------------------------------------


def tensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with that header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _tensor(shape: Any, start: Any, end: Any, dtype: Any = "F64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


EIGHT = bytes(8)
TENSORS: dict[str, Callable[[], bytes]] = {
    "more than is there": lambda: tensors({"x": _tensor([HUGE], 0, 8 * HUGE)}, EIGHT),
    "another shape": lambda: tensors({"x": _tensor([2], 0, 8)}, EIGHT),
    "a negative shape": lambda: tensors({"x": _tensor([-1, -1], 0, 8)}, EIGHT),
    "a shape that wraps": lambda: tensors({"x": _tensor([2**61 + 1, 8], 0, 8)}, EIGHT),
    "an empty shape that wraps": lambda: tensors({"x": _tensor([2**63, 0], 0, 0)}),
    "overlapping": lambda: tensors({"x": _tensor([1], 0, 8), "y": _tensor([1], 0, 8)}, EIGHT),
    "a gap": lambda: tensors({"x": _tensor([1], 8, 16)}, EIGHT * 2),
    "something behind": lambda: tensors({"x": _tensor([1], 0, 8)}, EIGHT * 2),
    "backwards": lambda: tensors({"x": _tensor([1], 8, 0)}, EIGHT),
    "another type": lambda: tensors({"x": _tensor([1], 0, 8, "OBJECT")}, EIGHT),
    "true for one": lambda: tensors({"x": _tensor([True], 0, 8)}, EIGHT),
    "text for numbers": lambda: tensors({"x": _tensor("1", 0, 8)}, EIGHT),
    "an endless header": lambda: tensors(b"{}", length=2**63),
    "a long header": lambda: tensors(b"{}", length=2**40),
    "a deep header": lambda: tensors(b"[" * 100_000 + b"]" * 100_000),
    "a list": lambda: tensors([1]),
    "twice": lambda: tensors(b'{"x": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}, "x": 1}'),
    "nothing": lambda: b"",
    "seven bytes": lambda: bytes(7),
}  # fmt: skip

JSONS: dict[str, Callable[[], bytes]] = {
    "deep lists": lambda: b"[" * 1_000_000,
    "deep objects": lambda: b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep after text": lambda: b'{"a\\"[": ' + b"[" * 101 + b"]" * 101 + b"}",
    "a huge integer": lambda: b'{"a": ' + b"9" * 1_000_000 + b"}",
    "twice": lambda: b'{"a": 1, "b": {"c": 1, "c": 1}}',
    "UTF-16": lambda: '{"a": 1}'.encode("utf-16"),
    "UTF-32": lambda: '{"a": 1}'.encode("utf-32"),
    "Latin-1": lambda: '{"a": "é"}'.encode("latin-1"),
    "many brackets": lambda: b"[" + b"[]," * 22_000_000,
    "many empty lists": lambda: b"[" + b"[]," * 15_000_000 + b"1]",
    "text without end": lambda: b'"' + b'\\"' * 2_000_000,
    "cut": lambda: b'{"a": ',
    "null characters": lambda: bytes(100),
    "nothing": lambda: b"",
}  # fmt: skip

# --- data files -------------------------------------------------------------------------------------------------------


def array(shape: str, kind: str = "'<f8'", body: bytes = b"", version: int = 1, tail: str = "") -> bytes:
    """An array as NumPy writes it, with that header."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, {tail}}}\n".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + body


def archive(content: bytes, name: str = "x.npy", method: int = zipfile.ZIP_DEFLATED, times: int = 1) -> bytes:
    """A zip with one member, or the same one many times."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as written:
        warnings.simplefilter("ignore")
        for _ in range(times):
            written.writestr(name, content)
    return file.getvalue()


def _many_members() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for index in range(10_001):
            written.writestr(f"{index}.npy", b"")
    return file.getvalue()


def _encrypted() -> bytes:
    content = bytearray(archive(array("(1,)", body=EIGHT)))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _declares(size: int) -> bytes:
    """A member that says of itself that it is that large."""
    content = bytearray(archive(array(f"({size},)", "'|u1'", bytes(5_000_000))))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", size + 70)
    return bytes(content)


def _lost(*which: int) -> bytes:
    """Two arrays, of which the list at the end of the file lacks some."""
    file = io.BytesIO()
    np.savez(file, x=np.arange(6.0), y=np.arange(3))
    content = file.getvalue()
    with zipfile.ZipFile(file) as written:
        start, members = written.start_dir, written.infolist()
    entries, at = [], start
    for member in members:
        size = 46 + len(member.filename) + len(member.extra)
        entries.append(content[at : at + size])
        at += size
    kept = b"".join(entry for index, entry in enumerate(entries) if index not in which)
    count = struct.pack("<HHII", len(entries) - len(which), len(entries) - len(which), len(kept), start)
    return content[:start] + kept + content[at : at + 8] + count + content[at + 20 :]


def _bomb() -> bytes:
    """Zeros that take a thousandth of the room, as many as they are said to be."""
    file, piece = io.BytesIO(), bytes(10_000_000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as written:
        with written.open("x.npy", "w") as member:
            member.write(array("(560000000,)", "'|u1'"))
            for _ in range(56):
                member.write(piece)
    return file.getvalue()


DATA: dict[str, Callable[[], bytes]] = {
    "beyond all memory.npz": lambda: archive(array("(10000000000000,)")),
    "two huge sides.npz": lambda: archive(array("(4294967296, 4294967296)")),
    "a bomb.npz": lambda: archive(array("(2000000000,)", "'|u1'", bytes(2_000_000))),
    "a bomb in full.npz": _bomb,
    "says it is large.npz": lambda: _declares(4_000_000_000),
    "a long header.npz": lambda: archive(b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31) + bytes(1_000_000)),
    "a deep header.npz": lambda: archive(array("(" * 4000 + ")" * 4000)),
    "a header that calls.npz": lambda: archive(array("(1,)", "__import__('os').system('true')", EIGHT)),
    "negative.npz": lambda: archive(array("(-1,)", body=EIGHT)),
    "both negative.npz": lambda: archive(array("(-1, -1)", body=EIGHT)),
    "a float for a side.npz": lambda: archive(array("(1.0,)", body=EIGHT)),
    "a side of truth.npz": lambda: archive(array("(True,)", body=EIGHT)),
    "no tuple.npz": lambda: archive(array("1", body=EIGHT)),
    "one word more.npz": lambda: archive(array("(1,)", body=EIGHT, tail="'more': 1")),
    "too short.npz": lambda: archive(array("(2,)", body=EIGHT)),
    "too long.npz": lambda: archive(array("(1,)", body=EIGHT * 2)),
    "objects.npz": lambda: archive(array("(1,)", "'|O'", b"cos\nsystem\n(S'touch forged'\ntR.")),
    "records.npz": lambda: archive(array("(1,)", "[('a', '<f8')]", EIGHT)),
    "dates.npz": lambda: archive(array("(1,)", "'<M8[D]'", EIGHT)),
    "text.npz": lambda: archive(array("(2,)", "'<U1'", EIGHT)),
    "unknown type.npz": lambda: archive(array("(1,)", "'<f5'", EIGHT)),
    "twice.npz": lambda: archive(array("(1,)", body=EIGHT), times=2),
    "no array.npz": lambda: archive(b"x", "x.txt"),
    "a zip in a zip.npz": lambda: archive(archive(b"x")),
    "another compression.npz": lambda: archive(array("(1,)", body=EIGHT), method=zipfile.ZIP_LZMA),
    "encrypted.npz": _encrypted,
    "one array lost.npz": lambda: _lost(0),
    "another array lost.npz": lambda: _lost(1),
    "both arrays lost.npz": lambda: _lost(0, 1),
    "many members.npz": _many_members,
    "cut.npz": lambda: archive(array("(1,)", body=EIGHT))[:-5],
    "another checksum.npz": lambda: archive(array("(1,)", body=b"\0abcdef\0"), method=0).replace(b"abcdef", b"abcdeg"),
    "one array.npz": lambda: array("(1,)", body=EIGHT),
    "a pickle.npz": lambda: b"\x80\x04N.",
    "nothing.npz": lambda: b"",
    "a million columns.csv": lambda: b",".join(b"c%d" % i for i in range(1_000_000)) + b"\n",
    "a million columns alike.csv": lambda: b"x," * 1_000_000 + b"x\n1\n",
    "a long field.csv": lambda: b"x,y\n1," + b"a" * 30_000_000 + b"\n",
    "a long quoted field.csv": lambda: b'x,y\n1,"' + b"a" * 10_000_000 + b'"\n',
    "a long name.csv": lambda: b"x" * 10_000_000 + b"\n1\n",
    "a long line.csv": lambda: b"x\n" + b"1," * 15_000_000 + b"\n",
    "a quotation without end.csv": lambda: b'x,y\n"1,2\n' + b"3,4\n" * 100_000,
    "null characters.csv": lambda: b"x\n1\n\0\n",
    "UTF-16.csv": lambda: "x\n1\n".encode("utf-16"),
    "no UTF-8.csv": lambda: b"x\n1\n\xe9\n",
    "a row too short.csv": lambda: b"x,y\n1,2\n3\n",
    "a row too short, quoted.csv": lambda: b'x,y\n1,"2"\n3\n',
    "a row too long at the end.csv": lambda: b"x,y\n" + b"1,2\n" * 300_000 + b"1,2,3\n",
    "beyond a float.csv": lambda: b"x,y\n1,1\n1e999,1\n",
    "one column of a matrix twice.csv": lambda: b"x.1,x.01\n1,2\n",
    "a number of 5000 digits in a name.csv": lambda: b"x." + b"9" * 5000 + b"\n1\n",
    "nothing.csv": lambda: b"",
    "blank lines.csv": lambda: b"\n\n \n",
    "beyond a float.json": lambda: b'{"x": [1e999]}',
    "rounded.json": lambda: b'{"x": [9007199254740993, 0.5]}',
    "signs that do not go together.json": lambda: b'{"x": [18446744073709551615, -1]}',
    "ragged.json": lambda: b'{"x": [[1], [1, 2]]}',
    "70 dimensions.json": lambda: b'{"x": ' + b"[" * 70 + b"1" + b"]" * 70 + b"}",
    "deep.json": lambda: b"[" * 100_000,
    "twice.json": lambda: b'{"x": 1, "x": 2}',
    "a list.json": lambda: b"[1]",
}  # fmt: skip
"""Files that are refused, or whose one value is."""

RIGHT: dict[str, tuple[Callable[[], bytes], Any]] = {
    "big-endian.npz": (lambda: archive(array("(2,)", "'>f8'", struct.pack(">2d", 1.5, -2.0))), [1.5, -2.0]),
    "small.npz": (lambda: archive(array("(2,)", "'>i2'", struct.pack(">2h", 1, -2))), [1, -2]),
    "complex.npz": (lambda: archive(array("(1,)", "'<c16'", struct.pack("<2d", 1.0, 2.0))), [1 + 2j]),
    "empty.npz": (lambda: archive(array("(0, 3)")), np.zeros((0, 3)).tolist()),
    "one number.npz": (lambda: archive(array("()", body=struct.pack("<d", 3.0))), 3.0),
    "a second version.npz": (lambda: archive(array("(1,)", body=struct.pack("<d", 3.0), version=2)), [3.0]),
    "exact.csv": (lambda: b"x\n0.1234567890123456789\n1e-310\n4.35\n", [0.12345678901234568, 1e-310, 4.35]),
    "quoted.csv": (lambda: b'"x","y, z"\n"1",2\n"3",4\n', [1, 3]),
    "two systems.csv": (lambda: b"\xef\xbb\xbfx\r\n1\r\n2\r\n", [1, 2]),
    "old.csv": (lambda: b"x\r1\r2\r", [1, 2]),
    "without an end.csv": (lambda: b"x\n1\n2", [1, 2]),
    "infinite.csv": (lambda: b"x\ninf\n-Infinity\n", [float("inf"), -float("inf")]),
    "many rows.csv": (lambda: b"x,y\n" + b"1,2\n" * 400_000, [1] * 400_000),
    "the largest.csv": (lambda: b"x\n18446744073709551615\n" + b"1\n" * 5, [2**64 - 1, 1, 1, 1, 1, 1]),
    "a mark.json": (lambda: b'\xef\xbb\xbf{"x": [1, 2]}', [1, 2]),
    "brackets in text.json": (lambda: b'{"y": "' + b"[" * 500 + b'", "x": [1]}', [1]),
    "the largest.json": (lambda: b'{"x": [18446744073709551615]}', [2**64 - 1]),
}  # fmt: skip
"""Files that read, and what ``x`` is then."""


# --- the reading process ----------------------------------------------------------------------------------------------


def report(kind: str, name: str, read: Callable[[], Any], expected: Any = None) -> None:
    """Reads one file, and says what came of it."""
    from pyrolvm._base.errors import PyrolvmError

    try:
        found = read()
        outcome, text = ("loaded" if expected is None or expected(found) else "wrong value"), ""
    except PyrolvmError as error:
        outcome, text = "refused" if "Fix: " in str(error) else "no remedy", str(error)
    except BaseException as error:
        outcome, text = "raw", f"{type(error).__name__}: {error}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([kind, name, outcome, text[:400], grown]), flush=True)


def limit() -> None:
    """Gives this process a gigabyte more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(folder: Path, flips: int) -> None:
    """Reads everything in the folder that :func:`write` filled, and files with random damage."""
    from pyrolvm._cli.sources import checked, load_data
    from pyrolvm._runs import readers, trees
    from pyrolvm._runs.files import GROWTH, Stored

    def stored(path: Path) -> Stored:
        return Stored(path, readers.read_bytes(path, growth=GROWTH))

    warnings.simplefilter("ignore")
    stored(_file(folder / "one.safetensors", tensors({"x": _tensor([1], 0, 8)}, EIGHT))).tensors()
    load_data(_file(folder / "one.csv", b"x\n1\n"))
    trees.parse_tree(whole(), "one.nc")
    limit()
    readers_of: dict[str, Callable[[Path], Any]] = {
        "tree": lambda path: stored(path).tree(), "tensors": lambda path: stored(path).tensors(), "json": readers.read_json,
        "data": lambda path: {name: checked(value) for name, value in load_data(path).items()},
    }  # fmt: skip
    for kind, read in readers_of.items():
        for path in sorted((folder / kind).iterdir()):
            report(kind, path.name, lambda read=read, path=path: read(path))
    for path in sorted((folder / "right").iterdir()):
        value = RIGHT[path.name][1]
        report(
            "right",
            path.name,
            lambda path=path: np.asarray(checked(load_data(path)["x"])).tolist(),
            lambda found, value=value: found == value,
        )
    _flip(folder, flips, readers_of)


def _flip(folder: Path, flips: int, readers_of: dict[str, Callable[[Path], Any]]) -> None:
    sources = {
        "tree": (".nc", whole()),
        "tensors": (".safetensors", tensors({"x": _tensor([2, 2], 0, 32), "y": _tensor([1], 32, 40)}, bytes(40))),
        "json": (".json", json.dumps({"a": [1, 2.5, {"b": "text\\"}], "c": None}).encode()),
        "data npz": (".npz", archive(array("(2, 3)", body=struct.pack("<6d", 1.5, -2.0, 3.25, 0.0, 5.0, 6.0)))),
        "data csv": (".csv", b'x,y.0,y.1\n1,2.5,"3"\n4,NA,6\n'),
    }
    for index in range(flips):
        rng = np.random.default_rng(index)
        for kind, (suffix, content) in sources.items():
            path = _file(folder / f"flipped{suffix}", damaged(content, rng))
            expected = _are_those if kind == "data npz" else None
            report(
                f"flipped {kind}", str(index), lambda path=path, kind=kind: readers_of[kind.split()[0]](path), expected
            )


def _are_those(found: dict[str, Any]) -> bool:
    """Whether arrays that were read have the values that were written; a name has no checksum."""
    return [np.asarray(one).tolist() for one in found.values()] == [[[1.5, -2.0, 3.25], [0.0, 5.0, 6.0]]]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with bits turned, bytes set to what is awkward, pieces copied or cut off."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at, other = (int(one) for one in rng.integers(len(found), size=2))
        width = int(rng.choice([1, 2, 4, 8]))
        value = int(rng.choice([0, 1, 127, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1])) % 256**width
        kind = int(rng.integers(4))
        if kind == 0:
            found[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            found[at : at + width] = value.to_bytes(width, "little")
        elif kind == 2:
            found[at : at + 16] = found[other : other + 16]
        elif at > 0 and rng.random() < 0.3:
            del found[at:]
    return bytes(found)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def write(folder: Path) -> int:
    """Writes all files; returns how many."""
    kinds: dict[str, dict[str, Callable[[], bytes]]] = {
        "tree": TREES, "tensors": TENSORS, "json": JSONS, "data": DATA, "right": {name: one for name, (one, _) in RIGHT.items()},
    }  # fmt: skip
    for kind, cases in kinds.items():
        (folder / kind).mkdir()
        for name, build in cases.items():
            _file(folder / kind / name, build())
    return sum(map(len, kinds.values()))


if __name__ == "__main__":
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    main(Path(sys.argv[1]), int(sys.argv[2]))
