"""What is on disk: results, and checkpoints of runs that go on. Nothing is unpickled, and no file names anything to import."""

from pyrolvm.store.checkpoints import Checkpoint, Checkpoints
from pyrolvm.store.files import Lock, make_folder, read_json, replace, write_json
from pyrolvm.store.identity import ANY_VERSION, check_resume, identity
from pyrolvm.store.results import (
    MANIFEST,
    SWEEP,
    Part,
    check_types,
    claim,
    is_partial,
    load,
    read_tree,
    remove,
    save,
    verified,
    write_folder,
    write_tree,
)

__all__ = [
    "ANY_VERSION", "MANIFEST", "SWEEP", "Checkpoint", "Checkpoints", "Lock", "Part", "check_resume", "check_types", "claim",
    "identity", "is_partial", "load", "make_folder", "read_json", "read_tree", "remove", "replace", "save", "verified", "write_folder",
    "write_json", "write_tree",
]  # fmt: skip
