"""DVC as a child of ``gan-tables run``: it is killed with its parent, and writes dvc.lock whole or not at all.

DVC empties dvc.lock before it writes it anew, which takes a second or two for a lock as long as ours, after every
stage: a run that is stopped in that moment would lose the entries of other stages.
"""

import ctypes
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.core.files import write_text

PR_SET_PDEATHSIG, SIGKILL = 1, 9


def main(parent: int, arguments: Sequence[str]) -> int:
    """Become DVC; not preexec_fn of the parent, which may deadlock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
        if os.getppid() != parent:  # it died before the request
            print("error: gan-tables run is gone; run it again", file=sys.stderr)
            return 1
    from dvc.cli import main as dvc

    sys.argv = ["dvc", *arguments]  # which DVC writes down beside the files that it has in use
    with files_written_whole():
        return dvc(list(arguments))


@contextmanager
def files_written_whole() -> Iterator[None]:
    """Within this context DVC replaces its YAML files at once."""
    from dvc.utils.serialize import _common, _yaml

    def dump(path: str, data: Any, dumper: Callable[..., Any], fs: Any = None, **options: Any) -> None:  # noqa: ARG001
        text = io.StringIO()
        dumper(data, text, **options)
        write_text(Path(path), text.getvalue())

    with patch.object(_common, "_dump_data", dump), patch.object(_yaml, "_dump_data", dump):
        yield


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
