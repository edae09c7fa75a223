"""The keys of callers: those of the settings, and those of a file that is read again on SIGHUP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr

from criticrm_client.addresses import parse_key

logger = logging.getLogger(__name__)


class ApiKeys:
    """The keys that are valid now.

    Attributes:
        current: replaced as a whole, so that a request sees either all of the old keys or all of the new ones.
    """

    def __init__(self, fixed: Sequence[SecretStr], file: Path | None) -> None:
        """Raises ValueError if the file holds no keys or can't be read."""
        self._fixed = tuple(fixed)
        self.file = file
        self.current = self._read()

    def reload(self) -> None:
        """Read the file again; one that is unreadable or empty leaves the keys as they are and logs an error."""
        before = set(self.current)
        try:
            self.current = self._read()
        except ValueError as error:
            logger.error("the API keys stay as they were: %s", error)
            return
        added, removed = len(set(self.current) - before), len(before - set(self.current))
        logger.info("API keys read from %s: %d added, %d removed", self.file, added, removed)

    def _read(self) -> tuple[SecretStr, ...]:
        return self._fixed if self.file is None else (*self._fixed, *read_keys(self.file))


def read_keys(file: Path) -> list[SecretStr]:
    """The keys of a file, one a line; empty lines are skipped.

    Raises:
        ValueError: it can't be read, holds no key, or one that no header can carry. No message holds a key.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        try:
            key = parse_key(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        if key:
            keys.append(SecretStr(key))
    if not keys:
        raise ValueError(f"{file} holds no key")
    return keys
