"""The command `gan-tables`: what the project needs beside `dvc`. Commands without arguments are `make` targets, too."""

import functools
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
turing = typer.Typer(no_args_is_help=True, help="The visual Turing test.")
boxes = typer.Typer(no_args_is_help=True, help="Boxes around windows in samples.")
app.add_typer(turing, name="turing")
app.add_typer(boxes, name="boxes")


def _command(name: str, group: typer.Typer = app) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command that runs in the project's root and says bad input in a sentence."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @group.command(name)
        @functools.wraps(function)
        def guarded(*args: object, **kwargs: object) -> None:
            try:
                os.chdir(_root())
                function(*args, **kwargs)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                raise typer.Exit(1) from None

        return guarded

    return register


def _root() -> Path:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir() and (folder / "dvc.yaml").is_file():
            return folder
    message = f"{here}: no DVC project here or above (.dvc and dvc.yaml); run from a checkout of the project"
    raise InputError(message)


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


@_command("status")
def status() -> None:
    """Say how long each stage took when it last ran here."""
    from pipeline.project import status as runs

    runs.print_status()


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
    profile: Annotated[str, typer.Argument(help="embedded, laptop or paper")],
) -> None:
    """Write the page for drawing boxes around windows or picking exemplars of faces; needs the trained model."""
    params_file = _params_file("annotate", profile)

    from pipeline.internals import annotation_page

    written = annotation_page.write_page(what.value, profile, params_file)
    if written.note:
        print(f"note: {written.note}")
    print(f"{written.page}: open it in a browser, and put the file that it downloads at {written.place}")


Profile = Annotated[str, typer.Argument(help="embedded, laptop or paper")]
Host = Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 lets other machines reach the server")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one")]


@_command("serve", turing)
def serve_turing(
    profile: Profile,
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
def draw_boxes(profile: Profile, host: Host = "127.0.0.1", port: Port = 8766) -> None:
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
