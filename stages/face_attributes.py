"""Stage `face_attributes`: networks that see what a face shows, to measure Figures 7 and 8 of DCGAN."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.store import open_set
from pipeline.internals import face_attributes


def main(params_file: Path, images: Path, out_model: Path, out_accuracy: Path) -> None:
    """Train on the image set IMAGES if it knows what its faces show; write networks and their accuracy."""
    config = params.load(params_file, face_attributes.FaceAttributes, own="internals.face_attributes")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    made, accuracy = None, face_attributes.no_accuracy()
    if face_attributes.has_attributes(image_set):
        made = face_attributes.train_attributes(image_set, config, machine)
        accuracy = face_attributes.accuracy(made[0], image_set)
        stage.counted(images=len(face_attributes.ROLES) * config.steps * config.batch_size)
    face_attributes.write_attributes(out_model, image_set, config, machine, made)
    records.write_parquet(out_accuracy, accuracy)


if __name__ == "__main__":
    stage.run(main)
