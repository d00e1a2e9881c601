"""Tokens that only this server can make: what it showed to whom is known again after a restart, without a session."""

import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from pipeline.core.errors import InputError

KEY_BYTES = 32


class Seal:
    """HMAC-SHA256 under a secret key, cut to 128 bits."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, *parts: str | int) -> str:
        """32 hexadecimal digits; other parts, or parts cut elsewhere, give other ones."""
        message = json.dumps(parts).encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:32]

    def fits(self, token: str, *parts: str | int) -> bool:
        """Whether this server made ``token`` for these parts; takes equally long for every wrong one."""
        return hmac.compare_digest(token.encode(), self.token(*parts).encode())


def read_seal(path: Path) -> Seal:
    """The seal whose key lies at ``path``; made there, readable by its owner alone, if there is none.

    Raises
    ------
    InputError
        If the file cannot be read or made, or is no key.
    """
    try:
        if not path.exists():
            _make_key(path)
        path.chmod(0o600)
        key = path.read_bytes()
    except OSError as error:
        message = f"{path}: the server's key cannot be read or written ({error.strerror}); the place must be writable"
        raise InputError(message) from error
    if len(key) != KEY_BYTES:
        message = (
            f"{path}: found {len(key)} bytes, expected a key of {KEY_BYTES}; remove the file, pages are then reloaded"
        )
        raise InputError(message)
    return Seal(key)


def _make_key(path: Path) -> None:
    """Of two servers that start at once the first wins: a link, unlike a renaming, replaces nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    try:
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
