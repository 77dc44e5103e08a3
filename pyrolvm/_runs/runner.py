"""The one way in which a run is begun in a folder, gone on with, found finished, and put in the place of another."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pyrolvm._base.errors import ArgumentError, PyrolvmWarning, StoreError, positive_float
from pyrolvm._base.interrupts import held
from pyrolvm._runs.checkpoints import FOLDER, Checkpoints
from pyrolvm._runs.directory import Unwritten, Write
from pyrolvm._runs.files import Part, steady
from pyrolvm._runs.folder import RunFolder, is_run
from pyrolvm._runs.generation import Generation
from pyrolvm._runs.identity import check, check_resume, differences, lasting
from pyrolvm._runs.layout import Manifest, Unfinished
from pyrolvm._runs.places import as_folder, check_place

__all__ = ["Codec", "Order", "Run", "order", "run", "save", "write_pages"]

Result = TypeVar("Result")

STAGES = "stages"


@dataclass(frozen=True)
class Order:
    """Where a run is kept and what may happen to what is there.

    Attributes:
        out: the folder; ``None`` to keep nothing.
        resume: whether to go on with, or to use, the same run; ``"any-version"`` under other versions too.
        overwrite: whether another one may be replaced.
        every: seconds between checkpoints; ``None`` for the default.
    """

    out: Path | None = None
    resume: bool | str = False
    overwrite: bool = False
    every: float | None = None


def order(
    out: str | Path | None, resume: bool | str = False, overwrite: bool = False, checkpoint_every: float | None = None
) -> Order:
    """What a caller asks for, checked.

    Raises:
        ArgumentError: if an argument is out of its range, or is given without the folder.
    """
    check_resume(resume)
    if not isinstance(overwrite, bool):
        raise ArgumentError(f"overwrite must be True or False, got {overwrite!r}. Fix: pass overwrite=True.")
    if checkpoint_every not in (None, 0):
        positive_float("checkpoint_every", checkpoint_every)
    given = (("resume", resume), ("overwrite", overwrite), ("checkpoint_every", checkpoint_every is not None))
    for name, value in given:
        if value and out is None:
            raise ArgumentError(
                f'{name} is given without out, the folder to keep the run in. Fix: pass out="runs/a" too.'
            )
    if out is None:
        return Order()
    folder = as_folder(out)
    check_place(folder)
    return Order(folder, resume, overwrite, checkpoint_every)


def _unread(folder: Path) -> Any:
    raise StoreError(f"{folder} holds a result that is not read here. Fix: use lvm.load(path).")


@dataclass(frozen=True)
class Codec(Generic[Result]):
    """How results of a kind are written and read.

    Attributes:
        kind: its name in the manifest.
        parts: the files of a result, by what they are.
        read: reads the result in force in a folder; not needed to save one.
        partial: whether the run that made a result was stopped before its end.
    """

    kind: str
    parts: Callable[[Result], Mapping[str, Part]]
    read: Callable[[Path], Result] = _unread
    partial: Callable[[Result], bool] = lambda _: False


class Run:
    """A run that is under way in a folder.

    Attributes:
        generation: its folder.
        every: seconds between checkpoints; ``None`` for the default.
    """

    def __init__(self, generation: Generation, asked: Order) -> None:
        self.generation, self.every, self._resume = generation, asked.every, asked.resume or True

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints."""
        return Checkpoints(self.generation, self.every)

    def stage(self, name: str) -> Order:
        """Where a part of it is kept, until it is finished, that is a run by itself."""
        return self.part(STAGES, name)

    def part(self, folder: str, name: str) -> Order:
        """Where a part of it is kept for good that is a run by itself."""
        return Order(self.generation.nested(folder, name), resume=self._resume, every=self.every)


def run(
    asked: Order,
    command: str,
    about: Mapping[str, object],
    codec: Codec[Result],
    work: Callable[[Run | None], Result],
    *,
    more: bool = False,
    pages: tuple[str, ...] = (),
) -> Result:
    """The finished result of a run, or what ``work`` gives, saved.

    A run that is killed at any moment can be gone on with, and what was in force before it stays so until it is finished.

    Args:
        asked: where it is kept, and what may happen to what is there.
        command: what runs, for the folder's own record.
        about: what the run's numbers depend on, as JSON holds it.
        codec: how its result is written and read.
        work: makes the result; it is given the run in its folder, or ``None`` where nothing is kept.
        more: whether a finished run of the same identity may be gone on with as well, since there may be more to do.
        pages: what will be written beside the result: a foreign file of such a name is refused before anything runs.

    Raises:
        StoreError: if the folder is not ours or is written to by another process; if there is another run or result, or the same one
            and neither to resume nor to overwrite was asked for; if the disk does not take the result.
    """
    if asked.out is None:
        return work(None)
    about = json.loads(json.dumps(about))
    if not more:
        found = _finished(asked, command, about, codec)
        if found is not None:
            return found
    with RunFolder.claimed(asked.out, command, about) as folder:
        if not more:  # by the process that held the lock until now
            found = _finished(asked, command, about, codec)
            if found is not None:
                return found
        folder.check_pages(pages)
        with _opened(folder, asked, command, about, more=more) as generation:
            try:
                result = work(Run(generation, asked))
            except Unwritten as error:
                folder.abandon(generation)
                raise StoreError(
                    f"{folder.path} does not take what the run writes: {error}. What was there is as it was. "
                    "Fix: make room on the disk, then call it again with resume=True."
                ) from error
            except BaseException:
                folder.abandon(generation)
                raise
            _keep(folder, generation, codec, result, command, about)
        if not folder.is_in_place:
            warnings.warn(
                f"{folder.path} was moved or removed while the run wrote to it: what it kept is where the folder is now. "
                "Fix: load it from there.",
                PyrolvmWarning,
                stacklevel=3,
            )
    return result


def save(codec: Codec[Result], result: Result, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a result that is there to a folder.

    Raises:
        StoreError: if the folder is not ours, holds something and ``overwrite`` is false, or cannot be written to.
    """
    asked = Order(as_folder(path), overwrite=overwrite)
    assert asked.out is not None
    with RunFolder.claimed(asked.out, "save", {}) as folder:
        if folder.manifest is not None and not overwrite:
            raise StoreError(
                f"{folder.path} holds a result already. Fix: pass overwrite=True to replace it, or name another folder."
            )
        _refuse_what_is_there(folder, asked)
        with folder.begin("save", None) as generation:
            try:
                _keep(folder, generation, codec, result, "save", {})
            except BaseException:
                folder.abandon(generation, anyway=True)
                raise
    return asked.out


def write_pages(path: Path, pages: Mapping[str, Write | str]) -> None:
    """Writes pages and figures beside the result that a folder holds.

    Args:
        path: the folder.
        pages: what writes each; or the name of a folder of the run in force, to which a link is made.

    Raises:
        StoreError: if the folder is not ours, or something foreign has the name of one, or the disk does not take it.
    """
    if not is_run(path):
        raise StoreError(f"{path} holds no result to write pages of. Fix: run it again with resume=True.")
    with RunFolder.claimed(path, "save", {}) as folder:
        try:
            folder.write_pages(pages)
        except OSError as error:
            raise StoreError(
                f"pages could not be written to {path}: {error}. The result is saved. "
                "Fix: make room on the disk, and call it again with resume=True."
            ) from error


# --- what is there ------------------------------------------------------------------------------------------------------


def _finished(asked: Order, command: str, about: Mapping[str, object], codec: Codec[Result]) -> Result | None:
    """The finished result of the same run, if it is wanted and there; read without the lock, since what is in force is whole."""
    assert asked.out is not None
    if not asked.resume or not is_run(asked.out):
        return None

    def read(out: Path) -> Result | None:
        manifest = Manifest.read(out)
        if manifest is None or not manifest.finished or not _is_same(manifest.command, manifest.about, command, about):
            return None
        return codec.read(out)

    return steady(asked.out, read)


def _is_same(command: str, about: Mapping[str, object], wanted: str, wanted_about: Mapping[str, object]) -> bool:
    """Whether two runs are the same, whatever versions they run under."""
    return command == wanted and not differences(about, lasting(wanted_about))


@contextmanager
def _opened(
    folder: RunFolder, asked: Order, command: str, about: Mapping[str, object], *, more: bool
) -> Iterator[Generation]:
    """The folder of the run that is wanted: one that is gone on with, or a new one.

    Raises:
        StoreError: if what is there is another run, or neither word was given.
    """
    number = _same(folder, asked, command, about, more=more) if asked.resume else None
    if number is None and asked.resume and not asked.overwrite:
        _refuse_another(folder, command, about)
    if number is None and not asked.resume:
        _refuse_what_is_there(folder, asked)
    with folder.begin(command, about) if number is None else folder.generation(number) as generation:
        yield generation


def _same(folder: RunFolder, asked: Order, command: str, about: Mapping[str, object], *, more: bool) -> int | None:
    """The number of the run in a folder that is the one that is wanted.

    Raises:
        StoreError: if it was begun under other versions, which was not asked for.
    """
    pending: Unfinished | None = None
    with suppress(StoreError) if asked.overwrite else nullcontext():  # what cannot be read is another run
        pending = folder.pending()
    if pending is not None and _is_same(pending.command, pending.about, command, about):
        if asked.overwrite and asked.resume is True and differences(pending.about, about):
            return None
        check(folder.path, pending.about, about, asked.resume)
        return pending.number
    manifest = folder.manifest
    if more and manifest is not None and _is_same(manifest.command, manifest.about, command, about):
        check(folder.path, manifest.about, about, asked.resume)
        return manifest.number
    return None


def _refuse_another(folder: RunFolder, command: str, about: Mapping[str, object]) -> None:
    """Says how what is there differs from the run that is wanted.

    Raises:
        StoreError: if anything is there.
    """
    there = folder.pending() or folder.manifest
    if there is None:
        return
    if there.command != command:
        raise StoreError(
            f"{folder.path} was made by {there.command!r}, not by {command!r}. "
            "Fix: pass overwrite=True to replace it, or name another folder."
        )
    check(folder.path, there.about, lasting(about), True)


def _refuse_what_is_there(folder: RunFolder, asked: Order) -> None:
    if asked.overwrite:
        return
    if folder.manifest is not None and folder.manifest.finished:
        raise StoreError(
            f"{folder.path} holds a result already. "
            "Fix: pass resume=True to use it, overwrite=True to replace it, or name another folder."
        )
    if folder.pending() is not None:
        raise StoreError(
            f"{folder.path} holds a run that did not end. "
            "Fix: pass resume=True to go on with it, overwrite=True to begin anew, or name another folder."
        )


def _keep(
    folder: RunFolder,
    generation: Generation,
    codec: Codec[Result],
    result: Result,
    command: str,
    about: Mapping[str, object],
) -> None:
    partial = codec.partial(result)
    if partial and folder.manifest is not None and folder.manifest.finished and command != "save":
        return  # what is finished stays in force; the run can be gone on with
    # One request to stop is heard after the result is saved. After one that was heard already, the next one leaves at once.
    with nullcontext() if partial else held():
        try:
            entries = {
                what: generation.write_part(what, suffix, write)
                for what, (suffix, write) in codec.parts(result).items()
            }
            folder.publish(generation, codec.kind, entries, command=command, about=about, partial=partial)
        except OSError as error:
            raise StoreError(
                f"the result could not be saved in {folder.path}: {error}. What was there is as it was. "
                "Fix: make room on the disk, then call it again with resume=True: it goes on from the last checkpoint."
            ) from error
        if not partial:
            generation.remove_all(FOLDER)
            generation.remove_all(STAGES)
