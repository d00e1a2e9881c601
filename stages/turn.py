"""Stage `turn`: a turn vector added to generated faces (DCGAN, Figure 8), shown and measured."""

from pathlib import Path

from pipeline.core import compute, params, records, stage, store
from pipeline.internals import annotations, arithmetic, face_attributes, frozen
from pipeline.internals import turn as turning


def main(
    params_file: Path, images: Path, model: Path, attributes: Path, exemplars: Path, out_pictures: Path, out_table: Path
) -> None:
    """Exemplars among MODEL's faces are those that the file EXEMPLARS names, or that the networks ATTRIBUTES find."""
    config = params.load(params_file, turning.TurnVector, own="internals.turn")
    n_deck = params.load(params_file, arithmetic.Arithmetic, own="internals.arithmetic").n_deck  # one deck for both
    reference = params.load(params_file, frozen.Reference, own="internals.reference")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    generator = frozen.frozen_generator(model, reference, machine)
    frozen.check_size(generator.architecture, store.open_set(images), model)
    pictures, table = turning.turn(
        generator,
        config,
        n_deck=n_deck,
        attributes=face_attributes.read_attributes(attributes, machine),
        annotated=annotations.read_exemplars(exemplars, generator=generator, n_images=n_deck),
    )
    store.write_arrays(out_pictures, **pictures)
    records.write_parquet(out_table, table)


if __name__ == "__main__":
    stage.run(main)
