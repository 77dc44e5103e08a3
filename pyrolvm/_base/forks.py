"""What a process that was forked cannot do: a fork copies one thread, and libraries that wait for their others wait for ever."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context
from pathlib import Path

import torch

from pyrolvm._base.errors import FitError
from pyrolvm._compat import jax

__all__ = ["check_whole", "inside_session", "jax_is_lost"]


class _Process:
    """What this process knows of its own birth.

    Attributes:
        jax_lost: whether it was forked from a process in which JAX ran.
        torn: whether another thread was inside a session then, which left Pyro's globals half changed.
        session: the thread that is inside a session, if any.
        looked: whether that was looked into when JAX was first asked for.
    """

    def __init__(self) -> None:
        self.jax_lost = self.looked = self.torn = False
        self.session: int | None = None
        if _is_forked():  # before this module was imported
            self.forked()

    def forked(self) -> None:
        """Notes that JAX's threads are gone, and has torch go on in this thread alone: it would wait for its others."""
        self.jax_lost = self.jax_lost or jax.started()
        self.torn = self.torn or self.session not in (None, threading.get_ident())
        if torch.get_num_threads() > 1:
            torch.set_num_threads(1)

    def jax_is_lost(self) -> bool:
        """Whether JAX's threads are gone; JAX may also have been used in a parent that did not know of this module."""
        if not self.looked:
            self.looked = True
            self.jax_lost = self.jax_lost or (jax.started() and _alone())
        return self.jax_lost


def _is_forked() -> bool:
    """Whether this is a process that multiprocessing has forked."""
    if multiprocessing.parent_process() is None:
        return False
    process = multiprocessing.current_process()
    fork = getattr(context, "ForkProcess", None)
    if fork is not None and isinstance(process, fork):
        return True
    return type(process) is multiprocessing.Process and multiprocessing.get_start_method(allow_none=True) == "fork"


def _alone() -> bool:
    """Whether all threads of this process are Python's; no where that cannot be seen."""
    tasks = Path("/proc/self/task")
    return tasks.is_dir() and len(list(tasks.iterdir())) <= threading.active_count()


_PROCESS = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_PROCESS.forked)


@contextmanager
def inside_session() -> Iterator[None]:
    """Notes which thread is inside a session."""
    before, _PROCESS.session = _PROCESS.session, threading.get_ident()
    try:
        yield
    finally:
        _PROCESS.session = before


def check_whole() -> None:
    """Refuses a process that was forked in the middle of another thread's session: it would wait for that thread for ever.

    Raises:
        FitError: if this is one.
    """
    if _PROCESS.torn:
        raise FitError(
            "this process was forked while another thread of its parent was inside pyrolvm, so that Pyro's globals are half changed "
            "here. Fix: start processes by multiprocessing's 'spawn', or before that thread."
        )


def jax_is_lost() -> bool:
    """Whether this process was forked from one in which JAX ran, so that JAX would hang here."""
    return _PROCESS.jax_is_lost()
