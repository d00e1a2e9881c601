"""dvc.yaml against the code: what a stage runs is what it depends on, and imports go one way."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import PipelineStage
from ruamel.yaml import YAML

from pipeline.core import params
from pipeline.core.source_code import imported_files
from pipeline.project import lock

ROOT = Path(__file__).resolve().parents[2]
CODE = ("pipeline", "stages")

# From the top down; a file may import what stands in its own line or below.
LAYERS = (
    ("stages",),
    ("pipeline/project", "pipeline/reporting", "pipeline/turing", "pipeline/claims"),
    ("pipeline/internals",),
    ("pipeline/evaluation",),
    ("pipeline/training",),
    ("pipeline/models", "pipeline/datasets"),
    ("pipeline/core", "pipeline/papers.py"),
)


def all_stages():
    with Repo(str(ROOT)) as repo:
        return [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]


STAGES = all_stages()
IDS = [f"{Path(stage.path).parent.name if stage.wdir != str(Path(stage.path).parent) else 'embedded'}:{stage.name}"
       for stage in STAGES]  # fmt: skip


def relative(item):
    return Path(item.fs_path).relative_to(ROOT)


def paths(items):
    return [relative(item) for item in items if not isinstance(item, ParamsDependency)]


def script_of(stage):
    words = shlex.split(stage.cmd)
    module = words[words.index("-m") + 1]
    return Path(*module.split(".")).with_suffix(".py")


def code_deps(stage):
    return [path for path in paths(stage.deps) if path.parts[0] in CODE]


def is_covered(path, deps):
    return any(path == dep or dep in path.parents for dep in deps)


each_stage = pytest.mark.parametrize("stage", STAGES, ids=IDS)


@each_stage
def test_deps_cover_all_imports(stage):
    imported = [path for path in imported_files(script_of(stage), ROOT) if path.name != "__init__.py"]
    assert [str(path) for path in imported if not is_covered(path, code_deps(stage))] == []


@each_stage
def test_every_code_dep_is_imported(stage):
    imported = imported_files(script_of(stage), ROOT)
    assert [str(dep) for dep in code_deps(stage) if not any(is_covered(path, [dep]) for path in imported)] == []


def test_packages_are_empty():
    """Importing a package runs nothing, so no stage has to depend on its __init__.py."""
    for package in CODE:
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_bytes() == b"", path


@each_stage
def test_command_names_only_deps_and_outs(stage):
    known = [*paths(stage.deps), *paths(stage.outs)]
    parents = {parent for path in known for parent in path.parents}
    words = [Path(word) for word in shlex.split(stage.cmd) if "/" in word]
    assert [
        str(word) for word in words if word not in known and word not in parents and word != params_file(stage)
    ] == []


@each_stage
def test_command_gets_every_path_that_is_not_code(stage):
    """The graph names the paths, the script receives them: none is written into the code."""
    words = [Path(word) for word in shlex.split(stage.cmd) if "/" in word]
    data = [path for path in [*paths(stage.deps), *paths(stage.outs)] if path.parts[0] not in CODE]
    assert [str(path) for path in data if not is_covered(path, words)] == []


@each_stage
def test_command_is_run_in_place_and_gets_the_params_file_first(stage):
    words = shlex.split(stage.cmd)
    assert words[0] == "exec"  # the stage is DVC's own child, and dies with it
    assert "\n" not in stage.cmd  # each line would be its own shell
    after_module = words.index("-m") + 2
    assert Path(words[after_module]) == params_file(stage)
    assert {relative(dep) for dep in stage.params} <= {params_file(stage)}


@each_stage
def test_what_computes_on_the_device_is_put_behind_the_launcher(stage):
    """``srun -G1`` before a training and not before the search that follows would leave that to the login node."""
    computes = any("compute" in dep.params for dep in stage.params)
    assert ("${GAN_LAUNCH:-}" in stage.cmd) == computes


def params_file(stage):
    return Path(stage.path).relative_to(ROOT).with_name("params.yaml")


def test_every_path_carries_its_profile():
    for stage in STAGES:
        home = Path(stage.path).parent
        profile = "embedded" if home == ROOT else home.name
        for path in [*paths(stage.deps), *paths(stage.outs)]:
            if path.parts[0] in ("data", "reports", "annotations"):
                assert path.parts[1] == profile, f"{stage.addressing}: {path}"


def test_no_dep_lies_inside_a_folder_that_another_stage_writes():
    """DVC would then take a stale stage for fresh, and verify-lock could not check it."""
    outs = [path for stage in STAGES for path in paths(stage.outs)]
    for stage in STAGES:
        for dep in paths(stage.deps):
            assert not set(dep.parents) & set(outs), f"{stage.addressing}: {dep}"


def test_the_hashes_of_runs_depend_on_every_run_and_its_images():
    """They are named one by one: of a folder of folders verify-lock could not know the hash without the data."""
    values = params.read(ROOT / "params.yaml")
    runs = values["train"]["runs"] | values["semisup"]["runs"] | {"imagenet128_improved": values["imagenet128"]}
    expected = {f"models/{name}" for name in runs} | {f"sets/{run['dataset']}" for run in runs.values()}
    (stage,) = (stage for stage in STAGES if stage.addressing == "provenance")
    found = {path.relative_to("data/embedded").as_posix() for path in paths(stage.deps) if path.parts[0] == "data"}
    assert found == expected


def test_reports_are_in_git_and_data_in_the_cache():
    for stage in STAGES:
        for out in stage.outs:
            assert out.use_cache == (relative(out).parts[0] == "data"), f"{stage.addressing}: {out}"


@pytest.mark.parametrize("dvc_yaml", lock.PROFILES.values(), ids=lock.PROFILES)
def test_lock_has_no_unknown_stages(dvc_yaml):
    path = ROOT / dvc_yaml.with_suffix(".lock")
    if not path.is_file():
        pytest.skip("no stage of this profile was run yet")
    recorded = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"]
    assert set(recorded) <= set(lock.stage_names(ROOT, dvc_yaml)), "run `make prune-lock`"


def layer(path):
    for depth, folders in enumerate(LAYERS):
        if any(path == Path(folder) or Path(folder) in path.parents for folder in folders):
            return depth
    return None


def own_imports(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            base = Path(*name.split("."))
            for candidate in (base.with_suffix(".py"), base):
                if base.parts[0] in CODE and len(base.parts) > 1 and (ROOT / candidate).exists():
                    yield candidate


def test_imports_go_one_way():
    files = [
        path.relative_to(ROOT)
        for package in CODE
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert files
    for path in files:
        above = layer(path)
        assert above is not None, f"{path}: give its folder a place in LAYERS"
        for imported in own_imports(path):
            below = layer(imported)
            assert below is not None, f"{path} imports {imported}"
            assert below >= above, f"{path} imports {imported}, which stands above it"


# ---- params: what a script reads is what its stages declare ----


def address_pattern(node, tree):
    """The address that a call names, as a pattern: ``train.runs.{name}`` stands for any name."""
    if isinstance(node, ast.Name):
        node = next(a.value for a in ast.walk(tree) if isinstance(a, ast.Assign) and a.targets[0].id == node.id)
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else "[^.]+" for part in parts)


def params_read(script):
    """(own, shared) of every section that a script loads; shared is None or an address."""
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    found = []
    for call in calls:
        if ast.unparse(call.func) not in ("params.load", "params.load_optional"):
            continue
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        shared = named.get("shared")
        found.append((address_pattern(named["own"], tree), shared.value if shared else None))
    return found


def declared(stage):
    return [name for dep in stage.deps if isinstance(dep, ParamsDependency) for name in dep.params]


def is_declared(pattern, names):
    """Itself, all that lies around it, or a part of it."""
    return any(
        re.fullmatch(pattern, ".".join(keys[:n])) or re.match(re.escape(name) + r"(\.|$)", pattern.replace("\\", ""))
        for name in names
        for keys in [name.split(".")]
        for n in range(1, len(keys) + 1)
    )


SCRIPTS = sorted({script_of(stage) for stage in STAGES})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_declares_the_params_that_it_reads(script):
    """Else DVC would take results of other values for up to date."""
    names = {name for stage in STAGES if script_of(stage) == script for name in declared(stage)}
    assert [own for own, _ in params_read(script) if not is_declared(own, names)] == []


@each_stage
def test_every_shared_key_is_declared(stage):
    """One that is added to a section for all runs decides the results of each."""
    for _, shared in params_read(script_of(stage)):
        if shared is not None:
            keys = {f"{shared}.{key}" for key in params.read(ROOT / params_file(stage))[shared]}
            own = {name for name in declared(stage) if name.startswith(f"{shared}.") and name.count(".") == 1}
            runs = {key for key in keys if any(name.startswith(f"{key}.") for name in declared(stage))}
            assert own == keys - runs, shared
