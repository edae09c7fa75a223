"""What a running app holds; routes reach it as `request.app.state.service`."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .admission import Admission
from .deadlines import Deadlines
from .engines.base import Engine
from .errors import Draining, EngineDead, NoServer
from .metrics import Metrics
from .scorer import Scorer
from .settings import Settings

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Service:
    """Everything between a route and the engine."""

    settings: Settings
    checkpoint: Checkpoint
    engine: Engine
    admission: Admission
    deadlines: Deadlines
    metrics: Metrics
    scorer: Scorer
    max_model_len: int
    engine_died: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def model_name(self) -> str:
        return self.settings.served_model_name or self.settings.model

    async def check_ready(self) -> None:
        """Raises Draining, EngineDead, NoServer."""
        if self.admission.leaving:
            raise Draining("the server is stopping")
        await self.engine.check_health()

    async def watch_engine(self, every_s: float = 0.5) -> None:
        """Until the engine dies; then says so. Requests learn of it by themselves, this tells the process."""
        while True:
            try:
                await self.engine.check_health()
            except EngineDead:  # anything else ends the watch, and is raised when the app stops
                logger.critical("the engine died; answering 503, then exiting for a supervisor to restart")
                self.engine_died.set()
                return
            except NoServer:
                pass  # readiness tells; a server may come back
            await asyncio.sleep(every_s)
