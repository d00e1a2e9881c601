"""Pages, their styles and scripts, and the pictures on them."""

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def picture(image: np.ndarray) -> bytes:
    """An uncompressed PNG, of the image's own size: browsers enlarge it.

    Compressed, real and generated images would differ in length: noise that nobody sees makes a file longer.

    Parameters
    ----------
    image : uint8 (H, W, C), C = 1 or 3
    """
    buffer = BytesIO()
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """Name -> content and media type, read once: no path that a request names is ever opened."""
    found = sorted((HERE / "static").iterdir())
    return {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in found if path.suffix in KINDS}


@cache
def _templates() -> "Environment":
    import jinja2

    loader = jinja2.FileSystemLoader(HERE / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def render(name: str, **values: Any) -> str:
    """A template filled; text goes in as text, never as HTML."""
    return _templates().get_template(name).render(**values)
