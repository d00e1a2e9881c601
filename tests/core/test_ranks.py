"""Which of several processes this one is, as launchers say it in the environment."""

import pytest

from pipeline.core import ranks


def test_alone_without_a_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.world_size(), ranks.is_first()) == (0, 1, True)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_one_of_four(monkeypatch, rank):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (ranks.rank(), ranks.world_size(), ranks.is_first()) == (rank, 4, rank == 0)
