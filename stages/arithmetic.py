"""Stage `arithmetic`: vector arithmetic on generated faces (DCGAN, Figure 7), shown and measured."""

from pathlib import Path

from pipeline.core import compute, params, records, stage, store
from pipeline.internals import annotations, face_attributes, frozen
from pipeline.internals import arithmetic as on_z


def main(
    params_file: Path, images: Path, model: Path, attributes: Path, exemplars: Path, out_pictures: Path, out_table: Path
) -> None:
    """Exemplars among MODEL's faces are those that the file EXEMPLARS names, or that the networks ATTRIBUTES find."""
    config = params.load(params_file, on_z.Arithmetic, own="internals.arithmetic")
    reference = params.load(params_file, frozen.Reference, own="internals.reference")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    generator = frozen.frozen_generator(model, reference, machine)
    frozen.check_size(generator.architecture, store.open_set(images), model)
    pictures, table = on_z.arithmetic(
        generator,
        config,
        attributes=face_attributes.read_attributes(attributes, machine),
        annotated=annotations.read_exemplars(exemplars, generator=generator, n_images=config.n_deck),
    )
    store.write_arrays(out_pictures, **pictures)
    records.write_parquet(out_table, table)


if __name__ == "__main__":
    stage.run(main)
