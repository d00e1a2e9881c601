"""The file of votes: whole lines only, each vote once, one writer, and nothing acknowledged is lost."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_decks import made_deck, nine
from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.internals import annotations
from pipeline.turing import votes as votes_module
from pipeline.turing.votes import COLUMNS, PSEUDONYM, Vote, VoteLog, check_annotator, read_votes, votes_of

DECK = made_deck()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "votes.jsonl"


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


# ---- a vote ----


def test_the_votes_of_a_screen_say_what_was_seen_and_said():
    cast = nine(DECK, wrong=(2, 7), seconds=3.14159)
    assert [vote.place for vote in cast] == list(range(9))
    assert [vote.place for vote in cast if vote.truth != vote.answer] == [2, 7]
    for vote in cast:
        assert vote.truth == DECK.generated[vote.image]
        assert (vote.deck, vote.deck_name, vote.model) == (DECK.sha256, "mnist", "mb_mnist")
        assert vote.seconds == 3.142
        assert not vote.simulated


def test_answers_for_another_deck_or_of_another_number(path):
    from pipeline.turing.rounds import screen

    shown = screen(DECK, seed=1, annotator="a1", mode="plain", number=0)
    with pytest.raises(InputError, match="9 images"):
        votes_of(DECK, shown, [True] * 8, seconds=1.0)
    with pytest.raises(InputError, match=r"the deck is .* now"):
        votes_of(made_deck(seed=9), shown, [True] * 9, seconds=1.0)
    with pytest.raises(InputError, match="expected a pseudonym"):
        votes_of(DECK, dataclasses.replace(shown, annotator="a b"), [True] * 9, seconds=1.0)


@pytest.mark.parametrize(("given_seconds", "kept"), [(-3.0, 0.0), (1e9, 86_400.0)])
def test_seconds_are_held_within_reason(given_seconds, kept):
    assert nine(DECK, seconds=given_seconds)[0].seconds == kept


@pytest.mark.parametrize("name", ["", "a" * 21, "a b", "../x", "a\n", "ä", "a1\0"])
def test_no_pseudonym(name):
    with pytest.raises(InputError, match="expected a pseudonym"):
        check_annotator(name)
    with pytest.raises(ValidationError):
        dataclasses.replace(nine(DECK)[0], annotator=name)


def test_pseudonyms_are_those_of_the_other_annotations():
    assert PSEUDONYM == annotations.PSEUDONYM
    assert check_annotator("A_b-9") == "A_b-9"


@pytest.mark.parametrize(
    "change",
    [{"place": 9}, {"place": -1}, {"screen": -1}, {"image": -1}, {"mode": "other"}, {"deck": "0" * 63},
     {"seconds": float("nan")}, {"seconds": float("inf")}, {"seconds": -1.0}, {"truth": 1}, {"deck_name": "a/b"}],
)  # fmt: skip
def test_what_is_no_vote(change):
    with pytest.raises(ValidationError):
        dataclasses.replace(nine(DECK)[0], **change)


# ---- the file ----


def test_an_empty_file_has_all_columns(path):
    path.touch()
    frame = read_votes(path)
    assert len(frame) == 0
    assert tuple(frame.columns) == COLUMNS == tuple(field.name for field in dataclasses.fields(Vote))
    assert frame["truth"].dtype == bool


def test_what_was_added_is_read(path):
    cast = [*nine(DECK), *nine(DECK, mode="feedback", wrong=(1,))]
    with VoteLog(path) as log:
        assert log.add(cast) == 18
    assert [json.loads(line) for line in lines(path)] == [dataclasses.asdict(vote) for vote in cast]
    frame = read_votes(path)
    assert [Vote(**row) for row in frame.to_dict("records")] == cast
    assert frame["truth"].dtype == bool
    assert frame["screen"].dtype == "int64"


def test_a_vote_twice_counts_once_and_the_first_stands(path):
    with VoteLog(path) as log:
        assert log.add(nine(DECK)) == 9
        before = path.read_bytes()
        assert log.add(nine(DECK, wrong=(0, 1))) == 0
        assert path.read_bytes() == before
    with VoteLog(path) as log:  # and over a restart
        assert log.add(nine(DECK, wrong=(0, 1))) == 0
        assert log.add([*nine(DECK), *nine(DECK, number=1), *nine(DECK, number=1, wrong=(3,))]) == 9
    assert len(read_votes(path)) == 18
    assert (read_votes(path)["truth"] == read_votes(path)["answer"]).all()


def test_nothing_new_writes_nothing(path):
    with VoteLog(path) as log:
        assert log.add([]) == 0
    assert path.read_bytes() == b""


def test_answered_by_screen_of_one_annotator_deck_and_mode(path):
    other = made_deck(seed=4)
    with VoteLog(path) as log:
        for number in (1, 0):
            log.add(nine(DECK, number=number))
        log.add([*nine(DECK, annotator="a2"), *nine(DECK, mode="feedback"), *nine(other)])
        found = log.answered(DECK.sha256, "a1", "plain")
        assert {number: [vote.place for vote in votes] for number, votes in found.items()} == {
            0: list(range(9)), 1: list(range(9))}  # fmt: skip
        assert found[1] == nine(DECK, number=1)
        assert log.answered(DECK.sha256, "a3", "plain") == {}


def test_the_next_screen_is_the_first_without_its_nine_votes(path):
    with VoteLog(path) as log:
        assert log.next_screen(DECK.sha256, "a1", "plain") == 0
        for number in (0, 1, 3):
            log.add(nine(DECK, number=number))
        assert log.next_screen(DECK.sha256, "a1", "plain") == 2
        log.add(nine(DECK, number=2)[:4])  # of a server that was killed
        assert log.next_screen(DECK.sha256, "a1", "plain") == 2
        assert log.add(nine(DECK, number=2)) == 5
        assert log.next_screen(DECK.sha256, "a1", "plain") == 4
        assert log.next_screen(DECK.sha256, "a1", "feedback") == 0


def test_threads_lose_and_double_nothing(path):
    """Eight threads, each screen sent twice, in several orders."""
    sent = [nine(DECK, annotator=f"a{who}", number=number) for who in range(6) for number in range(5)] * 2
    with VoteLog(path) as log, ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(log.add, sent)) == 270
    found = read_votes(path)
    assert len(found) == 270
    assert not found.duplicated(["annotator", "screen", "place"]).any()


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), max_size=12), max_size=8))
def test_any_batches_leave_each_vote_once(batches, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "votes.jsonl"
    screens = [nine(DECK, number=number) for number in range(3)]
    expected = set()
    with VoteLog(path) as log:
        for batch in batches:
            assert log.add([screens[number][place] for number, place in batch]) == len(set(batch) - expected)
            expected |= set(batch)
    assert set(zip(*(read_votes(path)[name] for name in ("screen", "place")), strict=True)) == expected
    assert len(lines(path)) == len(expected)


# ---- one writer ----


def test_a_second_server_gets_a_sentence(path):
    with VoteLog(path):
        with pytest.raises(InputError, match=rf"a server that writes .*votes.jsonl is already running .*{os.getpid()}"):
            VoteLog(path)
        read_votes(path)  # a reader is no writer
    with VoteLog(path):
        pass


def test_a_file_that_cannot_be_opened_holds_no_lock(path):
    path.mkdir()
    with pytest.raises(InputError, match="cannot be opened for writing"):
        VoteLog(path)
    path.rmdir()
    with VoteLog(path):
        pass


def test_after_close_nothing_is_written(path):
    log = VoteLog(path)
    log.close()
    with pytest.raises(InputError, match="closed"):
        log.add(nine(DECK))
    log.close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("how", ["replaced", "longer", "gone"])
def test_a_file_that_something_else_changed(path, how):
    """Git replaces a file: votes into the old one would be acknowledged and lost."""
    with VoteLog(path) as log:
        log.add(nine(DECK))
        if how == "replaced":
            copy = path.with_name("copy")
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
        elif how == "longer":
            with path.open("ab") as file:
                file.write(lines(path)[0])
        else:
            path.unlink()
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(InputError, match="restart the server"):
            log.add(nine(DECK, number=1))
        assert (path.read_bytes() if path.exists() else None) == before
        assert log.next_screen(DECK.sha256, "a1", "plain") == 1


# ---- people's votes and simulated ones ----


def test_simulated_votes_never_lie_among_peoples(path, tmp_path):
    made = nine(DECK, simulated=True)
    with VoteLog(path) as log:
        with pytest.raises(InputError, match="simulated votes do not belong among people's votes"):
            log.add([*nine(DECK, number=1), made[0]])
        assert path.read_bytes() == b""
    simulated = tmp_path / "simulated.jsonl"
    with VoteLog(simulated, simulated=True) as log:
        log.add(made)
        with pytest.raises(InputError, match="people's votes do not belong among simulated votes"):
            log.add(nine(DECK, number=1))
    with pytest.raises(InputError, match=r"line 1: simulated votes do not belong"):
        read_votes(simulated)
    with pytest.raises(InputError, match="simulated votes do not belong"):
        VoteLog(simulated)
    assert read_votes(simulated, simulated=True)["simulated"].all()


# ---- damage ----


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_set_aside(path, cut, capsys):
    with VoteLog(path) as log:
        log.add(nine(DECK))
    whole = b"".join(lines(path)[:-1])
    torn = lines(path)[-1][: -cut - 1] if cut > 1 else lines(path)[-1][:-2]
    path.write_bytes(whole + torn)
    with VoteLog(path) as log:
        assert path.read_bytes() == whole
        assert "its last line was torn" in log.repaired
        assert log.add(nine(DECK)) == 1  # the client sends the screen again
    assert path.with_name("votes.jsonl.torn").read_bytes() == torn + b"\n"
    assert "note:" in capsys.readouterr().err
    assert len(read_votes(path)) == 9


def test_torn_bytes_are_kept_before_they_are_taken_away(path, monkeypatch):
    """They may be somebody's work: a kill between the two leaves them twice, not nowhere."""
    with VoteLog(path) as log:
        log.add(nine(DECK))
    torn = lines(path)[-1][:-9]
    path.write_bytes(b"".join(lines(path)[:-1]) + torn)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(votes_module.os, "ftruncate", killed)
    with pytest.raises(KeyboardInterrupt):
        VoteLog(path)
    assert path.with_name("votes.jsonl.torn").read_bytes() == torn + b"\n"
    assert path.read_bytes().endswith(torn)


def test_torn_bytes_that_are_no_text(path):
    """A power cut may leave zeros."""
    path.write_bytes(votes_module._line(nine(DECK)[0]) + b"\0" * 50 + b"\xff")
    with VoteLog(path) as log:
        assert len(log.answered(DECK.sha256, "a1", "plain")[0]) == 1
    assert path.with_name("votes.jsonl.torn").stat().st_size == 52


def test_a_last_line_without_its_end_is_completed(path):
    cast = nine(DECK)
    with VoteLog(path) as log:
        log.add(cast)
        assert log.repaired == ""
    path.write_bytes(path.read_bytes()[:-1])
    assert len(read_votes(path)) == 9
    with VoteLog(path) as log:
        assert "had no end" in log.repaired
        log.add(nine(DECK, number=1))
    assert len(read_votes(path)) == 18
    assert not path.with_name("votes.jsonl.torn").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda line: line.replace(b'"place":3', b'"place":12'), "place: .*less than or equal to 8, found 12"),
        (lambda line: line.replace(b'"answer":', b'"said":'), "line 4: not a vote: "),
        (lambda line: line[:-30] + b"\n", "line 4: not a vote: the line: Invalid JSON"),
        (lambda line: b"\n", "line 4: not a vote"),
        (lambda line: b"\xff\xfe\n", "line 4: not a vote"),
        (lambda line: line.replace(b'"place":3', b'"place":2'), "line 4: a second vote of a1 at place 2 .* of line 3"),
        (lambda line: line.replace(b'"simulated":false', b'"simulated":true'), "line 4: simulated votes"),
    ],
)
def test_damage_in_the_middle_is_named_and_touched_by_nobody(path, change, expected):
    with VoteLog(path) as log:
        log.add(nine(DECK))
    found = lines(path)
    found[3] = change(found[3])
    path.write_bytes(b"".join(found))
    for read in (read_votes, VoteLog):
        with pytest.raises(InputError, match=expected):
            read(path)
    assert path.read_bytes() == b"".join(found)


def test_a_missing_file(path):
    with pytest.raises(InputError, match="make it an empty file if nobody has voted"):
        read_votes(path)
    with VoteLog(path):  # a server makes it
        pass
    assert len(read_votes(path)) == 0


# ---- a full disk ----


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_a_full_disk_in_the_middle_of_a_write(path, monkeypatch, fraction):
    with VoteLog(path) as log:
        log.add(nine(DECK))
        before = path.read_bytes()
        real_write, calls = os.write, []

        def full(file, data):
            """Takes a part, then says that the disk is full."""
            calls.append(len(data))
            if len(calls) == 1 and fraction:
                return real_write(file, data[: int(fraction * len(data))])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(InputError, match=r"could not be saved \(No space left on device\).*submit them again"):
            log.add(nine(DECK, number=1))
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert log.next_screen(DECK.sha256, "a1", "plain") == 1
        assert log.add(nine(DECK, number=1)) == 9  # there is room again
    assert len(read_votes(path)) == 18


def test_a_short_write_is_completed(path, monkeypatch):
    real_write = os.write
    with VoteLog(path) as log:
        monkeypatch.setattr(os, "write", lambda file, data: real_write(file, data[:100]))
        assert log.add(nine(DECK)) == 9
        monkeypatch.undo()
    assert len(read_votes(path)) == 9


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failed_fsync_or_an_interrupt_takes_the_votes_back(path, monkeypatch, error):
    with VoteLog(path) as log:
        real_fsync, calls = os.fsync, []

        def broken(file):
            calls.append(file)
            if len(calls) == 1:
                raise error
            real_fsync(file)

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises((InputError, KeyboardInterrupt)):
            log.add(nine(DECK))
        monkeypatch.undo()
        assert path.read_bytes() == b""
        assert log.add(nine(DECK)) == 9


def test_what_could_not_be_cut_off_is_cut_off_before_the_next_write(path, monkeypatch):
    with VoteLog(path) as log:
        log.add(nine(DECK))
        real_write = os.write

        def half(file, data):
            real_write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def refused(file, size):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "write", half)
        monkeypatch.setattr(os, "ftruncate", refused)
        with pytest.raises(InputError, match="could not be saved"):
            log.add(nine(DECK, number=1))
        monkeypatch.setattr(os, "write", real_write)
        with pytest.raises(InputError):  # still not
            log.add(nine(DECK, number=1))
        monkeypatch.undo()
        assert log.add(nine(DECK, number=1)) == 9
    assert len(read_votes(path)) == 18


LIMITED = """
import resource, sys
from pathlib import Path
from made_decks import made_deck, nine
from pipeline.core.errors import InputError
from pipeline.turing.votes import VoteLog, read_votes
path, deck = Path(sys.argv[1]), made_deck()
log = VoteLog(path)
log.add(nine(deck))
whole = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 1500, len(whole) * 100))
try:
    log.add(nine(deck, number=1))
except InputError as error:
    print(error)
assert path.read_bytes() == whole
resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) * 100, len(whole) * 100))
assert log.add(nine(deck, number=1)) == 9
print(len(read_votes(path)))
"""


def test_a_limit_of_the_system_that_cuts_a_write_off(path, root, project_env):
    """As a full disk: the kernel takes the bytes that fit, and refuses the rest."""
    env = project_env | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests' / 'turing'}"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "could not be saved (File too large); none of them was kept" in done.stdout
    assert done.stdout.splitlines()[-1] == "18"
