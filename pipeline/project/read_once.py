"""DVC parses a params file anew for each stage that names it: 0.1 s each, a hundred times over. Here once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def params_read_once() -> Iterator[None]:
    """Within this context DVC reads each params file once; for looking only, as a change in between is not seen."""
    from dvc.dependency import param

    original = param.load_path
    parsed: dict[str, Any] = {}

    def load(path: str, fs: Any, **options: Any) -> Any:
        if path not in parsed:
            parsed[path] = original(path, fs, **options)
        return parsed[path]

    param.load_path = load
    try:
        yield
    finally:
        param.load_path = original
