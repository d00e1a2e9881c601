"""Where real data are: the folder that the environment variable ``GAN_DATA`` names."""

import os
from pathlib import Path

from pipeline.core.errors import InputError


def data_folder() -> Path | None:
    """The folder that ``GAN_DATA`` names, or None.

    Raises
    ------
    InputError
        If it is set but there is no such folder.
    """
    value = os.environ.get("GAN_DATA")
    if not value:
        return None
    folder = Path(value)
    if not folder.is_dir():
        message = f"GAN_DATA={value}: no such folder; set it to the folder that holds MNIST/, lsun/ and so on"
        raise InputError(message)
    return folder
