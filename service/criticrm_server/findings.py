"""What `criticrm doctor` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do where all is not well."""

    level: Literal["ok", "warning", "problem"]
    subject: str
    text: str
    advice: str = ""
