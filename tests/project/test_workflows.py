"""The workflows of GitHub Actions: permissions, forks, script injection, and that they call what the Makefile has."""

import re

import pytest
from ruamel.yaml import YAML

ROOT_OF_WORKFLOWS = ".github/workflows"
NAMES = ("pull-request.yml", "tests.yml", "verify.yml")
PINNED = re.compile(r"^actions/[a-z-]+@v\d+$")


def load(root, name):
    return YAML(typ="safe", pure=True).load((root / ROOT_OF_WORKFLOWS / name).read_text(encoding="utf-8"))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def nodes(node):
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from nodes(child)


@pytest.fixture(params=NAMES)
def workflow(request, root):
    return load(root, request.param)


def test_these_are_all(root):
    assert sorted(path.name for path in (root / ROOT_OF_WORKFLOWS).iterdir()) == sorted(NAMES)


def test_no_workflow_runs_on_pull_request_target_or_after_one(workflow):
    assert set(workflow["on"]) <= {"push", "pull_request", "schedule", "workflow_dispatch"}


def test_each_job_has_a_limit_of_time_and_reads_at_most(workflow):
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 180
        permissions = job.get("permissions", workflow["permissions"])
        writes = {scope for scope, access in permissions.items() if access != "read"}
        assert writes == ({"pull-requests"} if name == "comment" else set())


def test_no_secret_but_the_token_of_the_run(workflow):
    assert not [node for node in nodes(workflow) if isinstance(node, str) and "secrets." in node]


def test_the_job_that_may_write_runs_no_code_of_the_branch(root):
    job = load(root, "pull-request.yml")["jobs"]["comment"]
    assert job["if"] == "github.event.pull_request.head.repo.full_name == github.repository"
    assert job["permissions"] == {"pull-requests": "write"}
    assert not [step for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert [step["run"].split()[:3] for step in job["steps"] if "run" in step] == [["gh", "pr", "comment"]]
    posts = next(step["run"] for step in job["steps"] if "run" in step)
    assert "--edit-last" in posts
    assert "--create-if-none" in posts


def test_nothing_of_a_pull_request_is_pasted_into_a_script(workflow):
    for step in steps(workflow):
        assert "${{" not in step.get("run", "")  # values go through env, where no shell reads them
        for line in step.get("run", "").splitlines():  # make pastes what it is given into the shell's text
            assert "$" not in line or not re.search(r"\bmake\b", line)


def test_checkouts_keep_no_token_for_the_code_that_follows(workflow):
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_actions_are_pinned_by_major_version(workflow):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert [name for name in used if not PINNED.match(name)] == []


def test_every_make_target_exists(root):
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    called = {
        target
        for name in NAMES
        for step in steps(load(root, name))
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))
    }
    assert called >= {"pr", "test", "verify-lock", "verify"}
    assert called <= known


def test_runs_of_one_pull_request_do_not_pile_up(workflow):
    for job in workflow["jobs"].values():
        group = workflow.get("concurrency") or job["concurrency"]
        assert group["cancel-in-progress"] is True
        assert "github.ref" in group["group"] or "pull_request.number" in group["group"]


def test_pictures_are_linked_by_the_commit_that_was_pushed(root):
    compare = load(root, "pull-request.yml")["jobs"]["compare"]
    checkout = compare["steps"][0]
    assert checkout["with"]["ref"] == "${{ github.event.pull_request.head.sha }}"
    assert checkout["with"]["fetch-depth"] == 0


def test_a_fork_gets_its_comment_as_summary_and_artifact(root):
    compare = load(root, "pull-request.yml")["jobs"]["compare"]
    assert "if" not in compare
    assert any("GITHUB_STEP_SUMMARY" in step.get("run", "") for step in compare["steps"])
    upload = next(step for step in compare["steps"] if step.get("uses", "").startswith("actions/upload-artifact"))
    assert upload["with"]["path"] == ".work/pull-request"
    assert upload["with"]["include-hidden-files"] is True  # .work is hidden: nothing would be uploaded


def test_pythons_of_the_matrix_are_supported(root):
    matrix = load(root, "tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix[0] == "3.11"
    assert all(isinstance(version, str) for version in matrix)  # 3.10 unquoted would be 3.1


def test_verify_starts_every_week_by_hand_and_by_its_label(root):
    workflow = load(root, "verify.yml")
    assert len(workflow["on"]["schedule"]) == 1
    assert workflow["on"]["pull_request"] == {"types": ["labeled"]}
    assert "github.event.label.name == 'verify'" in workflow["jobs"]["verify"]["if"]
