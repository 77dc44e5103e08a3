"""A run's folder while somebody writes to it: claimed, with runs in it, one of which is in force."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pyrolvm._base.errors import StoreError
from pyrolvm._runs.claims import Claim, claimed
from pyrolvm._runs.directory import PART, Directory, Write, writing
from pyrolvm._runs.generation import Generation
from pyrolvm._runs.layout import MANIFEST, MARKER, Manifest, Marker, Unfinished, generations, is_unwritten, unfinished
from pyrolvm._runs.removal import remove_run

__all__ = ["RunFolder", "is_free", "is_run"]

_TIMES = 100
"""How often a folder is made that others remove at once."""


def is_run(path: Path) -> bool:
    """Whether a folder has the marker of a run's folder.

    Raises:
        StoreError: if it has one of another version of pyrolvm.
    """
    try:
        directory = Directory.opened(path)
    except (OSError, ValueError):
        return False
    with directory:
        return Marker.of(directory) is not None


def is_free(path: Path) -> bool:
    """Whether nothing is there: no such path, an empty folder, or one whose marker was not written yet when its process was killed."""
    try:
        if not os.path.lexists(path):
            return True
        with Directory.opened(path) as directory:
            return not directory.names() or is_unwritten(directory)
    except (OSError, ValueError):
        return False


def _is_no_folder(path: Path) -> bool:
    """Whether something else has a path, by one look: others may remove a folder there, and make it again."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return os.path.islink(path)


def _opened(path: Path) -> tuple[Directory, tuple[Path, ...]]:
    """A folder, and what had to be made for it: itself and those above it, in this order.

    Raises:
        StoreError: if it cannot be made.
    """
    with writing(path):
        if "\0" in str(path):
            raise OSError("it has a null character")
        for left in reversed(range(_TIMES)):
            made = tuple(one for one in (path, *path.parents) if not os.path.lexists(one))
            if not made and _is_no_folder(path):
                raise StoreError(f"{path} is a file, expected a folder. Fix: name another path.")
            try:
                path.mkdir(parents=True, exist_ok=True)
                return Directory.opened(path), made
            except (FileExistsError, FileNotFoundError):  # also where a run that had made it failed, and removes it
                if not left:
                    raise
    raise AssertionError("the last time returns or raises")


class RunFolder:
    """A folder that is ours, whose lock we hold.

    Attributes:
        path: where it is.
        marker: what its marker says.
        manifest: which result is in force; ``None`` if there is none yet.
    """

    def __init__(self, directory: Directory, claim: Claim, *, made: tuple[Path, ...]) -> None:
        self._directory, self._claim, self.marker, self.path = directory, claim, claim.marker, directory.path
        self._made = made
        self.manifest = Manifest.read(self.path)
        if self.manifest is not None and self.manifest.run != self.marker.id:
            raise StoreError(
                f"{self.path / MANIFEST} is not of the run whose folder it is in, and is left as it is. "
                "Fix: move it away, or name another folder."
            )
        directory.remove(self.marker.part)  # of a process that was killed
        self._clear()

    @classmethod
    @contextmanager
    def claimed(cls, path: Path, command: str, about: Mapping[str, object]) -> Iterator[RunFolder]:
        """Makes a folder ours, or takes one that is; nothing else is written before its marker is, and its lock is held.

        Raises:
            StoreError: if it is somebody else's, another process writes there, or it cannot be written to.
        """
        path, new = Path(path), Marker.new(command, about)
        with ExitStack() as held:
            claim = None
            while claim is None:  # a run that failed removes the folder that it made, perhaps the one that we opened
                directory, made = _opened(path)
                held.enter_context(directory)
                claim = held.enter_context(claimed(directory, new))
            yield cls(directory, claim, made=made)

    # --- runs -------------------------------------------------------------------------------------------------------------

    def pending(self) -> Unfinished | None:
        """The run that has begun and is not finished.

        Raises:
            StoreError: if which one it is cannot be read.
        """
        return unfinished(self.path)

    @property
    def is_in_place(self) -> bool:
        """Whether it is still where its path says."""
        return self._directory.is_in_place()

    def abandon(self, generation: Generation, *, anyway: bool = False) -> None:
        """Forgets a run that ended in an error, and the folder, with those above it, if there is nothing else and it was made for it.

        Args:
            generation: the run.
            anyway: whether it is forgotten even if there is something that it could go on from.
        """
        forget = self._claim.holds and (anyway or generation.barren)
        generation.close()
        if not self._claim.holds:  # what is there is somebody else's by now
            return
        if forget:
            remove_run(self._directory, generation.name)
        if self._directory.names() == [MARKER] and self.manifest is None:
            self._directory.remove(MARKER)
            with suppress(OSError):  # the first in which there is something stays, and those above it
                for one in self._made if self.is_in_place else ():
                    one.rmdir()

    @contextmanager
    def generation(self, number: int) -> Iterator[Generation]:
        """The folder of a run, to go on with it."""
        with writing(self.path):
            opened = Generation(self._directory.folder(self.marker.generation(number)), self._claim.check)
        try:
            yield opened
        finally:
            opened.close()

    @contextmanager
    def begin(self, command: str, about: Mapping[str, object] | None) -> Iterator[Generation]:
        """A folder for a new run. Others that are not in force are removed.

        Args:
            command: what it is for.
            about: its identity; ``None`` for what is written at once, and cannot be gone on with.
        """
        with writing(self.path):
            used = generations(self._directory, self.marker)
            in_force = 0 if self.manifest is None else self.manifest.number
            for number in used:
                if number != in_force:
                    remove_run(self._directory, self.marker.generation(number))
            number = max([in_force, *used]) + 1
            opened = Generation(self._directory.make(self.marker.generation(number)), self._claim.check)
            try:
                if about is not None:
                    opened.begin(command, about)
            except BaseException:
                self.abandon(opened, anyway=True)
                raise
        try:
            yield opened
        finally:
            opened.close()

    # --- results ----------------------------------------------------------------------------------------------------------

    def publish(
        self,
        generation: Generation,
        kind: str,
        files: Mapping[str, Mapping[str, object]],
        *,
        command: str,
        about: Mapping[str, object],
        partial: bool = False,
    ) -> None:
        """Puts a run's result in force. What was in force before is removed afterwards.

        Args:
            generation: the run.
            kind: the type of the result.
            files: entries of its files, as :meth:`Generation.write_part` returns them.
            command: what made it.
            about: the run's identity.
            partial: whether it was stopped before its end: then the run stays, to be gone on with.

        Raises:
            OSError: if the disk does not take it; then what was in force still is.
        """
        before = self.manifest
        entries = {what: {**entry, "name": f"{generation.name}/{entry['name']}"} for what, entry in files.items()}
        number = int(generation.name.partition("-")[0])
        status = "partial" if partial else "finished"
        pages = () if before is None else before.pages
        self._put(Manifest(kind, entries, self.marker.id, number, status, command, about, pages))
        if before is not None and before.number == number:
            kept = {entry["name"] for entry in entries.values()}
            for entry in before.files.values():
                if entry.get("name") not in kept:
                    generation.remove(str(entry.get("name")).partition("/")[2])
        self._clear()

    def check_pages(self, names: tuple[str, ...]) -> None:
        """Refuses pages under names that something foreign has.

        Raises:
            StoreError: if that is so.
        """
        ours = () if self.manifest is None else self.manifest.pages
        for name in names:
            first, _, second = name.partition("/")
            foreign = self._directory.has(first) and not (second and self._directory.is_folder(first))
            if second and self._directory.is_folder(first):
                with self._directory.folder(first) as inside:
                    foreign = inside.has(second)
            if foreign and name not in ours:
                raise StoreError(
                    f"{self.path / name} was not written by pyrolvm, and is left as it is. Fix: move it away, or name another folder."
                )

    def write_pages(self, pages: Mapping[str, Write | str]) -> None:
        """Writes pages and figures beside the result; the manifest lists them before they are there.

        Args:
            pages: what writes each; or the name of a folder of the run in force, to which a link is made.

        Raises:
            StoreError: if something foreign has the name of one, or there is no result.
            OSError: if the disk does not take them.
        """
        if self.manifest is None:
            raise StoreError(f"{self.path} holds no result to write pages of. Fix: run it again with resume=True.")
        self.check_pages(tuple(pages))
        before = self.manifest.pages
        self._put(replace(self.manifest, pages=tuple(sorted({*before, *pages}))))
        for name, write in pages.items():
            first, _, second = name.partition("/")
            if isinstance(write, str):
                self._directory.link(first, f"{self.manifest.generation}/{write}", part=self.marker.part)
            elif second:
                with self._directory.make(first) as inside:
                    inside.replace(second, write, part=f"{PART}-{self.marker.id}")
            else:
                self._directory.replace(first, write, part=self.marker.part)
        for name in set(before) - set(pages):
            self._forget(name)
        self._put(replace(self.manifest, pages=tuple(sorted(pages))))

    def _forget(self, name: str) -> None:
        """Removes a page that the manifest lists."""
        first, _, second = name.partition("/")
        with suppress(OSError):
            if not second:
                if self._directory.is_file(first) or self._directory.is_link(first):
                    self._directory.remove(first)
                return
            with self._directory.folder(first) as inside:
                if inside.is_file(second):
                    inside.remove(second)
            self._directory.remove_folder(first)

    def _put(self, manifest: Manifest) -> None:
        self._claim.check()
        self._directory.replace(MANIFEST, lambda file: file.write(manifest.content), part=self.marker.part)
        self.manifest = manifest

    def _clear(self) -> None:
        """Removes the folders of runs before the one in force."""
        if self.manifest is not None:
            for number in generations(self._directory, self.marker):
                if number < self.manifest.number:
                    remove_run(self._directory, self.marker.generation(number))
