"""Stage `turing_deck`: a deck of real and generated images for the visual Turing test (Improved GAN, Figure 2)."""

from pathlib import Path

from pipeline.core import params, stage
from pipeline.core.store import open_set
from pipeline.turing import deck


def main(params_file: Path, name: str, real: Path, generated: Path, out: Path) -> None:
    """Write deck NAME, half of it test images of the set REAL and half samples of the file GENERATED, to OUT."""
    where = f"turing.decks.{name}"
    config = params.load(params_file, deck.DeckParams, own=where, shared="turing")
    samples = deck.read_samples(generated, config.part)
    deck.write_deck(out, config, name=name, real=open_set(real), samples=samples, where=f"{params_file}, {where}")
    stage.counted(images=len(deck.read_deck(out).images))


if __name__ == "__main__":
    stage.run(main)
