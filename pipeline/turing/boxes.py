"""The page for drawing boxes around windows, on a server that saves them: ``annotations/PROFILE/boxes.json``.

The rules are those of ``internals.annotations``, by which the window experiment reads the file. What breaks them,
or was drawn on a page older than the file, replaces nothing.
"""

import hashlib
import os
import threading
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse

from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.core.scratch import scratch_root
from pipeline.internals import annotation_page
from pipeline.internals.annotation_page import Desk, Saving
from pipeline.internals.annotations import OtherDeckError, read_boxes
from pipeline.turing.game import RefusedError
from pipeline.turing.guard import Guard, Hosts
from pipeline.turing.listening import listen, run
from pipeline.turing.seal import Seal, read_seal
from pipeline.turing.server import bare_app

LARGEST = 1_000_000  # bytes of a request: some 20,000 boxes
ADDRESS = "/boxes"
NO_FILE = "none"


class BoxFile:
    """The file, with a lock: of two pages that save at once the second is told."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._lock = threading.Lock()
        self._last = ("", NO_FILE)  # the page that saved last, and what the file was then

    def base(self) -> str:
        """Which state the file is in: its sha256."""
        try:
            return hashlib.sha256(self.desk.place.read_bytes()).hexdigest()
        except FileNotFoundError:
            return NO_FILE

    def save(self, content: bytes, base: str, page: str = "") -> str:
        """Replace the file, and give its new state.

        Parameters
        ----------
        base : the state that the page began with
        page : an id that the page made up: what itself saved last it may replace, though the reply to it was lost

        Raises
        ------
        RefusedError
            409 if the file is another one now or the boxes are of other samples, 422 if they break a rule, 507 if
            nothing can be written.
        """
        place = self.desk.place
        with self._lock:
            now = self.base()
            if base != now and (not page or self._last != (page, now)):
                sentence = (
                    f"{place.as_posix()} was changed since this page was opened (another tab, another annotator, "
                    "git), so nothing was saved. Download your boxes, then reload the page to go on from that file."
                )
                raise RefusedError(409, sentence)
            try:
                with whole_file(place) as partial:
                    with partial.open("wb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                    self._check(partial)
            except InputError as error:
                sentence = f"The boxes could not be saved: {error}.".replace("run the stage again", "save again")
                raise RefusedError(507, sentence) from error
            self._last = (page, self.base())
            return self._last[1]

    def _check(self, partial: Path) -> None:
        try:
            boxes = read_boxes(partial, generator=self.desk.generator, n_images=self.desk.n_images)
        except OtherDeckError as error:
            raise RefusedError(409, self._about_place(partial, error)) from error
        except InputError as error:
            raise RefusedError(422, self._about_place(partial, error)) from error
        except RecursionError as error:
            raise RefusedError(422, "This is not a file of boxes: its lists are nested too deeply.") from error
        if boxes is None:
            raise RefusedError(422, "Draw at least one box.")

    def _about_place(self, partial: Path, error: InputError) -> str:
        return str(error).replace(str(partial), self.desk.place.as_posix()) + "; nothing was replaced."


def serve(profile: str, params_file: Path, *, host: str, port: int) -> None:
    """Serve the page of a profile until Ctrl-C; run in the project's root.

    Raises
    ------
    InputError
        If the model is missing, the earlier boxes are damaged, or the port is taken.
    """
    seal = read_seal(scratch_root() / "turing" / "key")
    with listen(host, port) as bound:
        desk = annotation_page.open_desk("windows", profile, params_file)
        hosts = Hosts(host)
        run(make_app(desk, seal, hosts), bound, hosts, f"Boxes around windows, saved to {desk.place.as_posix()}")


def make_app(desk: Desk, seal: Seal, hosts: Hosts) -> Guard:
    """The application; the samples are drawn once.

    Raises
    ------
    InputError
        If the earlier boxes are damaged.
    """
    app = bare_app()
    file = BoxFile(desk)
    deck = desk.deck(desk.annotated()[0])
    token = seal.token("boxes", deck.network)
    policy = (
        f"{annotation_page.content_policy(can_save=True)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    @app.get("/")
    def page() -> HTMLResponse:
        saving = Saving(address=ADDRESS, token=token, base=file.base())  # before reading: a change between is noticed
        try:
            annotated, note = desk.annotated()
        except InputError as error:
            raise RefusedError(409, f"{error}") from error
        text = annotation_page.page(desk.kind, deck, place=desk.place, annotated=annotated, note=note, saving=saving)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    @app.post(ADDRESS)
    async def save(request: Request) -> JSONResponse:
        from starlette.concurrency import run_in_threadpool

        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "Boxes are sent as application/json.")
        if not seal.fits(request.headers.get("x-token", ""), "boxes", deck.network):
            raise RefusedError(
                403, "This page is of another server or of other samples; download your boxes and reload."
            )
        base, page_id = (request.headers.get(name, "") for name in ("x-base", "x-page"))
        base = await run_in_threadpool(file.save, await request.body(), base, page_id)
        return JSONResponse({"base": base})

    return Guard(app, hosts=hosts, largest=LARGEST)
