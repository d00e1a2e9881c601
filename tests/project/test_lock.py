"""Toy projects with the shape of the real one: is every way to be out of date found, and nothing else?"""

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_project import copied, dvc, environment, write

from pipeline.core.errors import InputError
from pipeline.project import lock, twins

EMBEDDED = Path("dvc.yaml")
LAPTOP = Path("profiles/laptop/dvc.yaml")

GRAPH = """\
stages:
  raw:
    cmd: exec cp source.txt data/${profile}/raw.txt
    deps:
      - source.txt
    outs:
      - data/${profile}/raw.txt
  make:
    foreach:
      - a
      - b
    do:
      cmd: exec python -m stages.make params.yaml ${item} data/${profile}/raw.txt data/${profile}/results/t/${item}.txt
      deps:
        - stages/make.py
        - pipeline/core
        - data/${profile}/raw.txt
      params:
        - make.scale
        - make.shift
      outs:
        - data/${profile}/results/t/${item}.txt
  table:
    cmd: exec sh join.sh data/${profile}/results/t reports/${profile}/t.csv
    deps:
      - join.sh
      - data/${profile}/results/t
    outs:
      - reports/${profile}/t.csv:
          cache: false
"""
MAKE = """\
import sys
from pathlib import Path
Path(sys.argv[4]).write_text(Path(sys.argv[1]).read_text() + sys.argv[2])
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Graph of the root and of a laptop twin, both run; the paper twin never was."""
    folder = tmp_path_factory.mktemp("toy") / "project"
    files = {
        "dvc.yaml": GRAPH,
        "params.yaml": "profile: embedded\nmake:\n  scale: 1\n  shift: 0\nother: 5\n",
        "profiles/laptop/params.yaml": "profile: laptop\nmake:\n  scale: 2\n  shift: 0\n",
        "profiles/paper/params.yaml": "profile: paper\nmake:\n  scale: 3\n  shift: 0\n",
        "source.txt": "source\n",
        "join.sh": "cat $1/* > $2\n",
        "stages/make.py": MAKE,
        "pipeline/core/seeding.py": "SEED = 0\n",
    }
    write(folder, files)
    for profile in ("embedded", "laptop", "paper"):
        write(folder, {f"data/{profile}/results/t/": "", f"reports/{profile}/": ""})
    twins.write_twins(folder)
    with environment(folder, without=("PYTHONPATH",)):  # a toy's `stages` is its own
        dvc(folder, "init", "--no-scm", "--quiet")
        dvc(folder, "repro", "--quiet", "dvc.yaml")
        dvc(folder, "repro", "--quiet", str(LAPTOP))
        yield folder


@pytest.fixture
def project(toy, tmp_path):
    """A copy to edit, without data and cache: like a fresh clone."""
    return copied(toy, tmp_path / "project", "data", "cache")


def found(project, dvc_yaml=EMBEDDED):
    return {(problem.stage, problem.kind) for problem in lock.stale_stages(project, dvc_yaml)}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_fresh_clone_has_no_problems(project):
    assert lock.stale_stages(project, EMBEDDED) == []
    assert lock.stale_stages(project, LAPTOP) == []  # its stages run in ../..


def test_it_agrees_with_dvc_where_data_are_present(toy):
    assert "up to date" in dvc(toy, "status", "dvc.yaml")
    assert lock.stale_stages(toy, EMBEDDED) == []


def test_never_run(project):
    stages = ["raw", "make@a", "make@b", "table"]
    assert [(p.stage, p.kind) for p in lock.stale_stages(project, Path("profiles/paper/dvc.yaml"))] == [
        (stage, "never run") for stage in stages
    ]


def test_edited_param(project):
    edit(project / "params.yaml", "scale: 1", "scale: 7")
    assert found(project) == {("make@a", "stale"), ("make@b", "stale")}
    assert "make.scale is modified" in lock.stale_stages(project, EMBEDDED)[0].what
    assert found(project, LAPTOP) == set()


def test_a_param_that_no_stage_names_does_not_matter(project):
    edit(project / "params.yaml", "other: 5", "other: 6")
    assert found(project) == set()


@pytest.mark.parametrize("file", ["stages/make.py", "pipeline/core/seeding.py"])
def test_edited_code(project, file):
    with (project / file).open("a") as stream:
        stream.write("# edited\n")
    assert found(project) == {("make@a", "code"), ("make@b", "code")}


def test_code_and_param_together_are_no_longer_code_only(project):
    (project / "stages/make.py").write_text(MAKE + "\n")
    edit(project / "params.yaml", "scale: 1", "scale: 7")
    assert "make@a: stale: " in "\n".join(lock.verify_lock(project).lines)


def test_edited_command(project):
    edit(project / "dvc.yaml", "exec cp source.txt", "exec cp -f source.txt")
    assert found(project) == {("raw", "stale")}


def test_edited_input_that_git_tracks(project):
    (project / "source.txt").write_text("other\n")
    assert found(project) == {("raw", "stale")}


def test_edited_output_that_git_tracks(project):
    (project / "reports/embedded/t.csv").write_text("better\n")
    assert found(project) == {("table", "stale")}
    (project / "reports/embedded/t.csv").unlink()
    assert found(project) == {("table", "stale")}


def test_new_dep(project):
    edit(project / "dvc.yaml", "    - join.sh\n", "    - join.sh\n      - source.txt\n")
    assert found(project) == {("table", "stale")}


def test_a_dep_that_dvc_yaml_no_longer_has(project):
    edit(project / "dvc.yaml", "        - pipeline/core\n", "")
    assert found(project) == {("make@a", "stale"), ("make@b", "stale")}


def test_a_param_that_dvc_yaml_no_longer_has(project):
    edit(project / "dvc.yaml", "        - make.shift\n", "")
    assert found(project) == {("make@a", "stale"), ("make@b", "stale")}
    assert "make.shift is in dvc.lock, but no longer in dvc.yaml" in lock.stale_stages(project, EMBEDDED)[0].what


def test_upstream_has_another_output(project):
    entry = "path: data/embedded/raw.txt\n      hash: md5\n      md5: "
    lock_text = (project / "dvc.lock").read_text()
    at = lock_text.index("outs:\n    - " + entry) + len("outs:\n    - " + entry)
    (project / "dvc.lock").write_text(lock_text[:at] + "a" * 32 + lock_text[at + 32 :])
    assert found(project) == {("make@a", "stale"), ("make@b", "stale")}


def test_a_folder_filled_by_two_stages(project, toy, tmp_path):
    rerun = tmp_path / "rerun"
    shutil.copytree(toy, rerun, symlinks=True)
    (rerun / "stages/make.py").write_text(MAKE.replace("sys.argv[2])", "sys.argv[2] + '!')"))
    dvc(rerun, "repro", "--quiet", "--single-item", "make@b")
    assert found(rerun) == {("make@a", "code"), ("table", "stale")}
    what = [p.what for p in lock.stale_stages(rerun, EMBEDDED) if p.stage == "table"]
    assert what == ["dep data/embedded/results/t is not what the stages before it last wrote"]
    dvc(rerun, "repro", "--quiet")
    assert found(rerun) == set()


def test_a_dep_inside_another_stages_folder_is_refused(project):
    edit(
        project / "dvc.yaml",
        "    - data/${profile}/results/t/${item}.txt\n  table",
        "    - data/${profile}/results\n  table",
    )
    problems = lock.stale_stages(project, EMBEDDED)
    assert any("lies inside another stage's output" in problem.what for problem in problems if problem.stage == "table")


def test_a_folder_that_holds_another_stages_folder_is_refused(project):
    out = "data/embedded/results/t/a.txt"
    lock_text = (project / "dvc.lock").read_text()
    as_folder, n = re.subn(rf"(path: {out}\n +hash: md5\n +md5: \w+)", r"\1.dir", lock_text)
    assert n == 1
    (project / "dvc.lock").write_text(as_folder)
    what = [p.what for p in lock.stale_stages(project, EMBEDDED) if p.stage == "table"]
    assert what == [
        f"dep data/embedded/results/t: {out} is a folder inside it, whose hash says too little; let it be files"
    ]


def test_a_sibling_that_never_ran_makes_nobody_stale(toy, tmp_path):
    rerun = copied(toy, tmp_path / "rerun")
    edit(rerun / "dvc.yaml", "      - b\n", "")
    (rerun / "data/embedded/results/t/b.txt").unlink()
    dvc(rerun, "repro", "--quiet", "dvc.yaml")
    edit(rerun / "dvc.yaml", "      - a\n", "      - a\n      - c\n")
    assert found(rerun) == {("make@c", "never run")}


def test_a_file_that_no_stage_writes_is_named(toy, tmp_path):
    """What an experiment's own run left behind: DVC hashes the folder with it, and calls that up to date."""
    rerun = copied(toy, tmp_path / "rerun")
    (rerun / "data/embedded/results/t/c.txt").write_text("c\n")
    dvc(rerun, "repro", "--quiet", "dvc.yaml")
    assert "up to date" in dvc(rerun, "status", "dvc.yaml")
    (problem,) = lock.stale_stages(rerun, EMBEDDED)
    assert problem.what.endswith(
        "and no stage writes data/embedded/results/t/c.txt: remove it, then run this graph again"
    )
    (rerun / "data/embedded/results/t/c.txt").unlink()
    dvc(rerun, "repro", "--quiet", "dvc.yaml")
    assert found(rerun) == set()


def test_params_of_a_stage_that_has_none_any_more(project):
    lock_text = (project / "dvc.lock").read_text()
    at = lock_text.index("    outs:", lock_text.index("  table:"))
    more = "    params:\n      params.yaml:\n        other: 5\n"
    (project / "dvc.lock").write_text(lock_text[:at] + more + lock_text[at:])
    (problem,) = lock.stale_stages(project, EMBEDDED)
    assert (problem.stage, problem.kind) == ("table", "stale")
    assert problem.what.startswith("params of params.yaml are in dvc.lock, but no longer in dvc.yaml (`dvc commit -f")


def test_only_the_embedded_lock_has_to_be_up_to_date(project):
    edit(project / "profiles/laptop/params.yaml", "scale: 2", "scale: 7")
    report = lock.verify_lock(project)
    assert report.passed
    assert report.lines[0] == "embedded: 4 of 4 stages up to date"
    assert "laptop: 2 of 4 stages up to date" in report.lines
    assert "  make@a: stale: param make.scale is modified" in report.lines
    assert report.lines[-2:] == ["paper: 0 of 4 stages up to date", "  never run: raw, make@a, make@b, table"]
    edit(project / "params.yaml", "scale: 1", "scale: 7")
    assert not lock.verify_lock(project).passed


def test_code_only_is_said(project):
    (project / "stages/make.py").write_text(MAKE + "\n")
    report = lock.verify_lock(project)
    assert not report.passed
    assert "  make@a: stale in code only: dep stages/make.py is modified" in report.lines


def entries(lock_file):
    """The text of each entry, by stage."""
    return {chunk.split(":")[0]: chunk for chunk in re.split(r"(?m)^  (?=\S)", lock_file.read_text())}


def test_prune_keeps_the_other_lines_as_dvc_wrote_them(project, toy):
    lock_file = project / "dvc.lock"
    before = entries(lock_file)
    edit(project / "dvc.yaml", "      - b\n", "")
    assert lock.prune_lock(project) == ["dvc.lock: make@b"]
    assert list(entries(lock_file).items()) == [item for item in before.items() if item[0] != "make@b"]
    assert lock.prune_lock(project) == []
    assert (project / "profiles/laptop/dvc.lock").read_text() == (toy / "profiles/laptop/dvc.lock").read_text()


def test_order_is_that_of_dvc_yaml(project):
    """DVC itself runs make@a and make@b in either order, and a fresh lock keeps it."""
    lock_file = project / "dvc.lock"
    head, *chunks = entries(lock_file).values()
    for order in itertools.permutations(chunks):
        lock_file.write_text("  ".join([head, *order]))
        lock.order_lock(project)
        assert list(entries(lock_file)) == ["schema", "raw", "make@a", "make@b", "table"]
        assert set(entries(lock_file).values()) == {head, *chunks}


def test_prune_removes_a_lock_without_entries(project):
    (project / "profiles/laptop/dvc.yaml").write_text("stages: {}\n")
    assert len(lock.prune_lock(project)) == 4
    assert not (project / "profiles/laptop/dvc.lock").exists()


def test_a_broken_graph_is_said_in_a_sentence(project):
    edit(project / "dvc.yaml", "foreach:", "for_each:")
    with pytest.raises(InputError, match=r"dvc\.yaml"):
        lock.stale_stages(project, EMBEDDED)


def test_no_project(tmp_path):
    with pytest.raises(InputError, match="DVC"):
        lock.stale_stages(tmp_path, EMBEDDED)


def test_committed_locks_are_in_the_order_of_their_graphs(root):
    """Else the first stage that `gan-tables run` runs would rewrite all of its profile's lock."""
    with lock.open_repo(root) as repo:
        for dvc_yaml in lock.PROFILES.values():
            stages = lock.stages_of(repo, root, dvc_yaml)
            recorded = list(lock.entries_of(stages))
            assert recorded == [name for name in stages if name in recorded], dvc_yaml


def test_a_rewritten_lock_is_staged_as_dvc_does(project):
    def git(*arguments):
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=project, check=True, capture_output=True, text=True
        ).stdout

    (project / ".dvc/config").write_text("[core]\n    autostage = true\n")
    lock_file = project / "dvc.lock"
    head, *chunks = entries(lock_file).values()
    lock_file.write_text("  ".join([head, *reversed(chunks)]))
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "toy")
    lock.order_lock(project)
    assert git("status", "--porcelain", "dvc.lock") == "M  dvc.lock\n"
