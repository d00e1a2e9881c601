"""Stage `supervised_cnn`: D's architecture trained on the labelled images alone, by random search (DCGAN, table 2)."""

from pathlib import Path

from pipeline.core import compute, params, records, stage
from pipeline.core.scratch import scratch
from pipeline.core.store import open_set
from pipeline.evaluation import supervised_cnn


def main(params_file: Path, images: Path, out: Path) -> None:
    """Train all trials on the image set IMAGES; write one row a trial to OUT."""
    config = params.load(params_file, supervised_cnn.SupervisedCnn, own="supervised_cnn")
    machine = params.load(params_file, compute.Compute, own="compute")
    compute.set_up(machine)
    image_set = open_set(images)
    script, record = Path("stages/supervised_cnn.py"), compute.record(machine)
    with scratch(stage.name("supervised_cnn"), script=script, data=[images], config=config, **record) as folder:
        records.write_parquet(out, supervised_cnn.search(image_set, config, machine, folder))
        stage.counted(trials=config.n_trials)


if __name__ == "__main__":
    stage.run(main)
