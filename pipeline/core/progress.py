"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from pipeline.core import ranks

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """``with Progress("training", total=100, unit="steps") as progress: progress.advance(1)``.

    ``done`` counts work that an earlier, interrupted run had finished; it does not enter the rate. Of several processes
    of a launcher only the first one speaks.
    """

    def __init__(self, what: str, *, total: int, unit: str, done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._before = self._done = done
        self._started = self._said = self._drawn = time.monotonic()
        self._bar: RichProgress | None = None
        if sys.stderr.isatty() and ranks.is_first():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.update(self._task, completed=self._done)
            self._bar.stop()
        elif kind is None and time.monotonic() - self._started > SECONDS_BETWEEN_LINES:
            self._say()

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units of work as done."""
        self._done += amount
        now = time.monotonic()
        if self._bar:
            if now - self._drawn > 0.1:  # drawing costs more than a small step
                self._drawn = now
                self._bar.update(self._task, completed=self._done, rate=f"{self._rate():,.1f} {self._unit}/s")
        elif now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            self._say()

    def _rate(self) -> float:
        return (self._done - self._before) / max(time.monotonic() - self._started, 1e-9)

    def _say(self) -> None:
        if not ranks.is_first():
            return
        rate = self._rate()
        minutes = (self._total - self._done) / rate / 60 if rate else float("inf")
        count = f"{self._done:,} of {self._total:,} {self._unit}"
        print(f"{self._what}: {count}, {rate:,.1f} a second, {minutes:.1f} min left", file=sys.stderr, flush=True)
