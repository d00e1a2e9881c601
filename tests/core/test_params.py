"""The strict loader: the three real params files, the paper's settings, and every way to get a value wrong."""

import dataclasses
import re
import shutil
from typing import Annotated

import pytest
from annotated_types import Len
from ruamel.yaml import YAML

from pipeline.core import compute, params
from pipeline.core.errors import InputError
from pipeline.datasets import assemble, sources, svhn
from pipeline.evaluation import digits, features, kmeans, pixel_neighbours, probes, supervised_cnn
from pipeline.models import build, dcgan
from pipeline.training import adversarial, imagenet128

FILES = ("params.yaml", "profiles/laptop/params.yaml", "profiles/paper/params.yaml")
RUN = "train.runs.dcgan_mnist"
GONE = object()


@pytest.fixture(params=FILES)
def params_file(request, root):
    return root / request.param


@pytest.fixture
def altered(root, tmp_path):
    """A copy of the embedded params with the value at a dotted address replaced, added or taken away."""

    def alter(address, value):
        yaml = YAML()
        values = yaml.load((root / "params.yaml").read_text(encoding="utf-8"))
        section = values
        *outer, key = address.split(".")
        for part in outer:
            section = section[part]
        if value is GONE:
            del section[key]
        else:
            section[key] = value
        copy = tmp_path / "params.yaml"
        with copy.open("w", encoding="utf-8") as file:
            yaml.dump(values, file)
        return copy

    return alter


def load_run(file, name="dcgan_mnist"):
    return params.load(file, adversarial.Run, shared="train", own=f"train.runs.{name}")


def refusal(file, load=load_run):
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    return str(caught.value).removeprefix(str(file))


# the real files


def test_every_section_loads(params_file):
    runs = params.read(params_file)["train"]["runs"]
    assert {"dcgan_mnist", "gan_mnist"} <= set(runs)
    for name in runs:
        assert isinstance(load_run(params_file, name), adversarial.Run)
    for own, section in {
        "fetch.mnist": sources.MnistSource,
        "assemble.mnist": assemble.MnistSplits,
        "assemble.svhn": svhn.SvhnSplits,
        "neighbours": digits.Search,
        "features": features.Features,
        "random_features": features.RandomFeatures,
        "kmeans": kmeans.KMeansFeatures,
        "pixel_neighbours": pixel_neighbours.PixelNeighbours,
        "supervised_cnn": supervised_cnn.SupervisedCnn,
        "compute": compute.Compute,
    }.items():
        assert isinstance(params.load(params_file, section, own=own), section)
    datasets = params.read(params_file)["probe"]
    assert {"cifar10", "svhn"} <= set(datasets)
    for name in datasets:
        assert isinstance(params.load(params_file, probes.Probe, own=f"probe.{name}"), probes.Probe)


def addresses(values, place=""):
    """Dotted addresses of all keys; where a dataset or weights come from and their files do not count."""
    source = r"fetch\.\w+\.(sha256|rendered|official|in_place)|score\.inception"
    if not isinstance(values, dict) or re.fullmatch(source, place):
        return {place}
    return {address for key, value in values.items() for address in addresses(value, f"{place}.{key}".lstrip("."))}


def test_the_three_profiles_have_the_same_keys(root):
    embedded, laptop, paper = (addresses(params.read(root / file)) for file in FILES)
    assert embedded == laptop == paper
    assert {"train.beta1", f"{RUN}.selection.n_images", "fetch.mnist.sha256", "profile"} <= paper


def test_profile_is_named_in_its_file(root):
    assert [params.read(root / file)["profile"] for file in FILES] == ["embedded", "laptop", "paper"]


def test_the_paper_profile_holds_the_published_settings(root):
    file = root / "profiles/paper/params.yaml"
    for name in ("dcgan_mnist", "gan_mnist"):
        run = load_run(file, name)
        assert (run.batch_size, run.learning_rate) == (128, 0.0002)  # DCGAN, section 4
        assert (run.beta1, run.beta2, run.initial_std) == (0.5, 0.999, 0.02)
        assert (run.constant_epochs, run.decay_epochs, run.l2) == (100, 100, 2.5e-5)  # released code
        assert (run.updates, run.architecture.z_dim) == ("alternate", 100)
        assert run.architecture.name == name
        assert run.dataset == "mnist"
    dcgan = load_run(file).architecture
    assert (dcgan.filters, dcgan.hidden) == (64, 1024)
    splits = params.load(file, assemble.MnistSplits, own="assemble.mnist")
    assert (splits.n_train, splits.n_validation, splits.n_test) == (50_000, 10_000, 10_000)
    assert splits.test_from == "archive"
    assert params.load(file, sources.MnistSource, own="fetch.mnist").source == "official"
    search = params.load(file, digits.Search, own="neighbours")
    assert {50_000, 10_000_000} <= set(search.n_images)
    assert search.n_images == sorted(search.n_images)


@pytest.mark.parametrize(
    ("name", "architecture", "filters", "z", "z_dim", "batch_size", "learning_rate", "epochs"),
    [
        ("dcgan_lsun", "dcgan_64", 128, "uniform", 100, 128, 0.0002, 5),
        ("dcgan_faces", "dcgan_64", 128, "uniform", 100, 128, 0.0002, 25),
        ("dcgan_imagenet", "dcgan_32", 128, "uniform", 256, 128, 0.0002, 30),
        ("dcgan_cifar10", "dcgan_32", 128, "uniform", 256, 128, 0.0002, None),  # no such run in the paper
        ("dcgan_svhn", "dcgan_svhn", 64, "gaussian", 100, 64, 0.0005, 200),
    ],
)
def test_the_colour_runs_of_the_paper_profile(
    root, name, architecture, filters, z, z_dim, batch_size, learning_rate, epochs
):
    """Paper, figure 1 and sections 4 and 5, and the released code and arrays."""
    run = load_run(root / "profiles/paper/params.yaml", name)
    assert run.architecture == build.ColourArchitecture(
        name=architecture, z=z, z_dim=z_dim, filters=filters, variant=dcgan.PAPER
    )
    assert (run.batch_size, run.learning_rate, run.updates) == (batch_size, learning_rate, "alternate")
    assert (run.beta1, run.beta2, run.adam_epsilon, run.initial_std) == (0.5, 0.999, 1e-8, 0.02)
    assert (run.l2, run.decay_epochs, run.seeds) == (1e-5, 0, [42])
    assert run.constant_epochs == epochs or epochs is None
    assert (run.selection, run.released) == (None, None)


def test_no_colour_run_of_the_paper_profile_is_left_unchecked(root):
    runs = params.read(root / "profiles/paper/params.yaml")["train"]["runs"]
    colour = {"dcgan_lsun", "dcgan_faces", "dcgan_imagenet", "dcgan_cifar10", "dcgan_svhn"}
    assert {name for name, run in runs.items() if "variant" in run["architecture"]} == colour | {"imagenet128_dcgan"}


def test_the_imagenet_128_networks_of_the_paper_profile(root):
    """Improved GAN, figure 6, and the authors' code; it states nothing of the plain DCGAN, which is ours."""
    file = root / "profiles/paper/params.yaml"
    plain = load_run(file, "imagenet128_dcgan")
    assert (plain.architecture.name, plain.architecture.variant) == ("dcgan_128", dcgan.PAPER)
    assert (plain.learning_rate, plain.beta1, plain.initial_std) == (0.0002, 0.5, 0.02)
    run = params.load(file, imagenet128.Run, own="imagenet128")
    a = run.architecture
    assert (a.z_dim, a.generator_width, a.discriminator_width, a.n_kernels, a.kernel_dim) == (8192, 64, 64, 300, 50)
    assert (list(a.noise_maps), a.reference_batch, a.input_noise) == ([64, 64, 32, 16, 8, 8], 16, 0.1)
    assert (run.labels, run.real_target, run.generator_target) == (True, 0.75, 0.375)
    assert (run.batch_size, run.towers, run.learning_rate, run.beta1) == (16, 4, 4e-4, 0.5)


def test_the_runs_of_table_3_of_the_paper_profile(root):
    """Improved GAN, table 3: each row is "Our methods" but for what its name says; all else is ours or mb_cifar10's."""
    file = root / "profiles/paper/params.yaml"
    runs = params.read(file)["semisup"]["runs"]
    changed = {
        "is_bn": {"architecture.reference_batch": 0},
        "is_nolabels_ha": {"n_labels": 0, "techniques.historical_averaging": 0.001},
        "is_nosmooth": {"techniques.real_target": 1.0},
        "is_nolabels": {"n_labels": 0},
        "is_nominibatch": {"architecture.n_kernels": 0},
    }
    ours = flat(runs["is_ours"])
    for name, changes in changed.items():
        assert flat(runs[name]) == ours | changes
    differs = {key: value for key, value in ours.items() if flat(runs["mb_cifar10"])[key] != value}
    assert set(differs) == {
        *("n_labels", "architecture.reference_batch", "techniques.real_target", "seeds", "at_once", "n_snapshots"),
    }
    assert (differs["n_labels"], differs["techniques.real_target"]) == (50_000, 0.9)


def flat(values, place=""):
    """Dotted address -> value."""
    if not isinstance(values, dict):
        return {place: values}
    return {a: v for key, value in values.items() for a, v in flat(value, f"{place}.{key}".lstrip(".")).items()}


def test_the_experiments_on_features_of_the_paper_profile(root):
    """Paper, tables 1 and 2, and the released code; what it leaves open is ours."""
    file = root / "profiles/paper/params.yaml"
    of_svhn, of_cifar10 = (params.load(file, probes.Probe, own=f"probe.{name}") for name in ("svhn", "cifar10"))
    assert of_svhn.C == [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2]
    assert (of_svhn.draws_to_choose, of_svhn.draws_to_test) == (10, 100)
    assert 100 in of_svhn.labels_per_class
    assert (of_svhn.all_labels, of_svhn.n_validation) == (False, None)
    splits = params.load(file, svhn.SvhnSplits, own="assemble.svhn")
    assert (splits.n_train, splits.n_validation, splits.n_test, splits.n_extra) == (73_257, 10_000, 26_032, 0)
    assert (of_cifar10.all_labels, of_cifar10.n_validation, of_cifar10.draws_to_test) == (True, 10_000, 10)
    assert 400 in of_cifar10.labels_per_class
    assert min(of_cifar10.C) < min(of_svhn.C), "longer features, smaller weights"
    assert max(of_cifar10.C) >= max(of_svhn.C)
    of_d = params.load(file, features.Features, own="features")
    assert of_d.statistics_batch_size == 128
    random = params.load(file, features.RandomFeatures, own="random_features")
    assert random.initial_std == 0.02
    assert params.load(file, kmeans.KMeansFeatures, own="kmeans").n_maps == 4800
    assert params.load(file, pixel_neighbours.PixelNeighbours, own="pixel_neighbours").labels_per_class == 100


def test_the_supervised_cnn_of_the_paper_profile(root):
    """64 trials on 1,000 labels, D's architecture (paper, table 2); the ranges are ours."""
    cnn = params.load(root / "profiles/paper/params.yaml", supervised_cnn.SupervisedCnn, own="supervised_cnn")
    assert (cnn.n_trials, cnn.filters, cnn.labels_per_class, cnn.max_epochs) == (64, 64, 100, 200)
    assert (cnn.learning_rate, cnn.l2) == ([1e-5, 1e-2], [1e-6, 1e-2])
    assert (cnn.dropout, cnn.initial_std) == ([0, 0.7], [0.01, 0.1])
    assert (cnn.beta1, cnn.batch_size, sorted(cnn.batch_norm)) == ([0.5, 0.9], [32, 64, 128], [False, True])


def test_dvc_rewrites_the_file_unchanged(params_file, tmp_path):
    from dvc.utils.serialize import modify_yaml

    copy = shutil.copy(params_file, tmp_path / "params.yaml")
    with modify_yaml(str(copy)) as values:
        assert values["profile"]
    assert copy.read_bytes() == params_file.read_bytes()


def test_exp_run_set_param_changes_one_line(params_file, tmp_path):
    """``dvc exp run -S`` with 5e-05, which YAML 1.1 would read back as text."""
    from dvc.utils.hydra import apply_overrides

    copy = shutil.copy(params_file, tmp_path / "params.yaml")
    apply_overrides(str(copy), ["train.learning_rate=5e-05"])
    before, after = params_file.read_text(encoding="utf-8"), copy.read_text(encoding="utf-8")
    pairs = list(zip(before.splitlines(), after.splitlines(), strict=True))
    changed = [(old, new) for old, new in pairs if old != new]
    assert len(changed) == 1
    assert changed[0][0].startswith("  learning_rate: ")
    assert load_run(copy).learning_rate == 5e-05
    assert load_run(copy) == dataclasses.replace(load_run(params_file), learning_rate=5e-05)


# merging


def test_a_runs_own_value_wins_over_the_shared_one(altered):
    file = altered(f"{RUN}.beta1", 0.9)
    assert load_run(file).beta1 == 0.9
    assert load_run(file, "gan_mnist").beta1 == 0.5


def test_a_shared_value_that_a_run_replaces_is_told(altered):
    file = altered(f"{RUN}.beta1", 0.9)
    sentence = f"train.beta1 (0.5) is not in force here: {RUN}.beta1 is 0.9"
    assert params.not_in_force(file, own=RUN, shared="train") == [sentence]
    assert params.not_in_force(altered(f"{RUN}.beta1", 0.5), own=RUN, shared="train") == []
    assert params.not_in_force(file, own="train.runs.gan_mnist", shared="train") == []


def test_a_shared_value_reaches_every_run(altered):
    file = altered("train.beta1", 0.9)
    assert (load_run(file).beta1, load_run(file, "gan_mnist").beta1) == (0.9, 0.9)


def test_sections_are_frozen(root):
    run = load_run(root / "params.yaml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.beta1 = 0.9


@pytest.mark.parametrize(("text", "number"), [("5e-05", 5e-05), ("2E-4", 2e-4), ("1", 1.0), ("0.25", 0.25)])
def test_numbers_are_read_as_dvc_reads_them(tmp_path, root, text, number):
    file = tmp_path / "params.yaml"
    embedded = (root / "params.yaml").read_text(encoding="utf-8")
    file.write_text(re.sub(r"learning_rate: \S+", f"learning_rate: {text}", embedded), encoding="utf-8")
    assert load_run(file).learning_rate == number


# bad input: file, dotted key, what was found, what is expected


@pytest.mark.parametrize(
    ("address", "value", "place", "words"),
    [
        ("train.beta", 0.5, "train", ("unknown key 'beta'", "expected ", "beta1", "learning_rate")),
        (f"{RUN}.beta", 0.5, RUN, ("unknown key 'beta'", "expected ", "beta1", "learning_rate")),
        (f"{RUN}.l2", GONE, RUN, ("missing key 'l2'", "expected ")),
        ("train.beta1", 1.5, "train.beta1", ("less than 1", "found 1.5")),
        (f"{RUN}.beta1", -0.1, f"{RUN}.beta1", ("greater than or equal to 0", "found -0.1")),
        (f"{RUN}.batch_size", 0, f"{RUN}.batch_size", ("greater than or equal to 2", "found 0")),
        ("train.learning_rate", 0, "train.learning_rate", ("greater than 0", "found 0")),
        ("train.learning_rate", "5e-05", "train.learning_rate", ("number", "found '5e-05'", "write 0.00005")),
        ("train.learning_rate", "slow", "train.learning_rate", ("number", "found 'slow'")),
        ("train.learning_rate", None, "train.learning_rate", ("number", "found None")),
        (f"{RUN}.batch_size", True, f"{RUN}.batch_size", ("integer", "found True")),
        (f"{RUN}.batch_size", 128.5, f"{RUN}.batch_size", ("integer", "found 128.5")),
        (f"{RUN}.batch_size", "128", f"{RUN}.batch_size", ("integer", "found '128'", "write 128 without quotes")),
        ("train.updates", "never", "train.updates", ("'alternate' or 'both'", "found 'never'")),
        (f"{RUN}.seeds", [], f"{RUN}.seeds", ("at least 1", "found []")),
        (f"{RUN}.seeds", [0, "one"], f"{RUN}.seeds.1", ("integer", "found 'one'")),
        (f"{RUN}.architecture.z", 3, f"{RUN}.architecture", ("unknown key 'z'", "filters, hidden, name, z_dim")),
        (f"{RUN}.architecture.z_dim", GONE, f"{RUN}.architecture", ("missing key 'z_dim'", "filters, hidden")),
        (f"{RUN}.architecture.z_dim", 0, f"{RUN}.architecture.z_dim", ("greater than or equal to 1", "found 0")),
        (
            f"{RUN}.architecture.name",
            "dcgan",
            f"{RUN}.architecture.name",
            ("'dcgan_mnist', 'gan_mnist', 'dcgan_mnist_affine'", "found 'dcgan'"),
        ),
        (f"{RUN}.architecture", 3, f"{RUN}.architecture", ("found 3",)),
        (f"{RUN}.selection.batch_size", 505, f"{RUN}.selection.batch_size", ("multiple of 10", "found 505")),
        (
            f"{RUN}.selection.n_images",
            [5000, 1000],
            f"{RUN}.selection",
            ("multiples of batch_size 500", "[5000, 1000]"),
        ),
        (f"{RUN}.selection.n_images", [5000, 0], f"{RUN}.selection.n_images.1", ("or equal to 1", "found 0")),
        (RUN, GONE, RUN, ("no key 'dcgan_mnist' at train.runs", "found gan_mnist")),
        (RUN, 7, RUN, ("expected a section", "found 7")),
        ("train.runs", GONE, RUN, ("no key 'runs' at train", "found beta1")),
        ("train", GONE, "train", ("no key 'train' at the top level", "found profile, compute")),
    ],
)
def test_a_wrong_value_is_named(altered, address, value, place, words):
    message = refusal(altered(address, value))
    assert re.match(rf", {re.escape(place)}( \(|: )", message)
    for word in words:
        assert word in message


# sections of several kinds, told apart by their name

COLOUR = "train.runs.dcgan_svhn"
MNIST_KEYS = "expected filters, hidden, name, z_dim"
COLOUR_KEYS = "expected filters, name, variant, z, z_dim"


@pytest.mark.parametrize(
    ("address", "value", "message"),
    [
        ("hidden", 64, f"{COLOUR}.architecture: unknown key 'hidden'; {COLOUR_KEYS}"),
        ("z", GONE, f"{COLOUR}.architecture: missing key 'z'; {COLOUR_KEYS}"),
        ("z", "normal", f"{COLOUR}.architecture.z: value should be 'uniform' or 'gaussian', found 'normal'"),
        ("filters", 0, f"{COLOUR}.architecture.filters: value should be greater than or equal to 1, found 0"),
        (
            "name",
            "dcgan_256",
            f"{COLOUR}.architecture.name: expected 'dcgan_mnist', 'gan_mnist', 'dcgan_mnist_affine', "
            "'gan_mnist_affine', 'dcgan_64', 'dcgan_32', 'dcgan_svhn', 'dcgan_svhn_linear', 'dcgan_128', "
            "found 'dcgan_256'",
        ),
        ("name", GONE, f"{COLOUR}.architecture: missing key 'name', which says what kind of section this is"),
        (
            "variant.depth",
            3,
            f"{COLOUR}.architecture.variant: unknown key 'depth'; expected activation, batch_norm, global_average, "
            "hidden, resampling",
        ),
        (
            "variant.activation",
            "tanh",
            f"{COLOUR}.architecture.variant.activation: value should be 'leaky_relu', 'relu' or 'maxout', found 'tanh'",
        ),
        ("variant", None, f"{COLOUR}.architecture.variant: value should be an object, found None"),
    ],
)
def test_a_wrong_value_within_one_of_several_kinds_of_section(altered, address, value, message):
    """Only the keys of the kind that the name chooses are expected, and the kind is no part of the address."""
    file = altered(f"{COLOUR}.architecture.{address}", value)
    assert refusal(file, lambda file: load_run(file, "dcgan_svhn")) == f", {message}"


def test_the_keys_of_the_other_kind(altered):
    message = refusal(altered(f"{RUN}.architecture.variant", {"hidden": 0}))
    assert message == f", {RUN}.architecture: unknown key 'variant'; {MNIST_KEYS}"
    message = refusal(altered(f"{RUN}.architecture.filters", 0))
    assert message == f", {RUN}.architecture: filters must be at least 1 for dcgan_mnist, found 0"


def test_the_name_chooses_the_kind(root):
    digits, colour = (load_run(root / "params.yaml", name).architecture for name in ("dcgan_mnist", "dcgan_svhn"))
    assert (type(digits), digits.name) == (build.MnistArchitecture, "dcgan_mnist")
    assert (type(colour), colour.name) == (build.ColourArchitecture, "dcgan_svhn")


def test_optional_sections_of_a_run(altered, root):
    """A null is none; what is given is checked like any other section."""
    run = load_run(root / "params.yaml", "dcgan_svhn")
    assert (run.selection, run.released) == (None, None)
    given = {"folder": "svhn", "generator": None, "discriminator": "*.npy", "sha256": None}

    def load(file):
        return load_run(file, "dcgan_svhn")

    assert load(altered(f"{COLOUR}.released", given)).released.discriminator == "*.npy"
    message = refusal(altered(f"{COLOUR}.released", given | {"sha256": "0" * 63}), load)
    assert message.startswith(f", {COLOUR}.released.sha256: String should have at least 64 characters, found")
    message = refusal(altered(f"{COLOUR}.released", given | {"path": "x"}), load)
    assert message == f", {COLOUR}.released: unknown key 'path'; expected discriminator, folder, generator, sha256"
    message = refusal(altered(f"{COLOUR}.released", GONE), load)
    assert f", {COLOUR} (or train, for all runs): missing key 'released'" in message


SELECTION = {"every_epochs": 1, "batch_size": 500, "n_images": [1000]}


@pytest.mark.parametrize(
    ("name", "selection", "words"),
    [
        ("dcgan_svhn", SELECTION, "the epoch of dcgan_svhn cannot be chosen by labelled digits; found Selection("),
        ("dcgan_imagenet", SELECTION, "the epoch of dcgan_32 cannot be chosen by labelled digits; found Selection("),
        ("dcgan_mnist", None, "the epoch of dcgan_mnist must be chosen by a selection; found None"),
        ("gan_mnist", None, "the epoch of gan_mnist must be chosen by a selection; found None"),
    ],
)
def test_digits_are_selected_by_their_labels_and_nothing_else_is(altered, name, selection, words):
    file = altered(f"train.runs.{name}.selection", selection)
    message = refusal(file, lambda file: load_run(file, name))
    assert message.startswith(f", train.runs.{name}: selection: {words}")


def test_every_problem_of_a_kind_is_told_at_once(altered):
    broken = {"name": "dcgan_32", "z": "uniform", "z_dim": 0, "filters": 2, "hidden": 3}
    lines = refusal(altered(f"{COLOUR}.architecture", broken), lambda file: load_run(file, "dcgan_svhn")).splitlines()
    assert sorted(line.partition(COLOUR)[2] for line in lines) == [
        ".architecture.z_dim: value should be greater than or equal to 1, found 0",
        f".architecture: missing key 'variant'; {COLOUR_KEYS}",
        f".architecture: unknown key 'hidden'; {COLOUR_KEYS}",
    ]


def test_every_problem_is_told_at_once(altered):
    lines = refusal(altered(f"{RUN}.seeds", ["a", "b"])).splitlines()
    assert len(lines) == 2
    assert f"{RUN}.seeds.0" in lines[0]
    assert f"{RUN}.seeds.1" in lines[1]


def test_a_shared_key_that_is_missing_is_sought_in_the_shared_section(altered):
    message = refusal(altered("train.beta1", GONE))
    assert "missing key 'beta1'" in message
    assert re.search(r"\btrain\b(?!\.runs)", message)


@params.section
class Inner:
    size: int


@params.section
class Outer:
    maybe: Inner | None
    by_name: Annotated[dict[str, Inner], Len(min_length=1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{maybe: {sise: 1}, by_name: {a: {size: 1}}}", ", a.maybe: unknown key 'sise'; expected size"),
        ("{maybe: {}, by_name: {a: {size: 1}}}", ", a.maybe: missing key 'size'; expected size"),
        ("{maybe: null, by_name: {b: {size: 1, color: 2}}}", ", a.by_name.b: unknown key 'color'; expected size"),
        ("{maybe: null, by_name: {}}", ", a.by_name: "),
        ("{maybe: 3, by_name: {b: {size: 1}}}", ", a.maybe: "),
    ],
)
def test_optional_and_named_sections_name_their_keys(tmp_path, text, words):
    file = tmp_path / "params.yaml"
    file.write_text(f"a: {text}\n")
    assert words in refusal(file, lambda file: params.load(file, Outer, own="a"))


def test_an_optional_section_may_be_null(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("a: {maybe: null, by_name: {b: {size: 1}}}\n")
    assert params.load(file, Outer, own="a") == Outer(maybe=None, by_name={"b": Inner(size=1)})


def test_a_null_in_place_of_a_section_is_none(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("a: {maybe: null, given: {size: 1}, wrong: {sise: 1}}\n")
    assert params.load_optional(file, Inner, own="a.maybe") is None
    assert params.load_optional(file, Inner, own="a.given") == Inner(size=1)
    assert "unknown key 'sise'" in refusal(file, lambda file: params.load_optional(file, Inner, own="a.wrong"))
    assert "no key 'absent'" in refusal(file, lambda file: params.load_optional(file, Inner, own="a.absent"))


def test_an_unshared_section_names_its_keys(altered):
    def load(file):
        return params.load(file, compute.Compute, own="compute")

    assert refusal(altered("compute.threads", 0), load).startswith(", compute.threads: ")
    message = refusal(altered("compute.thread", 2), load)
    assert message == ", compute: unknown key 'thread'; expected device, precision, threads"


def test_a_key_that_is_a_number_is_unknown(tmp_path, root):
    file = tmp_path / "params.yaml"
    embedded = (root / "params.yaml").read_text(encoding="utf-8")
    file.write_text(embedded.replace("compute:\n", "compute:\n  7: 3\n"), encoding="utf-8")
    message = refusal(file, lambda path: params.load(path, compute.Compute, own="compute"))
    assert message == ", compute: unknown key '7'; expected device, precision, threads"


def test_infinity_is_no_learning_rate(altered):
    assert "train.learning_rate" in refusal(altered("train.learning_rate", float("inf")))


def test_the_hint_for_a_tiny_number_is_not_zero(altered):
    assert "write 0 " not in refusal(altered("train.adam_epsilon", "1e-15"))


def test_missing_file(tmp_path):
    message = refusal(tmp_path / "params.yaml", params.read)
    assert "no such params file" in message
    assert "project's root" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: ]1\n", (", line 2", "not valid YAML")),
        (b"a: 1\na: 2\n", (", line 2", 'duplicate key "a"')),
        (b"a: *nowhere\n", (", line 1", "undefined alias")),
        (b"", ("expected a mapping", "NoneType")),
        (b"- 1\n", ("expected a mapping", "list")),
        (b"a: \xff\n", ("not valid",)),
        (b"a: \x00\n", ("not valid",)),
        (b"a: [1, 2]\nb: 2024-13-45\n", (", line 2", "not a value that YAML can read", "month")),
        (b"a: &x [*x, 3]\nb:\n  c: !!bool maybe\n", (", line 3", "not a value that YAML can read", "maybe")),
        (b"a: 1\n!!int x: 2\nb: !!int y\n", (", line 2", "not a value that YAML can read", "'x'")),
    ],
)
def test_broken_yaml(tmp_path, content, words):
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    message = refusal(file, params.read)
    for word in words:
        assert word in message


def test_a_value_that_contains_itself(tmp_path, root):
    text = (root / "params.yaml").read_text().replace("  precision: ", "  precision: &loop [*loop] # ", 1)
    (tmp_path / "params.yaml").write_text(text)
    message = refusal(tmp_path / "params.yaml", lambda file: params.load(file, compute.Compute, own="compute"))
    assert "compute: a value contains itself" in message


def test_a_folder_is_no_params_file(tmp_path):
    assert "params file" in refusal(tmp_path, params.read)
