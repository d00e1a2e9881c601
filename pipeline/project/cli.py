"""The command `gan-tables`: what the project needs beside `dvc`. Commands without arguments are `make` targets, too."""

import functools
import os
import sys
import traceback as tracebacks
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import InputError
from pipeline.project import completion

EXAMPLES = """
**Examples**

- `gan-tables status`
- `gan-tables data check laptop`
- `gan-tables run train -j 2 --gpus 0,1 --profile paper`
- `gan-tables report open`
- `gan-tables compare origin/main HEAD`
"""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", epilog=EXAMPLES)
turing = typer.Typer(no_args_is_help=True, help="The visual Turing test.")
boxes = typer.Typer(no_args_is_help=True, help="Boxes around windows in samples.")
data = typer.Typer(no_args_is_help=True, help="The real data below GAN_DATA.")
report = typer.Typer(help="The page of all tables and figures.")
app.add_typer(data, name="data")
app.add_typer(report, name="report")
app.add_typer(turing, name="turing")
app.add_typer(boxes, name="boxes")

INTERRUPTED = 130  # what shells report of a command that Ctrl-C ended
_asked = {"traceback": False}


def _command(name: str, group: typer.Typer = app) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command that runs in the project's root and says errors in a sentence."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return group.command(name)(_guarded(function))

    return register


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            os.chdir(_root())
            function(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise  # Typer's own; a reader such as `head` that has gone
        except KeyboardInterrupt:
            _say_error("interrupted", defect=False)
            raise typer.Exit(INTERRUPTED) from None
        except InputError as error:
            _say_error(f"error: {error}", defect=False)
            raise typer.Exit(1) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, a user gets a sentence
            _say_error(f"error: {type(error).__name__}: {error}", defect=True)
            raise typer.Exit(1) from None

    return guarded


def _say_error(sentence: str, *, defect: bool) -> None:
    """The sentence alone, or with ``--traceback`` after what led to it."""
    if _asked["traceback"]:
        tracebacks.print_exc()
    elif defect:
        sentence += "\nThis is a defect of gan-tables: `gan-tables --traceback ...` shows where; please report it."
    print(sentence, file=sys.stderr)


def _root() -> Path:
    found = completion.project_root()
    if found is None:
        message = f"{Path.cwd()}: no DVC project here or above (.dvc and dvc.yaml); run from a checkout of the project"
        raise InputError(message)
    return found


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"gan-tables {version('gan-tables')}")
        except PackageNotFoundError:
            print("gan-tables, not installed: run from a checkout")
        raise typer.Exit


@app.callback()
def options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="show where an error arose, not only its sentence")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback says it
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="say the version, and stop")
    ] = False,
) -> None:
    """Regenerate the tables and figures of DCGAN and of Improved Techniques for Training GANs, and look after them.

    `dvc repro` or `make repro` runs the graph; these commands are what is needed beside it.
    """
    _asked["traceback"] = traceback


ProfileNamed = Annotated[
    str, typer.Argument(help="embedded, laptop or paper", autocompletion=completion.profiles, metavar="PROFILE")
]
EMBEDDED = "embedded"


@_command("status")
def status(
    times: Annotated[bool, typer.Option("--times", help="list how long each stage took when it last ran here")] = False,
) -> None:
    """Say what is up to date, what is reproduced, what is missing and how to get it, and how long the stages took.

    Needs no data. `gan-tables status --times` lists each stage.
    """
    from pipeline.project import status as states

    states.print_status(times=times)


@_command("run")
def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="stages (train@dcgan_lsun) or groups of them (train); none: all", autocompletion=completion.stages
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="stages at a time; default: one a GPU, or processors / compute.threads"
        ),
    ] = None,
    gpus: Annotated[
        str, typer.Option(help="GPUs to share out, as in 0,1: one stage that computes on each at a time")
    ] = "",
    profile: Annotated[
        str, typer.Option(help="embedded, laptop or paper", autocompletion=completion.profiles)
    ] = EMBEDDED,
) -> None:
    """Run the stages that targets need, several at a time, each by its own `dvc repro --single-item`.

    Stages that are up to date are not started. When one fails, those that need it are skipped and the others go on;
    what failed is named at the end, with the file that has its output, and the status is 1. A run that was stopped
    goes on where it was when it is started again.

    Examples: `gan-tables run -j 2`, `gan-tables run table@dcgan_table1 figure -j 3`,
    `gan-tables run train --gpus 0,1 --profile paper`
    """
    from pipeline.project import fan_out

    named = [gpu.strip() for gpu in gpus.split(",")] if gpus else []
    raise typer.Exit(0 if fan_out.run(targets or [], jobs, named, profile) else 1)


@_command("check", data)
def check_data(profile: ProfileNamed = EMBEDDED) -> None:
    """Say which of the real data that a profile needs are below GAN_DATA, verify their checksums; status 1 if not all.

    Example: `GAN_DATA=/data gan-tables data check laptop`
    """
    _params_file("data check", profile)

    from pipeline.project import data_check

    entries = data_check.check(profile)
    print("\n".join(data_check.lines_of(profile, entries)))
    raise typer.Exit(0 if data_check.is_complete(entries) else 1)


@_command("open", report)
def open_report(profile: ProfileNamed = EMBEDDED) -> None:
    """Open a profile's page in the browser.

    Example: `gan-tables report open laptop`
    """
    _params_file("report open", profile)

    from pipeline.project import report_pages

    report_pages.open_report(profile)


@report.callback(invoke_without_command=True)
def report_of_all(
    context: typer.Context,
    all_profiles: Annotated[
        bool, typer.Option("--all", help="write the page that sets the three profiles side by side")
    ] = False,
) -> None:
    """The page of all tables and figures: open one, or write the one of all profiles (`gan-tables report --all`)."""
    if context.invoked_subcommand is None and not all_profiles:
        print(context.get_help())
    elif all_profiles:
        _write_all_profiles()


@_guarded
def _write_all_profiles() -> None:
    from pipeline.project import report_pages

    print(report_pages.write_all())


@_command("compare")
def compare(
    base: Annotated[str, typer.Argument(help="a commit, branch or tag")],
    head: Annotated[str, typer.Argument(help="another")] = "HEAD",
) -> None:
    """Print what changed in params, tables, figures and claims between two commits, as Markdown.

    Example: `gan-tables compare origin/main HEAD`
    """
    from pipeline.project import pull_request

    pull_request.compare(base, head)


@_command("pr")
def pr(
    base: Annotated[str, typer.Argument(help="what the working tree is compared with, such as origin/main")],
    # resolved while the command line is read: the command itself runs in the project's root
    output: Annotated[
        Path | None,
        typer.Option(help="the file to write it to; NAME-full.md and NAME-files/ are put beside it", resolve_path=True),
    ] = None,
) -> None:
    """Write the comment of a pull request: params, metrics, figures, locks and claims against a base.

    Example: `gan-tables pr origin/main --output comment.md`
    """
    from pipeline.project import pull_request

    print(pull_request.write_comment(base, output))


@_command("ablations")
def ablations(
    only: Annotated[
        list[str] | None, typer.Option(help="a claim to test; may be given again", autocompletion=completion.claims)
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="ablations at a time")] = 1,
    listing: Annotated[
        bool, typer.Option("--list", help="say what is tested, found and missing, and stop; needs no data")
    ] = False,
) -> None:
    """Test the papers' sentences by ablation on the embedded data, and write reports/embedded/tables/claims.csv.

    Goes on where an earlier run stopped. Examples: `gan-tables ablations --list`, `gan-tables ablations -j 2`
    """
    from pipeline.claims import runner

    runner.run(only or [], jobs, listing)


@_command("readme")
def readme() -> None:
    """Rewrite the README's section on what is reproduced so far from the committed tables."""
    from pipeline.project import readme as section

    section.rewrite()


@_command("verify-lock")
def verify_lock() -> None:
    """Check the dvc.lock files without data or cache; status 1 if the embedded one is not up to date."""
    from pipeline.project import lock

    report = lock.verify_lock()
    print("\n".join(report.lines))
    raise typer.Exit(0 if report.passed else 1)


@_command("prune-lock")
def prune_lock() -> None:
    """Drop entries of stages that no longer exist from the dvc.lock files."""
    from pipeline.project import lock

    dropped = lock.prune_lock()
    print("\n".join(f"dropped {entry}" for entry in dropped) or "nothing to drop")


@_command("verify")
def verify() -> None:
    """Rerun the embedded graph in a temporary clone and compare; status 1 if the committed reports do not come out."""
    from pipeline.project import verify as verification

    found = verification.verify()
    print("\n".join(found.lines))
    kind = "the same" if found.same_machine else f"another instruction set than {found.committed_on}"
    rule = (
        "bytes are compared" if found.same_machine else "metrics are compared within 3 x their seed spread plus a floor"
    )
    print(f"instruction set {found.rerun_on}, {kind}: {rule}")
    print("verified" if found.agrees else "error: the committed reports are not what this code, data and params give")
    raise typer.Exit(0 if found.agrees else 1)


@_command("profiles")
def profiles() -> None:
    """Regenerate profiles/*/dvc.yaml from the root's."""
    from pipeline.project import twins

    twins.write_twins()


@_command("after-repro")
def after_repro() -> None:
    """Order dvc.lock, and say how the embedded reports compare with the last commit's; always status 0."""
    from pipeline.project import lock
    from pipeline.project import verify as verification

    try:
        lock.order_lock(Path())
        lines = verification.compare_with_head()
    except (InputError, OSError, ValueError, KeyError) as error:  # a remark is never worth a failed `make repro`
        lines = [f"note: the reports were not compared with the last commit: {error}"]
    if lines:
        print("\n".join(lines))


class Subject(StrEnum):
    """What can be annotated."""

    WINDOWS = "windows"
    FACES = "faces"


@_command("annotate")
def annotate(
    what: Annotated[Subject, typer.Argument(help="windows of bedrooms, or faces that show a concept")],
    profile: ProfileNamed,
) -> None:
    """Write the page for drawing boxes around windows or picking exemplars of faces; needs the trained model."""
    params_file = _params_file("annotate", profile)

    from pipeline.internals import annotation_page

    written = annotation_page.write_page(what.value, profile, params_file)
    if written.note:
        print(f"note: {written.note}")
    print(f"{written.page}: open it in a browser, and put the file that it downloads at {written.place}")


Host = Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 lets other machines reach the server")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one")]


@_command("serve", turing)
def serve_turing(
    profile: ProfileNamed,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="for trying out: votes are marked and kept apart from people's")
    ] = False,
) -> None:
    """Serve the page on which people tell generated from real images; their votes go to annotations/PROFILE."""
    params_file = _params_file("turing serve", profile)

    from pipeline.turing import server

    server.serve(profile, params_file, host=host, port=port, simulated=simulated)


@_command("draw", boxes)
def draw_boxes(profile: ProfileNamed, host: Host = "127.0.0.1", port: Port = 8766) -> None:
    """Serve the page for drawing boxes around windows; it saves to annotations/PROFILE. Needs the trained model."""
    params_file = _params_file("boxes draw", profile)

    from pipeline.turing import boxes as desk

    desk.serve(profile, params_file, host=host, port=port)


def _params_file(command: str, profile: str) -> Path:
    from pipeline.project.twins import TWINS

    if profile not in ("embedded", *TWINS):
        message = f"{command}: found the profile '{profile}'; expected embedded, {', '.join(TWINS)}"
        raise InputError(message)
    return Path("params.yaml") if profile == "embedded" else Path("profiles") / profile / "params.yaml"


if __name__ == "__main__":
    app()
