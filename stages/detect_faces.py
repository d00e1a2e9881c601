"""Stage `detect_faces`: photos to an image set of faces found with OpenCV (DCGAN, section 4.2)."""

from pathlib import Path

from pipeline.core import params, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set, read_rejects, write_arrays
from pipeline.datasets import faces
from pipeline.datasets.decode import Decoding
from pipeline.reporting.sheets import Sheet


def main(params_file: Path, raw: Path, out: Path, left_out: Path) -> None:
    """Detect, cut out and store the faces of the photos in RAW as the image set OUT; LEFT_OUT has crops for a sheet."""
    detector = params.load(params_file, faces.FaceDetector, own="detect_faces")
    decoding = params.load(params_file, Decoding, own="decoding")
    sheet = params.load(params_file, Sheet, own="sheet")
    inputs = {"script": Path("stages/detect_faces.py"), "data": [raw], "detector": detector, "decoding": decoding}
    inputs |= {"sheet": sheet}
    with scratch(stage.name("detect_faces"), **inputs) as folder:
        faces.detect_faces(raw, out, folder, detector, decoding)
        rejects = read_rejects(out)
        stage.counted(photos=faces.counts(open_set(out).index, rejects).photos)
        crops = faces.rejected_crops(raw, rejects, sheet.n_images, sheet.seed, size=detector.size, decoding=decoding)
        write_arrays(left_out, images=crops)


if __name__ == "__main__":
    stage.run(main)
