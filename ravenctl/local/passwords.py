"""Passwords of the servers that are started here."""

import os
import secrets
from pathlib import Path


def password(folder: Path) -> str:
    """The password in a server's folder, readable to its owner only; made when there is none yet."""
    file = folder / "password"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_hex(16))
    return file.read_text().strip()
