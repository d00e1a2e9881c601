"""A writer that is killed again and again: every acknowledged vote is there, and none twice."""

import os
import random
import signal
import subprocess
import sys
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from made_decks import made_deck, nine

from pipeline.turing.votes import VoteLog, read_votes

N_KILLS = 8
WRITER = """
import sys
from pathlib import Path
from made_decks import made_deck, nine
from pipeline.turing.votes import VoteLog
deck = made_deck()
log = VoteLog(Path(sys.argv[1]))
number = log.next_screen(deck.sha256, "a1", "plain")
while True:
    log.add(nine(deck, number=number))
    print(number, flush=True)  # acknowledged
    number += 1
"""


def test_kill_9_in_the_middle_of_writing(tmp_path, root, project_env):
    """Killed after random times while it writes as fast as it can, and started again."""
    path, rng = tmp_path / "votes.jsonl", random.Random(0)
    env = project_env | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests' / 'turing'}"}
    acknowledged = set()
    for _ in range(N_KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as writer:
            said = [writer.stdout.readline()]
            time.sleep(rng.uniform(0.001, 0.04))
            writer.send_signal(signal.SIGKILL)
            rest, errors = writer.communicate(timeout=60)
        said += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        assert said[0], errors
        acknowledged |= {int(line) for line in said}
        assert acknowledged <= _whole_screens(path)
    assert len(acknowledged) >= N_KILLS
    found = read_votes(path)
    assert not found.duplicated(["annotator", "screen", "place"]).any()
    assert sorted(found["screen"].unique()) == list(range(found["screen"].max() + 1))


def _whole_screens(path):
    """Screens with all nine votes, after a restart."""
    with VoteLog(path) as log:
        votes = log.answered(made_deck().sha256, "a1", "plain")
    return {number for number, mine in votes.items() if len(mine) == 9}


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1))
def test_killed_at_any_byte_of_a_write(share, tmp_path_factory):
    """Whatever part of a screen reached the disk, what was acknowledged stands, and sent again it is complete."""
    path, deck = tmp_path_factory.mktemp("cut") / "votes.jsonl", made_deck()
    with VoteLog(path) as log:
        log.add(nine(deck))
        acknowledged = path.stat().st_size
        log.add(nine(deck, number=1))
    os.truncate(path, acknowledged + int(share * (path.stat().st_size - acknowledged)))
    with VoteLog(path) as log:
        assert log.answered(deck.sha256, "a1", "plain")[0] == nine(deck)
        kept = len(log.answered(deck.sha256, "a1", "plain").get(1, ()))
        assert log.next_screen(deck.sha256, "a1", "plain") == (2 if kept == 9 else 1)
        assert log.add(nine(deck, number=1)) == 9 - kept
    assert len(read_votes(path)) == 18
