"""Stage `face_accuracy`: the face detector's recall and precision where the true boxes are known, and its tuning."""

from pathlib import Path

from pipeline.core import params, records, stage
from pipeline.core.scratch import scratch
from pipeline.datasets.decode import Decoding
from pipeline.datasets.faces import FaceDetector
from pipeline.evaluation import face_accuracy


def main(params_file: Path, raw: Path, out: Path) -> None:
    """Measure the detector on the labelled photos in RAW with the configured settings and all those of the sweep."""
    detector = params.load(params_file, FaceDetector, own="detect_faces")
    sweep = params.load(params_file, face_accuracy.FaceSweep, own="face_accuracy")
    decoding = params.load(params_file, Decoding, own="decoding")
    inputs = {"script": Path("stages/face_accuracy.py"), "data": [raw]}
    inputs |= {"detector": detector, "sweep": sweep, "decoding": decoding}
    with scratch(stage.name("face_accuracy"), **inputs) as folder:
        records.write_parquet(out, face_accuracy.face_accuracy(raw, folder, detector, sweep, decoding))


if __name__ == "__main__":
    stage.run(main)
