"""Signals that are held back until nothing is half done."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pyrolvm._base.interrupts import held


def hit(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_waits_until_it_is_let_through() -> None:
    reached = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), held() as pending:
        hit()
        reached.append("the end of the block")
        pending.let_through()
        reached.append("too far")
    assert reached == ["the end of the block"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_does_not_wait() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), held():
        hit()
        reached.append("held")
        hit()
        reached.append("too far")
    assert reached == ["held"]


def test_a_signal_that_nobody_asks_for_comes_at_the_end() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):
        with held():
            hit()
            reached.append("inside")
        reached.append("too far")
    assert reached == ["inside"]


def test_a_signal_that_nobody_handles_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with held() as pending:
        assert signal.SIGTERM not in pending.handlers
        assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_hold_nothing() -> None:
    found = []

    def run() -> None:
        with held() as pending:
            found.append(pending.handlers)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [{}]
