"""`criticrm serve`."""

from __future__ import annotations

from ..serve import serve
from ..settings import Settings


class Serve(Settings):
    """Serve a Critic-RM over HTTP.

    Every option is also a variable: --max-sequences is CRITICRM_MAX_SEQUENCES.
    """

    def run(self) -> int:
        return serve(self)
