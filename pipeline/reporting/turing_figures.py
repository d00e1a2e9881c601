"""The visual Turing test (Improved GAN, Figure 2): what an annotator sees, and how mistakes are told."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.reporting import mosaic
from pipeline.reporting.drawing import Drawn, Metrics, empty
from pipeline.reporting.rows import NOT_RUN
from pipeline.turing.deck import Deck, read_deck, read_decks
from pipeline.turing.rounds import N_SHOWN, ExampleScreen, example_screen

FIRST = "mnist"  # the deck of the figure, if it is there
SEED = 0  # of the example
ACROSS = 3  # images beside each other
SHOWN_PX = 112  # side of an image, if it is a multiple of the image's
FRAME_PX = 4
TITLE_SIZE, WORD_SIZE = 15, 12  # of the letters
PLAIN, CHOSEN, MISTAKE = (colour + mosaic.PLOTTED for colour in (0xC8C8C8, 0x1F77B4, 0xD62728))
NO_HUMAN = "an example: the answers were drawn by seed, no human gave them"
NUMBERS = ("place", "generated", "answer", "mistake")


def improved_fig2(decks: Path) -> Drawn:
    """Improved GAN, Figure 2: left the screen to be judged, right the same after an answer, its mistakes outlined.

    Parameters
    ----------
    decks : folder of the profile's decks; that of MNIST is shown, else the first
    """
    deck = _deck(decks)
    if deck is None:
        return empty(NOT_RUN, NUMBERS)
    shown = example_screen(deck, SEED)
    n_right = N_SHOWN - int(shown.mistakes.sum())

    def layout(scale: float) -> mosaic.Canvas:
        panels = [
            _panel(f"{deck.title}: which of these are generated?", _before(shown, scale)),
            _panel(f"after the answer: {n_right} of {N_SHOWN} right", _after(shown, scale)),
        ]
        body = mosaic.beside(*panels, gap_px=3 * mosaic.MARGIN_PX)
        legend = f"Blue: called generated; red: a mistake, with what the image is. {NO_HUMAN.capitalize()}."
        words = mosaic.words(legend, width=body.shape[1], size=WORD_SIZE)
        margin = mosaic.MARGIN_PX
        return mosaic.framed(
            mosaic.below(body, words, gap_px=mosaic.PART_GAP_PX), top=margin, right=margin, bottom=margin, left=margin
        )

    made = mosaic.fitted(layout, scale=max(1, SHOWN_PX // shown.images.shape[1]))
    metrics: Metrics = {
        "deck": deck.name,
        "model": deck.model,
        "n_shown": N_SHOWN,
        "n_generated": int(shown.generated.sum()),
        "n_mistakes": int(shown.mistakes.sum()),
        "n_human_answers": 0,
    }
    numbers = pd.DataFrame(
        {"place": range(N_SHOWN), "generated": shown.generated, "answer": shown.answers, "mistake": shown.mistakes}
    )
    return Drawn(figure=made.picture, metrics=metrics | made.size(), numbers=numbers[list(NUMBERS)])


def _deck(decks: Path) -> Deck | None:
    if (decks / FIRST).is_dir():
        return read_deck(decks / FIRST)
    there = any(path.is_dir() and not path.name.startswith(".") for path in decks.glob("*"))
    return next(iter(read_decks(decks).values())) if there else None


def _panel(title: str, body: mosaic.Canvas) -> mosaic.Canvas:
    return mosaic.below(mosaic.words(title, width=body.shape[1], size=TITLE_SIZE), body, gap_px=mosaic.PART_GAP_PX)


def _before(shown: ExampleScreen, scale: float) -> mosaic.Canvas:
    return _grid([_tile(image, scale, PLAIN, "") for image in shown.images])


def _after(shown: ExampleScreen, scale: float) -> mosaic.Canvas:
    """Mistakes in red, with the truth below them; else what was called generated in blue."""
    tiles = []
    for image, generated, answer, mistake in zip(
        shown.images, shown.generated, shown.answers, shown.mistakes, strict=True
    ):
        colour = MISTAKE if mistake else CHOSEN if answer else PLAIN
        truth = "it is generated" if generated else "it is real"
        tiles.append(_tile(image, scale, colour, truth if mistake else ""))
    return _grid(tiles)


def _tile(image: np.ndarray, scale: float, colour: int, word: str) -> mosaic.Canvas:
    """An image in a frame, over a strip for a word."""
    tile = mosaic.tiles(image[np.newaxis].repeat(3 // image.shape[-1], axis=-1), columns=1, scale=scale)
    framed = np.pad(tile, FRAME_PX, constant_values=colour)
    return mosaic.below(framed, mosaic.words(word, width=framed.shape[1], size=WORD_SIZE))


def _grid(tiles: list[mosaic.Canvas]) -> mosaic.Canvas:
    rows = [
        mosaic.beside(*tiles[first : first + ACROSS], gap_px=mosaic.PART_GAP_PX) for first in range(0, N_SHOWN, ACROSS)
    ]
    return mosaic.below(*rows, gap_px=mosaic.GAP_PX)
