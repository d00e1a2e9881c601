"""Shared by all tests: real data only where GAN_DATA names them; the embedded digits, read once."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.core import params
from pipeline.datasets import sources

ROOT = Path(__file__).resolve().parents[1]


# In the background of a shell, or under nohup, signals may be ignored, and so they would be by all that tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)


def pytest_collection_modifyitems(items):
    if os.environ.get("GAN_DATA"):
        return
    skip = pytest.mark.skip(reason="needs real data: set GAN_DATA to the folder that holds MNIST/, lsun/ and so on")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def root():
    """The project's root folder."""
    return ROOT


@pytest.fixture
def project_env():
    """Environment of a stage started by hand from any folder: the project is importable, DVC did not start it."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_"))}
    return env | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def embedded_raw(tmp_path_factory):
    """The raw MNIST folder of the embedded profile."""
    out = tmp_path_factory.mktemp("embedded") / "raw"
    sources.fetch_mnist(out, params.load(ROOT / "params.yaml", sources.MnistSource, own="fetch.mnist"))
    return out
