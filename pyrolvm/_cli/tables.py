"""Tables in ``.csv``, looked through before they are parsed: as many values in each row as there are names, and no row without end."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pyrolvm._cli.data_files import DATA
from pyrolvm._runs.readers import PIECE, check_room, opened, parsing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_pieces", "read_table"]

COLUMNS = 100_000
"""How many columns a table may have."""
LINE = 20_000_000
"""How many bytes a line may have."""
NEWLINE = b"\n"
GROWTH = 12.0
"""How many bytes of memory a byte of a table may take, as in ``1,2,3``."""


def read_table(path: Path) -> tuple[list[str], pd.DataFrame]:
    """The names in the header of a table, and its columns.

    Raises:
        DataError: if the file is no such table, or memory has no room for it.
    """
    import pandas as pd

    with opened(path, DATA) as file:
        check_room(path, os.fstat(file.fileno()).st_size * GROWTH, DATA)
        header = _checked_header(file, path)
        file.seek(0)
        with parsing(path, DATA):
            # A column as a whole: pieces of other types would meet in one that rounds.
            frame = pd.read_csv(file, low_memory=False, **_manner())
            _check_infinite(path, frame)
    return header, frame


def read_pieces(path: Path, rows: int) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """The same so many rows at a time, each column of one type in all pieces: that which it has as a whole.

    Raises:
        DataError: if the file is no such table.
    """
    import pandas as pd

    with opened(path, DATA) as file:
        header = _checked_header(file, path)
        kinds: dict[object, Any] = {}
        for frame in _pieces(file, path, rows):
            for name, kind in frame.dtypes.items():
                kinds[name] = kind if name not in kinds else _common(kinds[name], kind)
        told: dict[Any, Any] = {name: kind for name, kind in kinds.items() if kind.kind in "iufO"}
        for number, frame in enumerate(_pieces(file, path, rows, told)):
            with parsing(path, DATA):
                _check_infinite(path, frame, rows, number)
            yield header, frame
        if not kinds:
            yield header, pd.DataFrame(columns=header)


def _pieces(file: BinaryIO, path: Path, rows: int, kinds: Mapping[Any, Any] | None = None) -> Iterator[pd.DataFrame]:
    import pandas as pd

    file.seek(0)
    with parsing(path, DATA):
        yield from pd.read_csv(file, low_memory=False, chunksize=rows, dtype=kinds, **_manner())


def _common(one: Any, other: Any) -> Any:
    """The type of a column whose pieces have these; text where they are not both numbers."""
    numbers = one.kind in "iuf" and other.kind in "iuf"
    if numbers:
        return np.result_type(one, other)
    return one if one == other else np.dtype(object)


def _checked_header(file: BinaryIO, path: Path) -> list[str]:
    """The names in the header of a table with as many values in each row."""
    quoted = _look(file, path)
    header = _header(file, path)
    for line, count in _counts_of_quoted(file, path) if quoted else _counts(file):
        if count != len(header):
            more = "more" if count > len(header) else "fewer"
            raise DATA.error(
                f"data file {str(path)!r} has {more} values in a row (line {line:,}: {count:,}) than its header has names "
                f"({', '.join(header)[:200]}). Fix: separate values by commas, and write decimals with a point."
            )
    return header


def _manner() -> dict[str, Any]:
    """How tables are read."""
    return {"encoding": "utf-8-sig", "skipinitialspace": True, **_exactly()}


def _exactly() -> dict[str, object]:
    """What has pandas read numbers to the last bit; from 3.1 on it does so by itself."""
    import pandas as pd

    version = tuple(int(part) for part in pd.__version__.split(".")[:2])
    return {"float_precision": "round_trip"} if version < (3, 1) else {}


def _check_infinite(path: Path, frame: pd.DataFrame, rows: int | None = None, number: int = 0) -> None:
    """Refuses a number that became infinite by being read.

    Args:
        path: the file.
        frame: what was read of it.
        rows: how many rows a piece has; ``None`` where it was read as a whole.
        number: which piece it is.
    """
    import pandas as pd

    floats = [index for index, kind in enumerate(frame.dtypes) if kind.kind == "f"]
    for index in (index for index in floats if np.isinf(frame.iloc[:, index].to_numpy()).any()):
        with opened(path, DATA) as file:
            read = pd.read_csv(file, usecols=[index], dtype=str, chunksize=rows, **_manner())
            text = (read if rows is None else next(islice(read, number, None))).iloc[:, 0]
        written = text[np.isinf(frame.iloc[:, index].to_numpy())].str.strip().str.lower()
        beyond = written[~written.str.contains("inf")]
        if len(beyond):
            raise DATA.damage(path, f"{str(beyond.iloc[0])[:60]} is beyond what a float of 64 bits holds")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines, about a million bytes at a time, each with its end."""
    file.seek(0)
    rest = b""
    while piece := file.read(PIECE):
        if piece.endswith(b"\r"):  # whose other half is in the next piece
            piece += file.read(1)
        piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, end, after = piece.rpartition(b"\n")
        if not end:
            rest += after
        else:
            yield rest + whole + end
            rest = after
        if len(rest) > LINE:
            yield rest
            return
    if rest:
        yield rest + b"\n"


def _look(file: BinaryIO, path: Path) -> bool:
    """Refuses what is no text, and lines without end; says whether there are quotation marks."""
    at, line, quoted = 0, 1, False
    for block in _lines(file):
        if not at and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DATA.refusal(path, "is text in UTF-16, expected UTF-8")
        if b"\0" in block:
            raise DATA.refusal(path, f"holds a null character at byte {at + block.index(0):,}")
        if len(block) > LINE and max(map(len, block.split(b"\n"))) > LINE:
            raise DATA.refusal(path, f"has a line of more than {LINE:,} bytes")
        try:
            block.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DATA.error(
                f"data file {str(path)!r} is no text in UTF-8: line {line + block.count(NEWLINE, 0, error.start):,} holds the byte "
                f"0x{block[error.start]:02x}. Fix: save it as UTF-8, which spreadsheets call CSV UTF-8."
            ) from None
        quoted = quoted or b'"' in block
        at += len(block)
        line += block.count(NEWLINE)
    return quoted


def _header(file: BinaryIO, path: Path) -> list[str]:
    for row, _ in _rows(file, path):
        if len(row) > COLUMNS:
            raise DATA.refusal(path, f"has {len(row):,} columns, expected at most {COLUMNS:,}")
        return [name.strip() for name in row]
    raise DATA.refusal(path, "is empty: it has no columns")


def _rows(file: BinaryIO, path: Path) -> Iterator[tuple[list[str], int]]:
    """Rows that are not blank, with their lines."""
    with parsing(path, DATA):
        reader = csv.reader(_text(file), skipinitialspace=True)
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                yield row, reader.line_num


def _text(file: BinaryIO) -> Iterator[str]:
    encoding = "utf-8-sig"
    for block in _lines(file):
        yield from (f"{line}\n" for line in block.decode(encoding).split("\n")[:-1])
        encoding = "utf-8"


def _counts_of_quoted(file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
    """The line of each row, and how many values it has; commas between quotation marks are text."""
    return ((line, len(row)) for row, line in _rows(file, path))


def _counts(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Lines and their numbers of values, once for each run of lines that have the same; blank ones are left out."""
    before, last = 0, -1
    for block in _lines(file):
        codes = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(codes == ord("\n"))
        counts = np.diff(np.searchsorted(np.flatnonzero(codes == ord(",")), ends), prepend=0) + 1
        starts = np.concatenate([[0], ends[:-1] + 1])
        for index in np.flatnonzero(np.diff(counts, prepend=last)):
            if counts[index] > 1 or block[starts[index] : ends[index]].strip():
                yield before + int(index) + 1, int(counts[index])
        before, last = before + len(ends), int(counts[-1])
