"""A small run to train in tests; pytest puts the folder of the test files on the path."""

from pipeline.models import dcgan
from pipeline.models.build import Architecture, ColourArchitecture, MnistArchitecture, conditioned
from pipeline.training.adversarial import Run, Selection

SVHN = ColourArchitecture(name="dcgan_svhn", z="gaussian", z_dim=5, filters=2, variant=dcgan.PAPER)
GAN_MNIST = MnistArchitecture(name="gan_mnist", z_dim=5, filters=0, hidden=16)


def made_run(architecture: Architecture = SVHN, **changes: object) -> Run:
    """One epoch of one seed with the paper's rate, betas and initial weights, and a selection only where digits need
    one."""
    values = {
        "beta1": 0.5,
        "beta2": 0.999,
        "learning_rate": 0.0002,
        "adam_epsilon": 1e-8,
        "initial_std": 0.02,
        "updates": "alternate",
        "log_every_steps": 10,
        "n_samples": 4,
        "dataset": "made",
        "architecture": architecture,
        "seeds": [0],
        "batch_size": 8,
        "constant_epochs": 1,
        "decay_epochs": 0,
        "l2": 2.5e-5,
        "sample_every_epochs": 1,
        "selection": Selection(every_epochs=1, batch_size=10, n_images=[10]) if conditioned(architecture) else None,
        "released": None,
    }
    return Run(**(values | changes))
