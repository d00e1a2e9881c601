"""The report pages for people: opening a profile's, and one that sets the three profiles side by side.

The second one is outside the graph, because no stage may depend on another profile. It is made of what Git tracks, so a
fresh clone without data writes it, too.
"""

import sys
import webbrowser
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.project.lock import PROFILES

REPORT_ALL = Path("data/report-all/index.html")


def report_file(profile: str) -> Path:
    """Where stage `report` leaves the page of a profile."""
    return Path("data") / profile / "report/index.html"


def open_report(profile: str, root: Path = Path()) -> None:
    """Open the page of a profile in the browser, and say where it lies.

    Raises
    ------
    InputError
        If there is no such profile, or its page has not been made here.
    """
    if profile not in PROFILES:
        message = f"report open: found the profile '{profile}'; expected {', '.join(PROFILES)}"
        raise InputError(message)
    path = root / report_file(profile)
    if not path.is_file():
        dvc_yaml = PROFILES[profile].as_posix()
        target = "report" if profile == "embedded" else f"{dvc_yaml}:report"
        message = (
            f"{report_file(profile)}: missing; `dvc checkout {target}` takes it from the cache, `dvc repro {target}` "
            f"makes it and all that it rests on. reports/{profile}/report.md says the same in Markdown, and "
            "`gan-tables report --all` writes a page of what is in Git"
        )
        raise InputError(message)
    print(path)
    if not webbrowser.open(path.resolve().as_uri()):
        print("note: no browser was found; open that file in one", file=sys.stderr)


def write_all(root: Path = Path()) -> Path:
    """Write the page that sets the profiles side by side, from the committed tables and figures.

    Returns
    -------
    Path
        The page, relative to ``root``.

    Raises
    ------
    InputError
        If no profile has reports, or a table or picture of them cannot be read.
    """
    from pipeline.reporting.web import side_by_side

    reports = {profile: root / "reports" / profile for profile in reversed(PROFILES)}  # the paper's size first
    if not any((folder / "tables").is_dir() for folder in reports.values()):
        message = f"{root / 'reports'}: no tables of any profile; restore them with `git checkout reports`"
        raise InputError(message)
    write_text(root / REPORT_ALL, side_by_side.side_by_side(reports))
    return REPORT_ALL
