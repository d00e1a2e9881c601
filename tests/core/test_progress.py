"""Progress: plain lines now and then, or a bar on a terminal."""

import io

import pytest

from pipeline.core import progress
from pipeline.core.progress import Progress


class Clock:
    """Time that passes when told."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_now_and_then(clock, capsys):
    with Progress("training", total=6000, unit="steps") as work:
        for _ in range(60):
            clock.now += 1
            work.advance(10)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "training: 310 of 6,000 steps, 10.0 a second, 9.5 min left"
    assert len(lines) == 2  # after 31 s, and at the end
    assert lines[-1].startswith("training: 600 of 6,000 steps, 10.0 a second, 9.0 min left")


def test_short_work_says_nothing(clock, capsys):
    with Progress("training", total=2, unit="steps") as work:
        clock.now += 5
        work.advance(2)
    assert capsys.readouterr() == ("", "")


def test_work_of_an_earlier_run_is_not_in_the_rate(clock, capsys):
    with Progress("search", total=1000, unit="images", done=500) as work:
        clock.now += 40
        work.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "search: 600 of 1,000 images, 2.5 a second, 2.7 min left"


def test_no_rate_yet(clock, capsys):
    with Progress("search", total=1000, unit="images") as work:
        clock.now += 40
        work.advance(0)
    assert "0 of 1,000 images, 0.0 a second, inf min left" in capsys.readouterr().err


def test_an_error_is_not_followed_by_a_last_line(clock, capsys):
    def work():
        with Progress("search", total=10, unit="images"):
            clock.now += 40
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_only_the_first_of_several_processes_speaks(clock, capsys, monkeypatch, terminal):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    screen = Terminal()
    if terminal:
        monkeypatch.setattr("sys.stderr", screen)
    with Progress("training", total=6000, unit="steps") as work:
        for _ in range(60):
            clock.now += 1
            work.advance(10)
    assert capsys.readouterr() == ("", "")
    assert screen.getvalue() == ""


def test_the_bar_is_drawn_where_the_terminal_is(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("training", total=2, unit="steps") as work:
        work.advance(2)
    assert capsys.readouterr().out == ""
    assert "training" in terminal.getvalue()


def test_the_bar_ends_at_what_was_done(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    with Progress("training", total=5, unit="steps", done=1) as work:
        work.advance(1)
        work.advance(3)
    assert [task.completed for task in work._bar.tasks] == [5]
