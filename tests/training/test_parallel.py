"""Two processes over gloo: an update is that of one process that normalises each half; only the first one writes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from made_runs import made_run
from ruamel.yaml import YAML
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, no_rejects, write_set
from pipeline.models import dcgan, layers
from pipeline.models.build import Architecture, ColourArchitecture, MnistArchitecture, draw_z
from pipeline.models.store import read_note, read_tensors
from pipeline.training.adversarial import Run, initial_networks, train
from pipeline.training.batches import Batches
from pipeline.training.parallel import average, check_divides, check_same_step, in_parallel, process_group
from pipeline.training.updates import Networks

ROOT = Path(__file__).resolve().parents[2]
COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
RATE = 0.0002
ARCHITECTURES: dict[str, Architecture] = {
    "colour": ColourArchitecture(name="dcgan_32", z="gaussian", z_dim=5, filters=2, variant=dcgan.PAPER),
    "digits": MnistArchitecture(name="dcgan_mnist", z_dim=5, filters=4, hidden=16),
}


def run_of(architecture: Architecture) -> Run:
    """2 epochs of 3 steps on 20 images; the last batch has 4."""
    changes = {"updates": "both", "log_every_steps": 4, "n_samples": 6, "constant_epochs": 2}
    return made_run(architecture, learning_rate=RATE, initial_std=0.1, **changes)


def set_of(architecture: Architecture) -> ImageSet:
    sides = (32, 32, 3) if isinstance(architecture, ColourArchitecture) else (28, 28, 1)
    images = numpy_stream(1, "images").integers(0, 256, (20, *sides), dtype=np.uint8)
    index = pd.DataFrame({"key": "", "split": "train", "label": np.arange(20) % 10, "source": ""})
    return ImageSet(path=Path("made"), images=images, index=index)


# ---- a single process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 2), (2, 4), (4, 128), (3, 6), (64, 128)])
def test_a_batch_that_divides(monkeypatch: pytest.MonkeyPatch, processes: int, batch_size: int):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    check_divides(batch_size)


@pytest.mark.parametrize(("processes", "batch_size"), [(3, 128), (2, 7), (128, 128), (256, 128), (2, 2)])
def test_a_batch_that_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch, processes: int, batch_size: int):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    message = f"batch_size: {batch_size} images do not fall into {processes} equal parts of two or more"
    with pytest.raises(InputError, match=message):
        check_divides(batch_size)


def test_training_refuses_it_before_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    architecture = ARCHITECTURES["colour"]
    with pytest.raises(InputError, match="8 images do not fall into 3 equal parts"):
        train(set_of(architecture), run_of(architecture), COMPUTE, tmp_path, None)


def test_a_single_process_is_left_alone():
    """No group is formed, networks are called as they are, and a mean over one is the value itself."""
    network, value = nn.Linear(2, 2), torch.tensor([1.5, float("nan")])
    with process_group(COMPUTE):
        assert not torch.distributed.is_initialized()
        assert in_parallel(network) is network
        assert average(value) is value


@pytest.mark.parametrize(("steps", "refused"), [([7, 7, 7], False), ([7, 0, 7], True), ([7, 7, 8], True)])
def test_all_processes_start_from_the_same_step(monkeypatch: pytest.MonkeyPatch, steps: list[int], refused: bool):
    def gather(gathered: list[int], own: int) -> None:
        assert (len(gathered), own) == (3, 7)
        gathered[:] = steps

    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    said = rf"here: .* \({', '.join(map(str, steps))}\); .* same folder: set GAN_SCRATCH"
    with pytest.raises(InputError, match=said) if refused else nullcontext():
        check_same_step(7, Path("here"))


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


class Shared(nn.Module):
    """Stands for ``nn.SyncBatchNorm``, which refuses CPUs, among processes of equal parts of the batch."""

    def __init__(self, n: int, *, eps: float, affine: bool, track_running_stats: bool) -> None:
        super().__init__()
        assert not affine
        assert not track_running_stats
        self.n, self.eps = n, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == self.n
        return F.batch_norm(x.as_subclass(torch.Tensor), None, None, training=True, eps=self.eps)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 2)], ids=["units", "maps"])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("affine", [True, False])
def test_gain_and_shift_of_shared_statistics_are_those_of_batch_norm(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype, apart: float, affine: bool
):
    x, gain, shift = (torch.randn(s, generator=torch_stream(0, f"x{s}")) for s in (shape, (5,), (1, 5)))
    given = (1 + gain, shift[0]) if affine else (None, None)
    x = (3 * x + 1).to(dtype)
    alone = layers.normalised(x, *given)
    used: list[Shared] = []
    monkeypatch.setattr(layers.nn, "SyncBatchNorm", lambda *a, **k: used.append(Shared(*a, **k)) or used[-1])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    shared = layers.normalised(x.as_subclass(OnGpu), *given)
    assert len(used) == 1
    assert shared.dtype == alone.dtype == dtype
    torch.testing.assert_close(shared.as_subclass(torch.Tensor), alone, rtol=apart, atol=apart)


# ---- two processes --------------------------------------------------------------------------------------------------

# Both networks of each kind after one update of D and one of G, the numbers of these updates; then the whole run,
# unbroken and broken off inside an interval of the log; then a number that is NaN in one process only, and a checkpoint
# that only the first process sees.
WORKER = """
import sys
from pathlib import Path
import numpy as np
import torch
from pipeline.core import ranks
from pipeline.core.errors import InputError
from pipeline.models.store import named_tensors, write_tensors
from pipeline.training import adversarial, checkpoint, health
from pipeline.training.checkpoint import RunState
from pipeline.training.batches import Batches
from pipeline.training.parallel import process_group

sys.path.insert(0, sys.argv[1])
import test_parallel as made

class KilledError(Exception):
    pass

torch.set_num_threads(1)
health.COLLAPSED = 1e9  # all samples are warned of
out, rank = Path(sys.argv[2]), ranks.rank()
with process_group(made.COMPUTE):
    for name, architecture in made.ARCHITECTURES.items():
        run, images = made.run_of(architecture), made.set_of(architecture)
        batches = Batches(images, "train", architecture, batch_size=8, seed=0, device="cpu")
        state = RunState(networks=adversarial.initial_networks(run, made.COMPUTE, 0))
        adversarial.training_step(state, run, made.COMPUTE, batches, 0, 1, measured=True)
        tensors = named_tensors("generator", state.networks.generator)
        tensors |= named_tensors("discriminator", state.networks.discriminator) | state.sums
        write_tensors(out / f"{name}-{rank}.safetensors", tensors)
        adversarial.train(images, run, made.COMPUTE, out / f"{name}-unbroken-{rank}", None)

    checkpoint.CheckpointClock.due = lambda self: ranks.is_first()  # the clocks of processes differ
    step_of = adversarial.training_step
    def breakable(state, *arguments, **options):
        if state.step == 3 and not (out / "resumed").exists():
            raise KilledError
        step_of(state, *arguments, **options)
    adversarial.training_step = breakable
    try:
        adversarial.train(images, run, made.COMPUTE, out / "scratch", None)
    except KilledError:
        torch.distributed.barrier()
        (out / "resumed").mkdir(exist_ok=True)
    adversarial.train(images, run, made.COMPUTE, out / "scratch", None)

    state.first_bad.zero_()
    state.step = 41
    state.add("d", torch.tensor([float("nan") if rank == 1 else 0.5]))
    (out / f"bad-{rank}").write_text(str(state.bad_step()))

    try:
        adversarial.train(images, run, made.COMPUTE, out / f"{name}-unbroken-{rank}", None)
    except InputError as error:
        (out / f"refused-{rank}").write_text(str(error))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes left in a folder."""
    out = tmp_path_factory.mktemp("two")
    port = str(free_port())
    options = ["-W", "error", "-W", "ignore:Grad strides do not match:UserWarning"]  # of speed, from the reducer
    command = [sys.executable, *options, "-c", WORKER, str(Path(__file__).parent), str(out)]
    started = [
        subprocess.Popen(
            command,
            env=environment(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    assert "warning: seed 0, epoch 1: the samples have collapsed" in errors[0]
    assert "warning: seed" not in errors[1], "only the first process talks"
    return out


def by_halves(networks: Networks, architecture: Architecture) -> dict[str, torch.Tensor]:
    """One update of D and one of G from the mean of both halves' losses, each half normalised by its own statistics."""
    batch = Batches(set_of(architecture), "train", architecture, batch_size=8, seed=0, device="cpu").batch(1)
    z = draw_z(architecture, 8, torch_stream(0, "z", 1))
    generator, discriminator = networks.generator, networks.discriminator
    halves = [slice(0, 4), slice(4, 8)]
    labels = [tuple(y[half] for y in batch.condition) for half in halves]

    def one(logits: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

    def zero(logits: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))

    real = [discriminator(batch.images[half], *y) for half, y in zip(halves, labels, strict=True)]
    fake = [discriminator(generator(z[half], *y).detach(), *y) for half, y in zip(halves, labels, strict=True)]
    d_loss = sum(one(r) + zero(f) for r, f in zip(real, fake, strict=True)) / 2
    numbers = [d_loss, torch.cat(real).sigmoid().mean(), torch.cat(fake).sigmoid().mean()]
    networks.discriminator_adam.zero_grad()
    d_loss.backward()
    d_norm = norm_of(discriminator)
    networks.discriminator_adam.step()
    g_loss = sum(one(discriminator(generator(z[half], *y), *y)) for half, y in zip(halves, labels, strict=True)) / 2
    networks.generator_adam.zero_grad()
    g_loss.backward()
    g_norm = norm_of(generator)
    networks.generator_adam.step()
    return {
        "d": torch.stack(numbers).detach(),
        "g": g_loss.detach().reshape(1),
        "d_gradient": d_norm,
        "g_gradient": g_norm,
    }


def norm_of(network: nn.Module) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in network.parameters()]).norm().reshape(1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_update_is_that_of_one_process_that_normalises_each_half(two_processes: Path, name: str):
    """Within 1e-6, half a per cent of one move, but for one weight in a thousand, which Adam may have moved elsewhere
    because its gradient is rounding error."""
    architecture = ARCHITECTURES[name]
    found = read_tensors(two_processes / f"{name}-0.safetensors")
    networks = initial_networks(run_of(architecture), COMPUTE, 0)
    start = copies(networks)
    for what, expected in by_halves(networks, architecture).items():
        assert found.pop(what).tolist() == pytest.approx(expected.tolist(), rel=1e-5), what
    expected = copies(networks)
    assert {*found} == {*expected}
    for key, weights in expected.items():
        difference = (found[key] - weights).abs()
        assert (difference > 1e-6).sum().item() <= weights.numel() / 1000, key
        assert difference.max().item() < RATE
        assert (found[key] - start[key]).abs().median().item() > RATE / 2, "it has moved"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_whole_batch_in_one_process_is_another_update(two_processes: Path, name: str):
    """On CPUs batch norm's statistics are of a process's own part: the test above can fail."""
    architecture = ARCHITECTURES[name]
    found = read_tensors(two_processes / f"{name}-0.safetensors", "discriminator/")
    networks = initial_networks(run_of(architecture), COMPUTE, 0)
    batch = Batches(set_of(architecture), "train", architecture, batch_size=8, seed=0, device="cpu").batch(1)
    z = draw_z(architecture, 8, torch_stream(0, "z", 1))
    fake = networks.generator(z, *batch.condition).detach()
    real_logits, fake_logits = (networks.discriminator(x, *batch.condition) for x in (batch.images, fake))
    loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    loss.backward()
    networks.discriminator_adam.step()
    whole = {key: tensor for key, tensor in copies(networks).items() if key in found}
    apart = torch.cat([(found[key] - weights).abs().flatten() for key, weights in whole.items()])
    assert (apart > 1e-6).double().mean().item() > 0.05


def copies(networks: Networks) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": weights.detach().clone()
        for name in ("generator", "discriminator")
        for key, weights in getattr(networks, name).named_parameters()
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_processes_hold_the_same_weights_and_numbers(two_processes: Path, name: str):
    first, second = ((two_processes / f"{name}-{rank}.safetensors").read_bytes() for rank in (0, 1))
    assert first == second


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_the_first_process_writes(two_processes: Path, name: str):
    assert (two_processes / f"{name}-unbroken-0" / "seed0.safetensors").is_file()
    assert not (two_processes / f"{name}-unbroken-1").exists()


def test_two_processes_resume_to_the_same_bytes(two_processes: Path):
    """Broken off after step 3, inside an interval of the log; both go on from the first one's checkpoint."""
    assert (two_processes / "resumed").is_dir(), "it was broken off"
    unbroken = two_processes / "digits-unbroken-0" / "seed0.safetensors"
    resumed = two_processes / "scratch" / "seed0.safetensors"
    assert len(json.loads(read_note(unbroken))["history"]) == 2
    assert resumed.read_bytes() == unbroken.read_bytes()


def test_a_loss_that_is_nan_in_one_process_is_seen_by_both(two_processes: Path):
    assert [(two_processes / f"bad-{rank}").read_text() for rank in (0, 1)] == ["42", "42"]


def test_processes_that_see_different_checkpoints_are_refused(two_processes: Path):
    """The first one's run had ended; the folder of the second one is empty."""
    for rank in (0, 1):
        message = (two_processes / f"refused-{rank}").read_text()
        where = two_processes / f"digits-unbroken-{rank}" / "seed0.safetensors"
        assert message.startswith(f"{where}: the processes start from different steps (6, 0); ")
        assert "set GAN_SCRATCH" in message


# ---- the stage ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with tiny params and an image set."""
    here = tmp_path_factory.mktemp("project")
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, here / folder, ignore=shutil.ignore_patterns("__pycache__"))
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["compute"] |= {"threads": 1, "precision": "fp32", "device": "cpu"}
    values["train"] |= {"log_every_steps": 2, "n_samples": 6}
    values["train"]["runs"]["dcgan_svhn"] |= {"seeds": [0, 1], "batch_size": 8, "constant_epochs": 2}
    values["train"]["runs"]["dcgan_svhn"]["architecture"] |= {"filters": 2, "z_dim": 5}
    YAML().dump(values, here / "params.yaml")
    images = set_of(ARCHITECTURES["colour"])
    write_set(here / "set", images.images, images.index, no_rejects())
    return here


ARGUMENTS = ["params.yaml", "dcgan_svhn", "set", "out/model", "out/small", "out/samples.npz", "out/curves.csv"]


def launched(project: Path, processes: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The stage as ``GAN_LAUNCH`` runs it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "--no-python", sys.executable, "-m", "stages.train", *arguments]
    env = environment() | {"PYTHONPATH": str(project)}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_the_stage_as_two_processes_makes_one_model_folder(project: Path):
    done = launched(project, 2, ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (project / "out").iterdir()) == ["curves.csv", "model", "samples.npz", "small"]
    tables = ["health.parquet", "history.parquet", "validation.parquet"]
    names = sorted(path.name for path in (project / "out/model").iterdir())
    assert names == sorted([*tables, "networks.safetensors", "run.json"])
    (row,) = [json.loads(line) for line in (project / ".work/runs.jsonl").read_text().splitlines()]
    assert (row["status"], row["images"]) == ("done", 2 * 6 * 8), "both seeds"
    assert json.loads((project / "out/model/run.json").read_text())["processes"] == 2
    assert [path.name for path in (project / ".work").iterdir() if path.name.startswith("train")] == []
    history = pd.read_parquet(project / "out/model/history.parquet")
    assert history[["seed", "step"]].to_numpy().tolist() == [[s, n] for s in (0, 1) for n in (2, 4, 6)]
