"""The trigger token: a secret in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from flows.service import state
from made_core.errors import UserError
from made_core.settings import settings


def token_file() -> Path:
    """MADE_TRIGGER_TOKEN_FILE, or `service/trigger-token` in MADE_HOME."""
    given = settings().trigger_token_file
    return given.expanduser().absolute() if given else state.folder() / "trigger-token"


def ensured() -> str:
    """The token of the file; makes the file, with permission 0600, if it does not exist.

    Raises:
        UserError: the file cannot be read or written, is empty, or other users can read it.
    """
    path = token_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read()
    except OSError as error:
        raise UserError(f"trigger token {path}: {error.strerror}") from None
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def read() -> str:
    """The token of the file.

    Raises:
        UserError: the file cannot be read, is empty, or other users can read it.
    """
    path = token_file()
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise UserError(
            f"no trigger token at {path}: `made up` makes it; on another machine copy it there, or set "
            "MADE_TRIGGER_TOKEN_FILE"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"trigger token {path} cannot be read: {error}") from None
    if mode & 0o077:
        raise UserError(f"trigger token {path}: other users can read it (mode {mode:o}); chmod 600 {path}")
    if not text:
        raise UserError(f"trigger token {path} is empty: remove it and start the front door again")
    return text
