"""The reliability scorecard: a line for each bad input and each fault, with what its tests say.

``pytest -p tests.scorecard -m "bad_input or fault"`` is what ``make test-faults`` runs. A test is of an entry by its mark, such as
``@pytest.mark.fault("F8")``; what it records as ``evidence`` is printed. An entry of which no test ran is missing, and fails the run.
"""

from __future__ import annotations

from typing import Any

import pytest

GOALS = {
    "bad inputs": [f"B{i}" for i in range(1, 31)],
    "faults": [f"F{i}" for i in range(1, 11)],
    "loader fuzz": ["fuzz"],
    "what is not ours": ["foreign"],
}
WIDTH = 240


class Scorecard:
    """Gathers reports of marked tests, also those of other processes, and prints a line for each mark."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[str, str]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        evidence = " | ".join(str(value) for name, value in report.user_properties if name == "evidence")
        for name, value in report.user_properties:
            if name == "scorecard":
                self.found.setdefault(str(value), []).append((report.outcome, " ".join(evidence.split())))

    def state(self, name: str) -> str:
        outcomes = {outcome for outcome, _ in self.found.get(name, [])}
        return "missing" if not outcomes - {"skipped"} else "FAILED" if "failed" in outcomes else "ok"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for what, names in GOALS.items():
            ok = sum(self.state(name) == "ok" for name in names)
            terminalreporter.section(f"{what}: {ok}/{len(names)}")
            for name in names:
                runs = self.found.get(name, [])
                said = list(dict.fromkeys(evidence[:WIDTH] for _, evidence in runs if evidence)) or [""]
                terminalreporter.write_line(f"{name:5}{self.state(name):8}{len(runs):4} tests  {said[0]}")
                for more in said[1:] if what != "bad inputs" else ():
                    terminalreporter.write_line(f"{'':25}{more}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == 0 and any(self.state(name) != "ok" for names in GOALS.values() for name in names):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Scorecard(), "scorecard")


def pytest_itemcollected(item: pytest.Item) -> None:
    for name in ("bad_input", "fault"):
        item.user_properties.extend(("scorecard", mark.args[0]) for mark in item.iter_markers(name))
