"""Imports without the garbage collector leave it as it was."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pyrolvm._base.importing import uncollected


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    was = gc.isenabled()
    yield
    (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_as_it_was_afterwards(on: bool) -> None:
    (gc.enable if on else gc.disable)()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() is on
    with pytest.raises(ImportError), uncollected():
        import no_such_module_anywhere  # noqa: F401
    assert gc.isenabled() is on


def test_threads_that_import_one_after_the_other_switch_it_on_again() -> None:
    gc.enable()
    began, ended = threading.Event(), threading.Event()

    def first() -> None:
        with uncollected():
            began.set()
            ended.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(10)
    with uncollected():
        ended.set()
        thread.join()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_process_that_imports_everything_collects_again() -> None:
    code = "import gc, pyrolvm as lvm; [getattr(lvm, name) for name in lvm.__all__]; print(gc.isenabled(), gc.get_threshold()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", str(gc.get_threshold()[0])]
