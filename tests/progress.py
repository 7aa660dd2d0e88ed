# SPDX-License-Identifier: Apache-2.0
"""How a run of the tests shows where it is: a bar where somebody looks, a line now and then in a log."""

from __future__ import annotations

import sys
import time

import pytest
from tqdm import tqdm

LOG_EVERY_S = 30.0


class Progress:
    """Counts tests as they end, and names the folder they are in. Failures are told when they happen."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_watched = sys.stderr.isatty()
        self._total = self._done = self._failed = 0
        self._started = self._told = time.monotonic()
        self._bar: tqdm | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._start(len(session.items))

    @pytest.hookimpl(optionalhook=True)  # where pytest-xdist is not installed, nobody calls it
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._start(len(ids))  # every process collects all of them

    def _start(self, total: int) -> None:
        if total and not self._total:
            self._total = total
            if self._is_watched:
                self._bar = tqdm(total=total, unit="test", dynamic_ncols=True, smoothing=0.02)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._done += 1
        room = nodeid.partition("::")[0].removeprefix("tests/").rpartition("/")[0] or "ground floor"
        if self._bar is not None:
            self._bar.set_description_str(f"{room:<28}", refresh=False)
            self._bar.update()
        elif self._total and time.monotonic() - self._told >= LOG_EVERY_S:
            self._told = time.monotonic()
            self._say(
                f"{self._done / self._total:4.0%}  {self._done:5} of {self._total} tests, {self._failed} failed, "
                f"{self._told - self._started:4.0f} s  {room}"
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed += 1
            line = f"FAILED {report.nodeid}" + ("" if report.when == "call" else f" ({report.when})")
            self._say(line)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line)
        else:
            self._config.get_terminal_writer().line(line)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No letter a test: the bar and the lines say more."""
        if report.skipped and not hasattr(report, "wasxfail"):
            return "skipped", "", "SKIPPED"
        if report.passed and report.when == "call" and not hasattr(report, "wasxfail"):
            return "passed", "", "PASSED"
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if self._bar is not None:
            self._bar.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--progress", action="store_true", help="show a bar, or in a log a line every half minute")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--progress") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config), "freqfusion-progress")
