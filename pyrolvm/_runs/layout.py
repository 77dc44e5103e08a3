"""What a run's folder says of itself: its marker, the manifest of what is in force, and the runs that were begun in it.

::

    runs/a/
        pyrolvm-run.json     the marker, written first: nothing without it is ours; also the lock
        manifest.json        the result in force: of which run, which files, under which checksums
        1-3f9ac2d1/          a run: its result, and what it goes on from until it is finished
        report.html          a page that the manifest lists, as figures

A run that replaces another has a folder of its own. The result in force is another one from the moment at which the manifest is.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pyrolvm._base.errors import StoreError
from pyrolvm._runs.directory import Directory
from pyrolvm._runs.readers import parsing
from pyrolvm._runs.sealing import opened, sealed

__all__ = [
    "BEGUN",
    "MANIFEST",
    "MARKER",
    "NAMES",
    "SCHEMA",
    "Manifest",
    "Marker",
    "Unfinished",
    "begun",
    "generations",
    "is_unwritten",
    "unfinished",
]

MARKER, MANIFEST, BEGUN, NAMES = "pyrolvm-run.json", "manifest.json", "begun.json", "names.log"
SCHEMA = 2

_GENERATION = re.compile(r"([1-9][0-9]{0,8})-([0-9a-f]{8})")
_LONGEST = 1 << 20


@dataclass(frozen=True)
class Marker:
    """What the first file of a run's folder says.

    Attributes:
        id: 32 hexadecimal digits that no other folder has, unless it is a copy.
        command: what the folder was made for.
        about: the identity of the run that it was made for.
    """

    id: str
    command: str
    about: Mapping[str, object]

    @classmethod
    def new(cls, command: str, about: Mapping[str, object]) -> Marker:
        """One of a folder to be."""
        return cls(uuid.uuid4().hex, command, about)

    @classmethod
    def of(cls, directory: Directory) -> Marker | None:
        """The marker of a folder; ``None`` if it has none, or something else under its name.

        Raises:
            StoreError: if it is one of another version of pyrolvm.
        """
        try:
            with directory.open(MARKER) as file:
                line = file.read(_LONGEST).partition(b"\n")[0]
            found = json.loads(line)
            if found["pyrolvm"] != "run" or not re.fullmatch("[0-9a-f]{32}", found["id"]):
                return None
            schema, made = found["schema"], cls(found["id"], str(found["command"]), dict(found["about"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if schema != SCHEMA:
            raise StoreError(
                f"{directory.path} is of another version of pyrolvm, and is left as it is: its {MARKER} has schema {schema!r}, this "
                f"version reads {SCHEMA}. Fix: use the version of pyrolvm that made it, or name another folder."
            )
        return made

    @property
    def line(self) -> bytes:
        """The file's first line. The second one says who is writing."""
        said = {"pyrolvm": "run", "schema": SCHEMA, "id": self.id, "command": self.command, "about": self.about}
        return (json.dumps(said, sort_keys=True) + "\n").encode()

    def generation(self, number: int) -> str:
        """The name of the folder of the run with that number."""
        return f"{number}-{self.id[:8]}"

    @property
    def part(self) -> str:
        """The name of a file in the run's folder that is not whole yet."""
        return f".part-{self.id}"


@dataclass(frozen=True)
class Manifest:
    """Which result is in force.

    Attributes:
        kind: its type.
        files: name, sha256 and size of each of its files, by what it is; names are relative to the folder.
        run: the marker's id; ``None`` for a result without a run's folder.
        number: which run made it.
        status: ``"finished"``, or ``"partial"`` if it was stopped before.
        command: what made it.
        about: the identity of the run.
        pages: pages and figures beside it, relative to the folder; they need not be there.
    """

    kind: str
    files: Mapping[str, Mapping[str, object]]
    run: str | None = None
    number: int = 0
    status: str = "finished"
    command: str = "save"
    about: Mapping[str, object] = field(default_factory=dict)
    pages: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """That of a folder; ``None`` if there is none.

        Raises:
            StoreError: if it is damaged, of another version, or no file.
        """
        path = folder / MANIFEST
        if not os.path.lexists(path):
            return None
        try:
            with parsing(path):
                found = opened(path, SCHEMA)
                made = cls(
                    str(found["kind"]), dict(found["files"]), found["run"], int(found["number"]), str(found["status"]),
                    str(found["command"]), dict(found["about"]), tuple(str(name) for name in found["pages"]),
                )  # fmt: skip
                if made.status not in ("finished", "partial") or not all(
                    isinstance(one, dict) for one in made.files.values()
                ):
                    raise ValueError("its status or files are none")
        except StoreError as error:
            said = str(error).partition(" Fix:")[0]
            raise StoreError(
                f"{said} Fix: restore it from a copy; or move it away, and call what made it again with resume=True or overwrite=True."
            ) from None
        return made

    @property
    def generation(self) -> str:
        """The name of the run's folder."""
        return f"{self.number}-{(self.run or '')[:8]}"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "finished"

    @property
    def content(self) -> bytes:
        """What is written."""
        return sealed(asdict(self), SCHEMA)


def is_unwritten(directory: Directory) -> bool:
    """Whether a folder has nothing but a marker whose process was killed before it was written."""
    return directory.names() == [MARKER] and directory.is_empty(MARKER)


def generations(directory: Directory, marker: Marker) -> list[int]:
    """The numbers of the runs that have folders."""
    found = (_GENERATION.fullmatch(name) for name in directory.names())
    ours = (int(one[1]) for one in found if one is not None and one[2] == marker.id[:8])
    return sorted(number for number in ours if directory.is_folder(marker.generation(number)))


def begun(directory: Directory) -> tuple[str, dict[str, object]] | None:
    """The command and identity of the run whose folder it is; ``None`` if it did not come to say so.

    Raises:
        StoreError: if what it says cannot be read.
    """
    if not directory.has(BEGUN):
        return None
    path = directory.path / BEGUN
    try:
        with parsing(path):
            found = opened(path, SCHEMA)
            return str(found["command"]), dict(found["about"])
    except StoreError as error:
        why = str(error).partition(" Fix:")[0]
    raise StoreError(
        f"{why} Which run was begun there cannot be said. Fix: restore it, run again with overwrite=True, or name another folder."
    )


@dataclass(frozen=True)
class Unfinished:
    """A run that has begun in a folder and has not come to its end.

    Attributes:
        number: which run of the folder it is.
        folder: where it keeps what it has.
        command: what runs.
        about: its identity.
    """

    number: int
    folder: Path
    command: str
    about: Mapping[str, object]


def unfinished(path: Path) -> Unfinished | None:
    """The run in a folder that can be gone on with; ``None`` if there is none.

    Raises:
        StoreError: if one was begun, and which one cannot be read.
    """
    try:
        with Directory.opened(path) as directory:
            marker = Marker.of(directory)
            if marker is None:
                return None
            manifest = Manifest.read(path)
            least = 0 if manifest is None else manifest.number + int(manifest.finished)
            for number in reversed(generations(directory, marker)):
                if number < least:
                    break
                with directory.folder(marker.generation(number)) as folder:
                    said = begun(folder)
                    if said is not None:
                        return Unfinished(number, folder.path, *said)
    except OSError:
        pass
    return None
