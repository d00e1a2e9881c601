"""The web server of the visual Turing test (Improved GAN, Figure 2): pages, pictures, and where answers go.

Thin: ``game`` has the rules, ``guard`` refuses what is not for us, ``pages`` makes what is seen.
"""

import re
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote, urlencode

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from pipeline.core.scratch import scratch_root
from pipeline.turing import pages
from pipeline.turing.deck import read_seed
from pipeline.turing.game import MODES, Decks, Game, RefusedError, Result, Shown, read_answer
from pipeline.turing.guard import Guard, Hosts
from pipeline.turing.listening import listen, run
from pipeline.turing.rounds import N_SHOWN, Mode
from pipeline.turing.seal import read_seal
from pipeline.turing.votes import PSEUDONYM, VoteLog

LARGEST = 4096  # bytes of a request; an answer has some 300
SENTENCES = {
    404: "There is no such page.",
    405: "This address takes no such request.",
    500: "The server failed; what it wrote to its terminal says why.",
}


def serve(profile: str, params_file: Path, *, host: str, port: int, simulated: bool) -> None:
    """Serve the decks of a profile until Ctrl-C; run in the project's root.

    Raises
    ------
    InputError
        If there is no deck, the votes are damaged or another server writes them, or the port is taken.
    """
    decks = Decks(Path("data") / profile / "turing_deck")
    seal = read_seal(scratch_root() / "turing" / "key")
    with listen(host, port) as bound, VoteLog(votes_file(profile, simulated=simulated), simulated=simulated) as log:
        game = Game(decks=decks, log=log, seed=read_seed(params_file), seal=seal, picture=pages.picture)
        hosts = Hosts(host)
        run(make_app(game, hosts), bound, hosts, f"Visual Turing test, votes go to {log.path}")


def votes_file(profile: str, *, simulated: bool) -> Path:
    """Where votes go: people's into Git, simulated ones never near them."""
    if simulated:
        return scratch_root() / "turing" / profile / "simulated_votes.jsonl"
    return Path("annotations") / profile / "votes.jsonl"


def make_app(game: Game, hosts: Hosts) -> Guard:
    """The application. What touches the disk runs in threads, so a slow one holds up nobody else."""
    app = bare_app()

    @app.get("/")
    def start(deck: str = "", mode: str = "", annotator: str = "") -> HTMLResponse:
        return HTMLResponse(_start_page(game, deck=deck, mode=mode, annotator=annotator))

    @app.get("/play")
    def play(deck: str = "", mode: str = "", annotator: str = "") -> HTMLResponse:
        if fault := _fault(game, deck, mode, annotator):
            page = _start_page(game, deck=deck, mode=mode, annotator=annotator, fault=fault)
            return HTMLResponse(page, status_code=422)
        return HTMLResponse(_screen_page(game.show(deck, annotator, _mode(mode)), simulated=game.log.simulated))

    @app.get("/images/{deck}/{mode}/{annotator}/{number}/{image}.png")
    def image(deck: str, mode: str, annotator: str, number: str, image: str) -> Response:
        if not (mode in MODES and re.fullmatch("[0-9]{1,7}", number) and re.fullmatch("[0-9a-f]{32}", image)):
            raise RefusedError(404, "There is no such image; reload the page.")
        return Response(game.image(deck, annotator, _mode(mode), int(number), image), media_type="image/png")

    @app.post("/answers")
    async def answers(request: Request) -> JSONResponse:
        from starlette.concurrency import run_in_threadpool

        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "Answers are sent as application/json.")
        answer = read_answer(await request.body())
        return JSONResponse(_outcome(await run_in_threadpool(game.take, answer), answer.mode))

    return Guard(app, hosts=hosts, largest=LARGEST)


def bare_app() -> FastAPI:
    """An application with styles and scripts, and a sentence for all that is refused; to be put behind a guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # its pages of documentation load from elsewhere

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in pages.static_files():
            raise RefusedError(404, "There is no such file.")
        content, kind = pages.static_files()[name]
        return Response(content, media_type=kind)

    @app.exception_handler(RefusedError)
    def refused(request: Request, error: RefusedError) -> Response:
        return _say(request, error.status, error.sentence)

    def other(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        return _say(request, status, SENTENCES[status])

    for status in SENTENCES:
        app.add_exception_handler(status, other)
    return app


def _say(request: Request, status: int, sentence: str) -> Response:
    """A sentence for the script of a page, or as a page."""
    if request.method == "POST":
        return JSONResponse({"error": sentence}, status_code=status)
    return HTMLResponse(pages.render("refused.html", sentence=sentence), status_code=status)


def _fault(game: Game, deck: str, mode: str, annotator: str) -> str:
    """What is wrong with what the start page sent; empty if nothing."""
    if not re.fullmatch(PSEUDONYM, annotator):
        return "Enter a pseudonym of at most 20 letters A-Z a-z, digits, - and _, such as a1."
    if deck not in list(game.decks):
        return "Choose one of the decks."
    if mode not in MODES:
        return "Choose with or without feedback."
    return ""


def _mode(text: str) -> Mode:
    return next(mode for mode in get_args(Mode) if mode == text)


def _start_page(game: Game, *, deck: str, mode: str, annotator: str, fault: str = "") -> str:
    names = list(game.decks)
    return pages.render(
        "start.html",
        decks=[game.decks.get(name) for name in names],
        chosen=deck if deck in names else names[0],
        mode=mode if mode in MODES else MODES[0],
        annotator=annotator[:20],
        pseudonym=PSEUDONYM.replace("_-]", r"_\-]"),  # browsers read it as a regular expression with the flag v
        fault=fault,
        simulated=game.log.simulated,
    )


def _screen_page(shown: Shown, *, simulated: bool) -> str:
    _, height, width, _ = shown.deck.images.shape
    folder = f"/images/{quote(shown.deck.name, safe='')}/{shown.mode}/{shown.annotator}/{shown.number}"
    choice = urlencode({"deck": shown.deck.name, "mode": shown.mode, "annotator": shown.annotator})
    return pages.render(
        "screen.html",
        shown=shown,
        n_shown=N_SHOWN,
        pictures=[f"{folder}/{image}.png" for image in shown.images],
        width=width,
        height=height,
        choice=choice,
        simulated=simulated,
    )


def _outcome(result: Result, mode: Mode) -> dict[str, Any]:
    """What the page is told; without feedback nothing that depends on the truth."""
    outcome: dict[str, Any] = {"first": result.is_first, "differs": result.differs}
    if mode == "feedback":
        outcome["truth"] = [vote.truth for vote in result.votes]
        outcome["answers"] = [vote.answer for vote in result.votes]
        outcome["n_right"] = result.n_right
        outcome["n_judged"] = result.n_judged
    return outcome
