"""The section ``semisup`` of the three params files."""

import shutil
from pathlib import Path

import pytest

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.models.improved import MinibatchArchitecture, SemisupArchitecture
from pipeline.training.semisupervised import Run

ROOT = Path(__file__).resolve().parents[2]
FILES = ("params.yaml", "profiles/laptop/params.yaml", "profiles/paper/params.yaml")
TABLES = {"mnist": (20, 50, 100, 200), "cifar10": (1000, 2000, 4000, 8000), "svhn": (500, 1000, 2000)}
MINIBATCH = ("mb_mnist", "mb_cifar10", "mb_svhn")
SCORED = ("is_ours", "is_bn", "is_nolabels_ha", "is_nosmooth", "is_nolabels", "is_nominibatch")  # of Table 3
TEN = list(range(10))


def load(file: Path, name: str) -> Run:
    return params.load(file, Run, shared="semisup", own=f"semisup.runs.{name}")


@pytest.mark.parametrize("file", FILES)
def test_every_column_of_the_tables_has_a_run(file):
    names = [f"{dataset}-{n}" for dataset, counts in TABLES.items() for n in counts]
    assert sorted(params.read(ROOT / file)["semisup"]["runs"]) == sorted([*names, *MINIBATCH, *SCORED])
    for name in (*names, *MINIBATCH):
        run = load(ROOT / file, name)
        assert run.dataset == name.removeprefix("mb_").split("-")[0]
        assert isinstance(run.architecture, MinibatchArchitecture if name in MINIBATCH else SemisupArchitecture)
    for name in SCORED:
        run = load(ROOT / file, name)
        assert run.dataset == "cifar10"
        assert isinstance(run.architecture, MinibatchArchitecture)
        assert len(run.seeds) == 3
        assert len(run.splits) == 1, "scores tell the networks of a run by their seed alone"


@pytest.mark.parametrize("file", FILES[1:])
def test_runs_on_real_data_have_the_labels_of_their_name(file):
    for dataset, counts in TABLES.items():
        assert [load(ROOT / file, f"{dataset}-{n}").n_labels for n in counts] == list(counts)


# facts of the authors' code: batch, learning rate, constant and decaying epochs, widths of G and D, pixels
PUBLISHED = {
    "mnist": (100, 3e-3, 300, 0, 500, 250, (0.0, 255.0), "squared_feature_matching"),
    "cifar10": (100, 3e-4, 800, 400, 128, 96, (127.5, 128.0), "absolute_feature_matching"),
    "svhn": (100, 3e-4, 600, 300, 128, 64, (127.5, 127.5), "absolute_feature_matching"),
}


@pytest.mark.parametrize("dataset", TABLES)
def test_the_paper_profile_holds_the_published_settings(dataset):
    for n in TABLES[dataset]:
        run = load(ROOT / FILES[2], f"{dataset}-{n}")
        a = run.architecture
        assert (
            run.batch_size,
            run.learning_rate,
            run.constant_epochs,
            run.decay_epochs,
            a.generator_width,
            a.discriminator_width,
            (run.pixels.offset, run.pixels.divisor),
            run.techniques.generator_loss,
        ) == PUBLISHED[dataset]
        assert (run.beta1, run.beta2, run.adam_epsilon) == (0.5, 0.999, 1e-8)
        assert (run.techniques.generator_steps, run.techniques.real_target) == (1, 1.0)
        assert (run.techniques.historical_averaging, run.techniques.parameter_average) == (0.0, 1e-4)
        assert (a.preset, a.z_dim, a.weight_norm, a.data_dependent, a.noise, a.reference_batch) == (
            *("current", 100, True, True, True),
            0,
        )
        one = f"{dataset}-{n}" == "mnist-100"  # of ten splits and ten seeds one has been run
        assert (run.splits, run.seeds) == (([0], [0]) if one else (TEN, TEN))


@pytest.mark.parametrize(
    ("name", "n_labels", "epochs"),
    [("mb_mnist", 4000, (300, 200)), ("mb_cifar10", 4000, (800, 400)), ("mb_svhn", 1000, (600, 300))],
)
def test_the_minibatch_runs_of_the_paper_profile(name, n_labels, epochs):
    run = load(ROOT / FILES[2], name)
    a = run.architecture
    assert isinstance(a, MinibatchArchitecture)
    assert (a.generator_width, a.discriminator_width, a.n_kernels, a.kernel_dim) == (128, 96, 100, 5)
    assert (run.techniques.generator_loss, run.techniques.generator_steps) == ("minimax", 3)
    assert (run.n_labels, run.constant_epochs, run.decay_epochs) == (n_labels, *epochs)


def test_embedded_tables_have_three_seeds_and_a_row_of_labels_alone():
    for dataset, counts in TABLES.items():
        for n in counts:
            run = load(ROOT / FILES[0], f"{dataset}-{n}")
            assert len(run.seeds) >= 3
            assert run.labels_only_epochs > 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("techniques.real_target=1.5", "real_target"),
        ("techniques.parameter_average=2.0", "parameter_average"),
        ("techniques.historical_averaging=-0.1", "historical_averaging"),
        ("techniques.generator_steps=0", "generator_steps"),
        ("techniques.generator_loss=wasserstein", "generator_loss"),
        ("architecture.preset=c1", "preset"),
        ("architecture.name=minibatch_conv", "n_kernels"),
        ("n_labels=105", "multiple of the 10 classes"),
        ("seeds=[0,0]", "seeds must differ"),
        ("pixels.offset=127.5", "pixels: 0 to 255 become"),
        ("architecture.preset=c0", "semisup_mnist has no preset c0"),
        ("architecture.reference_batch=1", "one example has no batch statistics"),
    ],
)
def test_an_override_on_the_command_line_reaches_the_run_and_is_checked(tmp_path, override, said):
    """As ``dvc exp run -S``; the name of a run has a hyphen."""
    from dvc.utils.hydra import apply_overrides

    copy = Path(shutil.copy(ROOT / FILES[0], tmp_path / "params.yaml"))
    apply_overrides(str(copy), ["semisup.runs.mnist-100.techniques.real_target=0.9"])
    assert load(copy, "mnist-100").techniques.real_target == 0.9
    apply_overrides(str(copy), [f"semisup.runs.mnist-100.{override}"])
    with pytest.raises(InputError, match=said) as caught:
        load(copy, "mnist-100")
    assert "semisup.runs.mnist-100" in str(caught.value)


def test_feature_matching_with_a_minibatch_layer_is_refused(tmp_path):
    from dvc.utils.hydra import apply_overrides

    copy = Path(shutil.copy(ROOT / FILES[0], tmp_path / "params.yaml"))
    apply_overrides(str(copy), ["semisup.runs.mb_svhn.techniques.generator_loss=absolute_feature_matching"])
    with pytest.raises(InputError, match="before the minibatch layer of minibatch_conv, which would not reach G"):
        load(copy, "mb_svhn")
