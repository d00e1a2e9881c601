"""A model folder from the arrays that the authors released, in place of training."""

from dataclasses import dataclass

import torch

from pipeline.core.errors import InputError
from pipeline.core.gan_data import data_folder
from pipeline.models.build import ColourArchitecture, build_generator, colour_discriminator
from pipeline.models.released import Released, check_listing, load_released
from pipeline.models.store import named_tensors
from pipeline.training.adversarial import Run


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was released of a run's networks.

    Attributes
    ----------
    tensors : ``seed<k>/{generator, discriminator}/...``
    discriminator_rows : how many rows of D's table the arrays cover, from the first
    listing : sha256 of the files' listing
    """

    tensors: dict[str, torch.Tensor]
    discriminator_rows: int
    listing: str


def take_released(run: Run, released: Released, where: str) -> Taken:
    """Load the arrays that a run names.

    Raises
    ------
    InputError
        If GAN_DATA or the folder is missing, the listing is not the pinned one, the run's networks are for digits, or
        an array is not what its place asks for (see ``load_released``).
    """
    root = data_folder()
    folder = None if root is None else root / released.folder
    if folder is None or not folder.is_dir():
        found = "GAN_DATA is not set" if root is None else f"GAN_DATA is {root}"
        message = (
            f"{where}.released: no folder $GAN_DATA/{released.folder} ({found}); put the authors' .npy arrays there, "
            "or write nothing after released to train instead"
        )
        raise InputError(message)
    if not isinstance(run.architecture, ColourArchitecture) or len(run.seeds) != 1:
        message = f"{where}.released: released arrays are of one network for RGB images: found {run.architecture.name} "
        message += f"with seeds {run.seeds}; expected dcgan_64, dcgan_32 or dcgan_svhn with one seed"
        raise InputError(message)
    listing = check_listing(folder, released)
    tensors: dict[str, torch.Tensor] = {}
    rows = 0
    prefix = f"seed{run.seeds[0]}"
    if released.discriminator is not None:
        covered = load_released(colour_discriminator(run.architecture), folder, released.discriminator)
        tensors |= named_tensors(f"{prefix}/discriminator", covered)
        rows = len(covered)
    if released.generator is not None:
        generator = build_generator(run.architecture)
        assert isinstance(generator, torch.nn.Sequential)
        covered = load_released(generator, folder, released.generator)
        if len(covered) < len(generator):
            message = (
                f"{folder}: '{released.generator}' covers {len(covered)} of the generator's {len(generator)} layers; a "
                "generator needs all of them: add the arrays, or write nothing after released.generator"
            )
            raise InputError(message)
        tensors |= named_tensors(f"{prefix}/generator", covered)
    if not tensors:
        message = f"{where}.released: names neither generator nor discriminator; name the pattern of one's files"
        raise InputError(message)
    return Taken(tensors=tensors, discriminator_rows=rows, listing=listing)
