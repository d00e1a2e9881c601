"""For the tests of the box drawing page: a project with a small generator of random weights and nothing annotated."""

import torch

from pipeline.models.build import ColourArchitecture, build_generator
from pipeline.models.dcgan import PAPER
from pipeline.models.store import named_tensors, write_model

N_IMAGES = 4
PARAMS = f"""
compute: {{device: cpu, threads: 1, precision: fp32}}
internals:
  reference: {{seed: 3, n_images: 8}}
  forget_windows: {{n_labelled: {N_IMAGES}, other: 1}}
"""


def write_desk(folder):
    """What ``gan-tables boxes draw embedded`` needs."""
    (folder / ".dvc").mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "annotations/embedded").mkdir(parents=True)
    (folder / "annotations/embedded/boxes.json").write_text("{}\n")
    write_generator(folder, seed=0)
    return folder


def write_generator(folder, *, seed):
    """Samples of 64 x 64."""
    network = build_generator(ColourArchitecture(name="dcgan_64", z="uniform", z_dim=3, filters=1, variant=PAPER))
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(generator=stream)
    variant = {name: getattr(PAPER, name) for name in PAPER.__dataclass_fields__}
    about = {"name": "dcgan_64", "z": "uniform", "z_dim": 3, "filters": 1, "variant": variant}
    run = {"params": {"architecture": about, "seeds": [0]}}
    write_model(folder / "data/embedded/models/dcgan_lsun", named_tensors("seed0/generator", network), run, {})
