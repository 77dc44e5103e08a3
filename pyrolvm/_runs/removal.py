"""Removing what a run wrote: what its log lists, and nothing else. A folder in which something foreign lies stays."""

from __future__ import annotations

from pyrolvm._base.errors import StoreError
from pyrolvm._runs.directory import Directory, is_name
from pyrolvm._runs.layout import MANIFEST, MARKER, NAMES, Manifest, Marker, generations, is_unwritten
from pyrolvm._runs.readers import check_room

__all__ = ["dissolve", "listed", "remove_listed", "remove_run"]

DEPTH = 12
"""Folders in folders at most."""
GROWTH = 10.0
"""How many bytes of memory a byte of the log may take."""


def listed(directory: Directory) -> list[str]:
    """The names in the log of a run's folder: of files, of folders (which end in a slash), of run folders in it (in two).

    Raises:
        StoreError: if memory has no room for it.
    """
    if not directory.is_file(NAMES):
        return []
    check_room(directory.path / NAMES, GROWTH * directory.size(NAMES))
    with directory.open(NAMES) as file:
        lines = file.read().split(b"\n")[:-1]  # the last one may be cut short, and then nothing has its name
    found = (line.decode("utf-8", errors="replace") for line in lines)
    return [name for name in found if name.count("/") <= DEPTH and all(map(is_name, name.rstrip("/").split("/")))]


def remove_listed(directory: Directory, names: list[str]) -> None:
    """Removes what is listed: the deepest first, so that folders are empty when it is their turn."""
    for name in sorted(set(names), key=_order):
        *above, last = name.rstrip("/").split("/")
        opened = [directory]
        try:
            for one in above:
                opened.append(opened[-1].folder(one))
            if name.endswith("//"):
                dissolve(opened[-1], last)
            elif name.endswith("/"):
                opened[-1].remove_folder(last)
            elif opened[-1].is_file(last):
                opened[-1].remove(last)
        except OSError:
            continue  # a folder above is gone, or is a link by now
        finally:
            for folder in opened[:0:-1]:
                folder.close()


def remove_run(parent: Directory, name: str) -> None:
    """Removes the folder of one run, as far as the run wrote what is in it."""
    if not parent.is_folder(name):
        return
    with parent.folder(name) as directory:
        try:
            names = listed(directory)
        except StoreError:
            return  # a log that no run writes: what is ours there cannot be said
        remove_listed(directory, names)
        if directory.names() == [NAMES]:
            directory.remove(NAMES)
    parent.remove_folder(name)


def dissolve(parent: Directory, name: str) -> None:
    """Removes a run's folder that is a part of a run, as far as pyrolvm wrote what is in it."""
    if not parent.is_folder(name):
        return
    with parent.folder(name) as directory:
        try:
            marker = Marker.of(directory)
        except StoreError:
            return  # of another version: what that one writes is not known here
        if marker is not None:
            for number in generations(directory, marker):
                remove_run(directory, marker.generation(number))
            try:
                manifest = Manifest.read(directory.path)
            except StoreError:
                manifest = None
            if manifest is not None and manifest.run == marker.id:
                directory.remove(MANIFEST)
            directory.remove(marker.part)
            if directory.names() == [MARKER]:
                directory.remove(MARKER)
        elif is_unwritten(directory):
            directory.remove(MARKER)
    parent.remove_folder(name)


def _order(name: str) -> tuple[int, int, str]:
    """Deeper names first; at one depth files, then run folders, then folders."""
    ends = 2 if name.endswith("/") and not name.endswith("//") else 1 if name.endswith("//") else 0
    return -name.rstrip("/").count("/"), ends, name
