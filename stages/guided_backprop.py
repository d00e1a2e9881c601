"""Stage `guided_backprop`: what D's last maps respond to, trained and random (DCGAN, Figure 5)."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set, write_arrays
from pipeline.internals import frozen, guided_backprop
from pipeline.models.build import ColourArchitecture, read_architecture


def main(params_file: Path, images: Path, model: Path, out: Path, table: Path, sheet: Path) -> None:
    """Write the panels of MODEL and of a random D of its architecture to OUT, all their features to TABLE.

    SHEET is for a look at them as one picture: left of the white line the random D, right of it the trained one, a row
    a feature. Gradients on faces may show whose they are.
    """
    config = params.load(params_file, guided_backprop.GuidedBackprop, own="internals.guided_backprop")
    reference = params.load(params_file, frozen.Reference, own="internals.reference")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    rows = guided_backprop.searched_rows(image_set, config)
    trained = frozen.frozen_discriminator(model, image_set, reference, machine)
    architecture = read_architecture(model)
    assert isinstance(architecture, ColourArchitecture), model  # another one would not have been frozen
    random = guided_backprop.untrained(architecture, config, depth=len(trained))
    networks = {"trained": trained, "random": frozen.freeze_on_images(random, image_set, reference, machine)}
    inputs = {"script": Path("stages/guided_backprop.py"), "data": [images, model]}
    inputs |= {"config": config, "reference": reference} | compute.record(machine)
    with scratch(stage.name(f"guided_backprop@{model.name}"), **inputs) as folder:
        panels, features = guided_backprop.guided_backprop(networks, image_set, rows, config, machine.device, folder)
        write_arrays(out, **panels)
        records.write_parquet(table, features)
        write_arrays(sheet, images=guided_backprop.side_by_side(panels["random"], panels["trained"]))
    stage.counted(images=len(rows))


if __name__ == "__main__":
    stage.run(main)
