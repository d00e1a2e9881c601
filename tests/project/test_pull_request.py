"""Small repositories with a base and a head: what does the comment say, and what of bad input?"""

import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.project import (
    lock,
    pull_request,
    pull_request_pictures,
    pull_request_sections,
    pull_request_tables,
)
from pipeline.project.pull_request_sections import Block, Section

TABLE = "reports/embedded/tables/dcgan_table3.csv"
COLUMNS = "row,column,unit,kind,paper,measured,spread,spread_over,note"
REAL = "Real Data,test_error,percent_error,ours,3.1,6.8,,,"
GAN = "GAN,test_error,percent_error,ours,6.3,16.9,0.5,seeds,"
DCGAN = "DCGAN (ours),test_error,percent_error,ours,2.98,12.3,0.4,seeds,"
CLAIMS = "reports/embedded/tables/claims.csv"
CLAIM_HEAD = "claim,sentence,effect,effect_spread,verdict"
PARAMS = "train:\n  beta1: 0.5\n  runs:\n    gan:\n      epochs: 3\n      filters: [1, 2]\n"
FILES = {
    "params.yaml": f"profile: embedded\n{PARAMS}",
    "profiles/laptop/params.yaml": f"profile: laptop\n{PARAMS}",
    "profiles/paper/params.yaml": f"profile: paper\n{PARAMS}",
    TABLE: "\n".join([COLUMNS, REAL, GAN, DCGAN, ""]),
    "reports/embedded/metrics/dcgan_table3.json": '{"gan": {"test_error": 16.9}}',
    "reports/embedded/metrics/dcgan_fig9.json": '{"gan": {"recognised": 80.5}, "n": 70}',
    "reports/embedded/figures/dcgan_fig9.png": "a picture",
    ".gitignore": "/.work/\n",
}
UP_TO_DATE = lock.Report(["embedded: 1 of 1 stages up to date"], passed=True)


def git(folder, *arguments):
    # nothing of the user's settings, and no commit that asks for a key
    settings_of_git = ("user.name=a", "user.email=a@b", "commit.gpgsign=false", "init.defaultBranch=main")
    options = [word for setting in settings_of_git for word in ("-c", setting)]
    done = subprocess.run(["git", *options, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def commit(folder, files):
    write(folder, files)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository on branch ``topic``, which left ``main`` at its only commit; the lock check is a stand-in."""
    monkeypatch.delenv("GITHUB_BASE_REF", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "--quiet")
    commit(folder, FILES)
    git(folder, "checkout", "--quiet", "-b", "topic")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.delenv("GITHUB_RUN_ID", raising=False)
    monkeypatch.setattr(lock, "verify_lock", lambda root: UP_TO_DATE)
    return folder


def comment(project, head, base="main"):
    """The comment after a commit of these files on the branch."""
    commit(project, head)
    return pull_request.write_comment(base).read_text()


def table(*rows, columns=COLUMNS):
    return {TABLE: "\n".join([columns, *rows, ""])}


def not_compared(text):
    return re.findall(r"^> \*\*Not compared:\*\* (.*)$", text, flags=re.MULTILINE)


def test_nothing_changed(project):
    text = comment(project, {})
    assert "| Tables | no number changed |" in text
    assert "| Params | unchanged |" in text
    assert "| Figures | unchanged |" in text
    assert "| Lock | up to date |" in text
    assert not_compared(text) == []


# ---------------------------------------------------------------------------------------------------------- params


def test_params_of_profiles_that_change_alike_share_a_line(project):
    changed = PARAMS.replace("beta1: 0.5", "beta1: 5e-05").replace("[1, 2]", "[1, 3]")
    names = {"embedded": "params.yaml", "laptop": "profiles/laptop/params.yaml"}
    text = comment(project, {name: f"profile: {profile}\n{changed}" for profile, name in names.items()})
    assert "| `train.beta1` | embedded, laptop | `0.5` | `5e-05` |" in text
    assert "| `train.runs.gan.filters` | embedded, laptop | `[1, 2]` | `[1, 3]` |" in text
    assert "| Params | 2 keys changed in 2 profiles |" in text


def test_a_new_section_is_one_line_and_a_removed_key_is_said(project):
    changed = PARAMS.replace("      epochs: 3\n", "") + "score:\n  n_images: 5\n  a: {b: 1}\n"
    text = comment(project, {"params.yaml": f"profile: embedded\n{changed}"})
    assert '| `score` | embedded | new | 2 keys: `{"n_images": 5, "a": {"b": 1}}` |' in text
    assert "| `train.runs.gan.epochs` | embedded | `3` | removed |" in text


def test_changes_of_one_key_stand_together(project):
    def params(beta1, epochs):
        return PARAMS.replace("0.5", beta1).replace("epochs: 3", f"epochs: {epochs}")

    files = {"params.yaml": params("0.6", 4), "profiles/paper/params.yaml": params("0.7", 5)}
    text = comment(
        project,
        {name: f"profile: {Path(name).parent.name or 'embedded'}\n{content}" for name, content in files.items()},
    )
    shown = re.findall(r"^\| `(train[^`]*)` \| (\w+) ", text, flags=re.MULTILINE)
    assert shown == [
        ("train.beta1", "embedded"),
        ("train.beta1", "paper"),
        ("train.runs.gan.epochs", "embedded"),
        ("train.runs.gan.epochs", "paper"),
    ]


def test_a_number_that_becomes_text_or_another_type_is_a_change(project):
    text = comment(project, {"params.yaml": f"profile: embedded\n{PARAMS.replace('0.5', repr('0.5'))}"})
    assert '| `train.beta1` | embedded | `0.5` | `"0.5"` |' in text


def test_keys_that_json_does_not_have(project):
    text = comment(project, {"params.yaml": f"{FILES['params.yaml']}since: {{2024-01-01: 1}}\n"})
    assert "| `since` | embedded | new | 1 key: `{datetime.date(2024, 1, 1): 1}` |" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1\nb: 2\n", "params.yaml of head: not valid YAML: line "),
        ("- a\n", "params.yaml of head: expected a mapping of sections, found list"),
        (b"a: \xff\n", "params.yaml of head: not valid UTF-8"),
        (None, "params.yaml of head: no such file"),
    ],
)
def test_params_that_cannot_be_read_leave_the_rest_of_the_comment(project, content, said):
    text = comment(project, {"params.yaml": content, **table(REAL, GAN.replace("16.9", "15"), DCGAN)})
    assert [line.startswith(said) for line in not_compared(text)] == [True]
    assert "| Params | not compared |" in text
    assert "1 number changed" in text


def test_malformed_params_in_the_base(project):
    commit(project, {"params.yaml": "a: [1\n"})
    git(project, "branch", "--force", "broken")
    text = comment(project, FILES, base="broken")
    assert len(not_compared(text)) == 1
    assert not_compared(text)[0].startswith("params.yaml of base: not valid YAML")


# ---------------------------------------------------------------------------------------------------------- tables


def test_only_changed_rows_are_shown_beside_the_paper_and_the_spread(project):
    text = comment(project, table(REAL, GAN.replace("16.9,0.5", "15.4,0.6"), DCGAN))
    expected = (
        "| GAN | `test_error [percent_error]` | 6.3 | 16.90 | 15.40 | -1.50 ↓ better "
        "| **2.5 times the spread over seeds** |"
    )
    assert expected in text
    assert "| DCGAN" not in text
    assert "| Tables | 1 number changed, 1 by more than the spread; 2 unchanged |" in text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            "GAN,test_error,percent_error,ours,6.3,17.1,0.5,seeds,",
            "+0.20 ↑ worse | 0.4 times the spread over seeds: within |",
        ),
        ("GAN,test_error,percent_error,ours,6.3,16.9,0.7,seeds,", "the spread alone |"),
        ("GAN,test_error,percent_error,ours,6.3,16.9001,0.5,seeds,", "+0.0001 ↑ worse | 0.0 times"),
        ("GAN,test_error,percent_error,ours,6.3,,,,not run", "| 16.90 |  | no longer measured |"),
        (
            "GAN,test_error,percent_error,ours,6.4,16.9,0.5,seeds,",
            "| 6.4 | 16.90 | 16.90 | the paper's number was 6.3 |",
        ),
        ("GAN,test_error,percent,ours,6.3,16.9,0.5,seeds,", "unit was percent\\_error |"),
        (
            "GAN,test_error,share,ours,6.3,0.169,0.5,seeds,",
            "| GAN | `test_error [share]` | 6.3 | 16.90 | 0.1690 | unit was percent\\_error |  |",
        ),
    ],
)
def test_what_is_said_of_a_changed_row(project, row, said):
    assert said in comment(project, table(REAL, row, DCGAN))


def test_counts_are_whole_and_small_shares_are_no_zero(project):
    commit(project, table("-L,errors,errors_of_10000,ours,1677,1424,,,", "-L,classifier_recall,share,extra,,0.0008,,,"))
    git(project, "branch", "--force", "counts")
    rows = ("-L,errors,errors_of_10000,ours,1677,1430.5,,,", "-L,classifier_recall,share,extra,,0.00123,,,")
    text = comment(project, table(*rows), base="counts")
    assert "| `errors [errors_of_10000]` | 1,677 | 1,424 | 1,430.5 | +6.5 ↑ worse |" in text
    assert "| `classifier_recall [share]` |  | 0.00080 | 0.0012 | +0.0004 ↑ better |" in text


def test_the_larger_spread_of_both_sides_counts(project):
    commit(project, table(REAL, GAN.replace("0.5", "2"), DCGAN))
    git(project, "branch", "--force", "wide")
    text = comment(project, table(REAL, GAN.replace("16.9,0.5", "17.9,0.1"), DCGAN), base="wide")
    assert "+1.00 ↑ worse | 0.5 times the spread over seeds: within |" in text
    assert "| Tables | 1 number changed, 0 by more than the spread; 2 unchanged |" in text


@pytest.mark.parametrize(("now", "n_beyond"), [("17.4", 0), ("17.6", 1)])
def test_beyond_the_spread_is_more_than_once(project, now, n_beyond):
    commit(project, table(REAL, GAN, DCGAN))
    git(project, "branch", "--force", "narrow")
    text = comment(project, table(REAL, GAN.replace("16.9,", f"{now},"), DCGAN), base="narrow")
    assert f"| Tables | 1 number changed, {n_beyond} by more than the spread; 2 unchanged |" in text


def test_a_row_without_spread_and_one_whose_spread_is_zero(project):
    commit(project, table(REAL, GAN.replace("0.5", "0")))
    git(project, "branch", "--force", "zero")
    text = comment(project, table(REAL.replace("6.8", "6.9"), GAN.replace("16.9,0.5", "17,0")), base="zero")
    assert "+0.10 ↑ worse | no spread |" in text
    assert "+0.10 ↑ worse | the spread over seeds is 0 |" in text
    assert "2 numbers changed, 1 by more than the spread" in text


@pytest.mark.parametrize(
    ("unit", "column", "better"),
    [
        ("percent_error", "labels_100", -1),
        ("errors_of_10000", "labels_20", -1),
        ("distance", "classifier_frechet", -1),
        ("percent_accuracy", "accuracy", 1),
        ("score", "inception_score", 1),
        ("score", "classifier_score_split_spread", 0),
        ("share", "classifier_recall", 1),
        ("share", "all_zero_share", 0),
        ("images", "out", 0),
    ],
)
def test_a_larger_number_is_better_worse_or_neither_by_its_unit(unit, column, better):
    def change(base, head):
        parts = {
            "row": "a",
            "column": column,
            "base_unit": unit,
            "unit": unit,
            "paper": None,
            "spread": None,
            "spread_over": "",
            "state": "",
        }
        return pull_request_tables.Change(base=base, head=head, **parts)

    assert change(1.0, 2.0).better == better
    assert change(2.0, 1.0).better == -better
    assert change(1.0, 1.0).better == 0
    assert change(None, 1.0).better == 0


def test_missing_and_new_rows_are_said_and_the_common_ones_compared(project):
    text = comment(project, table(REAL, "New,test_error,percent_error,ours,,5,,,", DCGAN.replace("12.3", "12")))
    assert f"- `{TABLE}`: 1 row of base is missing in head" in text
    assert "| GAN | `test_error [percent_error]` | 6.3 | 16.90 |  | row gone |  |" in text
    assert "| New | `test_error [percent_error]` |  |  | 5.00 | new row |  |" in text
    assert "1 number changed, 0 by more than the spread; 1 row new; 1 row gone; 1 unchanged" in text


def test_changed_columns_are_said_and_the_common_ones_compared(project):
    columns = COLUMNS.replace("note", "remark")
    text = comment(project, table(REAL, GAN.replace("16.9", "17"), DCGAN, columns=columns))
    assert "head's columns are without note and with the new remark; the common ones are compared" in text
    assert "1 number changed" in text


def test_a_change_of_notes_alone_is_counted_but_no_number(project):
    text = comment(project, table(REAL + "whole", GAN, DCGAN))
    assert "1 row with the same numbers changed in note" in text
    assert "| Tables | no number changed |" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("row,column,unit\nGAN,a\n", "not a valid CSV: line 2 has not 3 cells"),
        ("row,column,unit\nGAN,a,b,c\n", "not a valid CSV: line 2 has not 3 cells"),
        ('row,column,unit\n"GAN,a,b\n', "not a valid CSV near line 1: unexpected end of data"),
        ("row,unit\nGAN,a\n", "found the columns row, unit; expected also column"),
        ("", "found the columns nothing; expected also row, column"),
        (b"row,column\n\xff,a\n", "not valid UTF-8: invalid start byte at byte 11"),
        ("row,column\nGAN,a\nGAN,a\n", "line 3 repeats GAN / a; a row and column may stand there once"),
    ],
)
def test_a_malformed_table_is_one_sentence_and_the_others_are_compared(project, content, said):
    other = TABLE.replace("3.csv", "1.csv")
    text = comment(project, {TABLE: content, other: f"{COLUMNS}\n{GAN}\n"})
    assert not_compared(text) == [f"{TABLE} of head: {said}"]
    assert f"- `{other}`: not in base, so every row is new" in text


def test_a_table_that_is_gone(project):
    text = comment(project, {TABLE: None})
    assert f"- `{TABLE}`: not in head, so every row is gone" in text
    assert "| Tables | 3 rows gone |" in text


def test_metrics_of_figures_and_not_those_that_repeat_a_table(project):
    changed = {
        "reports/embedded/metrics/dcgan_table3.json": '{"gan": {"test_error": 1}}',
        "reports/embedded/metrics/dcgan_fig9.json": '{"gan": {"recognised": 81.25}, "new": NaN}',
    }
    text = comment(project, changed)
    assert "| `gan/recognised` | 80.5 | 81.25 | +0.75 |" in text
    assert "| `new` |  | nan | new |" in text
    assert "| `n` | 70 |  | gone |" in text
    assert "test_error" not in text


def test_malformed_metrics(project):
    text = comment(project, {"reports/embedded/metrics/dcgan_fig9.json": '{"a": '})
    assert len(not_compared(text)) == 1
    assert "reports/embedded/metrics/dcgan_fig9.json of head: not valid JSON: Expecting value" in text


def test_text_of_a_table_is_no_markup_and_notifies_nobody(project):
    text = comment(project, table(REAL, GAN, DCGAN, '"<b>a</b> | @team ![x](y)\nz",c,percent_error,ours,,5,,,'))
    assert "| &lt;b&gt;a&lt;/b&gt; \\| @\u200bteam !\\[x\\](y) z | `c [percent_error]` |" in text


# ---------------------------------------------------------------------------------------------------------- claims


def test_claims_that_flipped(project):
    base = [
        CLAIM_HEAD,
        "beta1,beta1 = 0.9 oscillates,3,0.5,supported",
        "tanh,faster,1,1,undecided",
        "old,gone,1,1,undecided",
    ]
    # those of the other profiles have a header only
    commit(project, {CLAIMS: "\n".join(base) + "\n", CLAIMS.replace("embedded", "laptop"): f"{CLAIM_HEAD}\n"})
    git(project, "branch", "--force", "claims")
    head = [base[0], "beta1,beta1 = 0.9 oscillates,-1.25,0.25,contradicted", base[2], "vbn,better,,,not tested"]
    text = comment(project, {CLAIMS: "\n".join(head) + "\n"}, base="claims")
    expected = "| `beta1` | beta1 = 0.9 oscillates | supported | **contradicted** | +3 ± 0.5 | -1.25 ± 0.25 |"
    assert expected in text
    assert "`tanh`" not in text
    assert "- new: `vbn`, not tested" in text
    assert "- gone: `old`" in text
    assert "| Claims | 1 of 2 claims flipped |" in text
    assert "| Tables | no number changed |" in text  # it is not a table of numbers
    assert not_compared(text) == []


def test_claims_that_only_one_side_has_or_that_are_malformed(project):
    text = comment(project, {CLAIMS: f"{CLAIM_HEAD}\n"})
    assert not_compared(text) == [f"{CLAIMS} is not there in base: no claim can have flipped"]
    git(project, "branch", "--force", "claims")
    text = comment(project, {CLAIMS: "claim,sentence\n"}, base="claims")
    assert not_compared(text) == [f"{CLAIMS} of head: found the columns claim, sentence; expected also verdict"]


# --------------------------------------------------------------------------------------------------------- figures


def test_figures_are_extracted_beside_the_comment(project):
    files = {"reports/embedded/figures/dcgan_fig9.png": "another", "reports/laptop/figures/new one.png": "new"}
    text = comment(project, files)
    folder = project / ".work/pull-request/comment-files/figures"
    assert (folder / "base/embedded/figures/dcgan_fig9.png").read_text() == "a picture"
    assert (folder / "head/embedded/figures/dcgan_fig9.png").read_text() == "another"
    assert "(comment-files/figures/base/embedded/figures/dcgan_fig9.png) | !" in text
    assert "| `new one` | *not there* | ![head: reports/laptop/figures/new one.png](comment-files/" in text
    assert "new%20one.png)" in text
    assert "| Figures | 2 changed |" in text


def test_on_github_figures_are_linked_by_commit(project, monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/gan-tables")
    text = comment(project, {"reports/embedded/figures/dcgan_fig9.png": "another"})
    for revision in ("main", "topic"):
        sha = git(project, "rev-parse", revision)
        address = f"https://github.com/someone/gan-tables/blob/{sha}/reports/embedded/figures/dcgan_fig9.png?raw=true"
        assert f"]({address})" in text
    assert not (project / ".work/pull-request/comment-files/figures").exists()
    write(project, {"reports/embedded/figures/dcgan_fig9.png": "not committed"})
    text = pull_request.write_comment("main").read_text()
    assert "](comment-files/figures/head/" in text  # no commit has it


def test_figures_of_an_earlier_comment_do_not_stay(project):
    comment(project, {"reports/embedded/figures/dcgan_fig9.png": "another"})
    comment(project, {"reports/embedded/figures/dcgan_fig9.png": FILES["reports/embedded/figures/dcgan_fig9.png"]})
    assert not list((project / ".work/pull-request/comment-files").rglob("*.png"))


# ------------------------------------------------------------------------------------------------- base and head


def test_an_unknown_base_is_said_with_its_remedy_and_the_lock_is_still_checked(project, capsys):
    text = comment(project, table(REAL), base="origin/main")
    assert len(not_compared(text)) == 1
    assert "'origin/main' is no commit, branch or tag" in text
    assert "`git fetch origin main`" in text
    assert "| Lock | up to date |" in text
    assert "| Tables | not compared |" in text
    assert "'origin/main' is no commit" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["", " ", "--all", "main..topic", "HEAD~99", "no such"])
def test_a_base_that_is_no_commit(project, base):
    assert f"'{base}' is no commit" in comment(project, {}, base=base)


def test_a_base_without_reports(project):
    git(project, "checkout", "--quiet", "--orphan", "bare")
    git(project, "rm", "--quiet", "-r", "--cached", ".")
    shutil.rmtree(project / "reports")
    commit(project, {"README.md": "nothing yet"})
    git(project, "checkout", "--quiet", "-b", "later")
    text = comment(project, FILES, base="bare")
    assert any("has no reports/" in line for line in not_compared(text))
    assert f"- `{TABLE}`: not in base, so every row is new" in text
    assert "| Tables | 3 rows new |" in text


def test_what_changed_on_the_base_since_is_not_attributed_to_the_branch(project, monkeypatch):
    commit(project, table(REAL, GAN.replace("16.9", "15"), DCGAN))
    git(project, "checkout", "--quiet", "main")
    commit(project, table(REAL, GAN, DCGAN.replace("12.3", "1")))
    git(project, "checkout", "--quiet", "topic")
    text = pull_request.write_comment("main").read_text()
    assert "Base is where the branch left `main`, whose tip is" in text
    assert "| GAN |" in text
    assert "| DCGAN (ours) |" not in text
    monkeypatch.setenv("GITHUB_BASE_REF", "rele`ase")  # what the workflow calls refs/heads/base
    assert "Base is where the branch left `release`, whose tip is" in pull_request.write_comment("main").read_text()


def test_a_shallow_clone_without_the_common_commit_compares_with_the_tip(project, tmp_path, monkeypatch):
    commit(project, table(REAL, GAN.replace("16.9", "15"), DCGAN))
    git(project, "checkout", "--quiet", "main")
    commit(project, table(REAL, GAN, DCGAN.replace("12.3", "1")))
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth", "1", "--branch", "topic", f"file://{project}", str(clone))
    monkeypatch.chdir(clone)
    text = pull_request.write_comment("origin/main").read_text()
    assert "fetch --depth 1 origin main:refs/remotes/origin/main" in text
    git(clone, "fetch", "--quiet", "--depth", "1", "origin", "main:refs/remotes/origin/main")  # what the text says
    text = pull_request.write_comment("origin/main").read_text()
    assert "compared with the tip of `origin/main`" in text
    assert "`git fetch --unshallow`" in text
    assert "| GAN |" in text
    assert "| DCGAN (ours) |" in text
    git(clone, "fetch", "--quiet", "--unshallow")
    assert "| DCGAN (ours) |" not in pull_request.write_comment("origin/main").read_text()


def test_uncommitted_changes_belong_to_head_and_are_said(project):
    commit(project, {})
    new = TABLE.replace("3.csv", "2.csv")
    write(project, {**table(REAL, GAN.replace("16.9", "15"), DCGAN), new: f"{COLUMNS}\n{GAN}\n"})
    write(project, {"reports/embedded/figures/dcgan_fig9.png": None, "notes.txt": "not read"})
    text = pull_request.write_comment("main").read_text()
    assert "Head is the working tree with uncommitted changes in 4 files" in text
    assert "| GAN | `test_error [percent_error]` | 6.3 | 16.90 | 15.00 |" in text
    assert f"- `{new}`: not in base" in text
    assert re.search(r"\| `dcgan_fig9` \| !\[.*\| \*not there\* \|", text)


def test_no_git_checkout_and_an_output_that_is_a_folder(tmp_path, project, monkeypatch):
    with pytest.raises(InputError, match="is a folder; name the file"):
        pull_request.write_comment("main", project / "reports")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(InputError, match="no Git checkout, or no commit yet"):
        pull_request.write_comment("main")


def test_the_output_can_be_named(project, tmp_path):
    commit(project, {"reports/embedded/figures/dcgan_fig9.png": "another"})
    written = pull_request.write_comment("main", tmp_path / "out/report.md")
    assert written == tmp_path / "out/report.md"
    names = {path.name for path in written.parent.iterdir()}
    assert names == {"report.md", "report-full.md", "report-files"}


# -------------------------------------------------------------------------------------------------------- compare


def test_compare_prints_two_revisions_as_they_are_named_and_touches_nothing(project, monkeypatch, capsys):
    checked = []

    def verify_lock(root):
        checked.append((root / "params.yaml").read_text())
        return UP_TO_DATE

    monkeypatch.setattr(lock, "verify_lock", verify_lock)
    first = commit(project, table(REAL, GAN.replace("16.9", "15"), DCGAN))
    commit(project, {"params.yaml": "a: 1\n"})
    write(project, table(REAL))
    pull_request.compare("main", first)
    text = capsys.readouterr().out
    assert "| GAN | `test_error [percent_error]` | 6.3 | 16.90 | 15.00 |" in text
    assert "uncommitted" not in text
    assert checked == [FILES["params.yaml"]]  # head's files, not those that are checked out
    assert not (project / ".work").exists()


@pytest.mark.parametrize("names", [("nothing", "topic"), ("main", "nothing")])
def test_compare_needs_both_revisions(project, names):
    with pytest.raises(InputError, match=r"'nothing' is no commit.*git fetch origin main"):
        pull_request.compare(*names)


# --------------------------------------------------------------------------------------------------------- length


def test_a_long_comment_is_cut_by_section_and_the_whole_lies_beside_it(project, monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/gan-tables")
    monkeypatch.setenv("GITHUB_RUN_ID", "17")
    rows = [f"row {n},test_error,percent_error,ours,1,{n},,,{'x' * 50}" for n in range(2000)]
    text = comment(project, {**table(*rows), "params.yaml": f"profile: embedded\n{PARAMS.replace('0.5', '0.9')}"})
    assert len(text) <= 65_536
    assert "| `train.beta1` | embedded | `0.5` | `0.9` |" in text
    assert "lines more: the whole is comment-full.md in the files of [this run](https://github.com/someone/" in text
    assert text.count("<details>") == text.count("</details>") == 1
    whole = (project / ".work/pull-request/comment-full.md").read_text()
    assert "| row 1999 |" in whole
    assert "| row 1999 |" not in text
    assert "| row 900 |" in text or "| row 300 |" in text  # the room is used
    assert len(text) > 55_000


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=6),
    limit=st.integers(2_000, 12_000),
)
def test_sections_fit_their_limit_and_stay_valid(shape, limit):
    sections = [
        Section(f"s{n}", "", [pull_request_sections.folded("t", ["| " + "x" * 40 + " |"] * rows) for rows in blocks])
        for n, blocks in enumerate(shape)
    ]
    whole = [line for section in sections for line in section.lines()]
    fitted = pull_request_sections.fit(sections, limit, "the whole is elsewhere")
    assert pull_request_sections.length(fitted) <= limit
    assert fitted.count("</details>") == sum(line.startswith("<details>") for line in fitted)
    assert [line for line in fitted if line.startswith("## ")] == [line for line in whole if line.startswith("## ")]
    if pull_request_sections.length(whole) <= limit:
        assert fitted == whole
    else:
        shown = sum(line.startswith("| x") for line in fitted)
        left_out = sum(int(line.split()[0].strip("*").replace(",", "")) for line in fitted if "lines more" in line)
        assert shown + left_out == sum(map(sum, shape))


def test_long_sections_share_what_short_ones_leave():
    lengths = (5, 30, 60, 60)
    sections = [Section(f"s{n}", "", [Block(["x" * 99] * rows)]) for n, rows in enumerate(lengths)]
    fitted = pull_request_sections.fit(sections, 10_000, "the whole is elsewhere")
    starts = [fitted.index(f"## s{n}") for n in range(4)] + [len(fitted)]
    shown = [sum(line.startswith("x") for line in fitted[start:end]) for start, end in itertools.pairwise(starts)]
    assert shown == pytest.approx([5, 30, 32, 32], abs=1)


def test_a_block_that_does_not_fit_ends_its_section():
    section = Section("s", "", [Block(["a" * 300]), Block(["b"])])
    lines = section.lines(150, "the whole is elsewhere")
    assert "b" not in lines
    assert lines[-2] == "*2 lines more: the whole is elsewhere*"


# ------------------------------------------------------------------------------------------------ with DVC itself

GRAPH = """\
stages:
  make:
    cmd: exec python -m stages.make params.yaml
    params:
      - train.beta1
    outs:
      - reports/embedded/curves/train.csv:
          cache: false
plots:
  - losses:
      template: linear
      title: Losses
      x: step
      y:
        reports/embedded/curves/train.csv:
          - d_loss
"""
CURVE = "step,d_loss\n1,0.5\n2,0.25\n"


@pytest.fixture
def graph(tmp_path, monkeypatch):
    """As ``project``, with a graph of one stage whose lock is up to date, and DVC's own check."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "--quiet")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.chdir(folder)
    curve = "reports/embedded/curves/train.csv"
    md5 = hashlib.md5(CURVE.encode(), usedforsecurity=False).hexdigest()
    entry = [
        "schema: '2.0'",
        "stages:",
        "  make:",
        "    cmd: exec python -m stages.make params.yaml",
        "    params:",
        "      params.yaml:",
        "        train.beta1: 0.5",
        "    outs:",
        f"    - path: {curve}",
        "      hash: md5",
        f"      md5: {md5}",
        f"      size: {len(CURVE)}",
        "",
    ]
    commit(folder, FILES | {"dvc.yaml": GRAPH, curve: CURVE, ".dvc/config": "", "dvc.lock": "\n".join(entry)})
    git(folder, "checkout", "--quiet", "-b", "topic")
    return folder


def test_a_lock_that_is_up_to_date_and_one_that_is_not(graph, capsys):
    assert "| Lock | up to date |" in comment(graph, {})
    text = comment(graph, {"params.yaml": FILES["params.yaml"].replace("0.5", "0.9")})
    assert "| Lock | **not up to date**: run `make repro` and commit what changes |" in text
    assert "- `make: stale: param train.beta1 is modified`" in text
    git(graph, "checkout", "--quiet", "main")
    pull_request.compare("main", "topic")  # which is not what is checked out
    assert "- `make: stale: param train.beta1 is modified`" in capsys.readouterr().out


def test_a_lock_with_a_merge_conflict_leaves_the_rest_of_the_comment(graph):
    conflict = (graph / "dvc.lock").read_text().replace("  make:", "<<<<<<< ours\n  make:\n=======\n>>>>>>> theirs")
    text = comment(graph, {"dvc.lock": conflict, **table(REAL, GAN.replace("16.9", "15"), DCGAN)})
    assert "| Lock | **not readable** |" in text
    assert [line.startswith("dvc.lock of head: DVC: ") for line in not_compared(text)] == [True]
    assert re.search(r"^> \*\*Not compared:\*\* dvc.lock.* line \d+, column \d+$", text, flags=re.MULTILINE)
    assert "1 number changed" in text


def test_changed_curves_are_drawn_without_network(graph, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens
    text = comment(graph, {"reports/embedded/curves/train.csv": CURVE.replace("0.25", "0.75")})
    assert "| Curves | 1 file changed, 1 curve drawn |" in text
    assert "![embedded-losses](comment-files/curves/embedded-losses.png)" in text
    picture = graph / ".work/pull-request/comment-files/curves/embedded-losses.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not_compared(text) == []


def test_curves_that_dvc_cannot_collect_leave_the_rest_of_the_comment(graph):
    broken = {"dvc.yaml": "stages: [", "reports/embedded/curves/train.csv": CURVE.replace("0.25", "0.75")}
    text = comment(graph, broken | table(REAL, GAN.replace("16.9", "15"), DCGAN))
    assert any(line.startswith("curves of head: unable to read: 'dvc.yaml'") for line in not_compared(text))
    assert "embedded-losses.png" in text  # base alone
    assert "1 number changed" in text


def test_without_a_drawing_library_the_curves_are_named(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    text = comment(graph, {"reports/embedded/curves/train.csv": CURVE.replace("0.25", "0.75")})
    assert not_compared(text) == [
        "curves are not drawn without the package vl-convert-python: `pip install vl-convert-python`"
    ]
    assert "- `reports/embedded/curves/train.csv`" in text


def test_one_curve_that_cannot_be_drawn_leaves_the_others(tmp_path):
    whole = {"data": {"values": [{"x": 1, "y": 2}]}, "mark": "line", "encoding": {"x": {"field": "x"}}}
    drawn, problems = pull_request_pictures._draw({"a": whole, "b": whole | {"mark": "nothing"}, "c": whole}, tmp_path)
    assert [path.name for path in drawn] == ["a.png", "c.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    (problem,) = problems
    assert problem.startswith("the curve b cannot be drawn: ")


def test_a_malformed_curve(graph):
    commit(graph, {"reports/embedded/curves/train.csv": b"\xff\xfe\x00"})
    text = pull_request.write_comment("main").read_text()
    assert any("reports/embedded/curves/train.csv" in line for line in not_compared(text))


# --------------------------------------------------------------------------------------------- the project itself


def test_on_the_projects_own_history(root, monkeypatch, capsys):
    def told(*arguments):
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)

    log = told("log", "--format=%H", "--", "reports/embedded/tables/dcgan_table1.csv").stdout.split()
    if told("rev-parse", "--is-shallow-repository").stdout.strip() != "false" or len(log) < 2:
        pytest.skip("needs the project's history: this is a shallow checkout, or none of Git")
    monkeypatch.chdir(root)
    monkeypatch.setattr(lock, "verify_lock", lambda root: UP_TO_DATE)
    pull_request.compare(log[-1], log[-2])  # the two oldest, which later results do not change
    text = capsys.readouterr().out
    title = next(line for line in text.splitlines() if "embedded, dcgan_table1" in line)
    assert re.search(r"\d+ (numbers? changed|rows? new)", title)
    assert not_compared(text) == []
