"""What pydantic finds wrong, as lines of an error message."""

from __future__ import annotations

from pydantic import ValidationError


def format_faults(error: ValidationError) -> list[str]:
    """One line a fault: the field, and what it should be."""
    return [f"{'.'.join(map(str, fault['loc'])) or 'all'}: {fault['msg']}" for fault in error.errors()]
