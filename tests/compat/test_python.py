"""What pyrolvm takes from Python's own library under names with an underscore is as it expects."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import namedtuple

from pyrolvm._compat import python as private

Point = namedtuple("Point", ["x", "y"])


def test_a_process_ends_at_once_whatever_waits_for_its_end() -> None:
    text = (
        "import atexit, threading, time\n"
        "from pyrolvm._compat.python import end_at_once\n"
        "atexit.register(print, 'late')\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "end_at_once(7)\n"
    )
    ended = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (7, "")


def test_the_module_of_a_caller_is_named() -> None:
    def asked(level: int) -> str:
        return private.caller_module(level)

    space = {"__name__": "elsewhere", "asked": asked}
    exec("def ask(level): return asked(level)", space)
    assert space["ask"](1) == "elsewhere" and space["ask"](2) == __name__


def test_named_tuples_are_told_from_others_and_changed() -> None:
    point = Point(1, 2)
    assert private.is_named_tuple(point) and not private.is_named_tuple((1, 2))
    assert private.replaced(point, y=3) == Point(1, 3) and point == Point(1, 2)


def test_a_parser_tells_its_options_those_of_groups_too() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("--seed", "-s")
    parser.add_argument_group("more").add_argument("--draws")
    assert sorted(private.options_of(parser)) == ["--draws", "--help", "--seed", "-h", "-s"]
