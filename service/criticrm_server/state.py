"""What a running app holds; routes reach it as `request.app.state.service`."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .admission import Admission
from .api_keys import ApiKeys
from .checks import Check
from .deadlines import Deadlines
from .engines.base import Engine
from .errors import Draining, EngineDead, NoServer, Sleeping
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
    api_keys: ApiKeys
    self_check: list[Check] = field(default_factory=list)
    engine_died: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: int = field(default_factory=lambda: int(time.time()))  # Unix time, in seconds
    model_version: str = field(init=False)

    def __post_init__(self) -> None:
        self.model_version = self.checkpoint.manifest.version  # hashes the manifest

    @property
    def max_model_len(self) -> int:
        """The longest prompt with its critique, in tokens."""
        return self.engine.max_model_len

    @property
    def model_name(self) -> str:
        return self.settings.model_name

    def take(self, checkpoint: Checkpoint, checks: list[Check]) -> None:
        """Score with this checkpoint from now on; its weights are in the engine."""
        self.checkpoint, self.model_version, self.self_check = checkpoint, checkpoint.manifest.version, checks
        self.scorer = Scorer(checkpoint, self.engine, self.settings, self.metrics)
        self.metrics.show_self_check(checks)

    async def check_ready(self) -> None:
        """Raises Draining, Sleeping, EngineDead, NoServer."""
        if self.admission.not_ready:
            raise Draining("the server is stopping")
        if self.admission.sleeping:
            raise Sleeping("the engine sleeps")
        await self.engine.check_health()

    async def watch_engine(self, every_s: float = 0.5) -> None:
        """Check the engine's health until it dies, then set `engine_died`, on which the process exits."""
        trouble = ""
        while True:
            try:
                await self.engine.check_health()
            except EngineDead:
                logger.critical(
                    "the engine died: requests get 503 until the process exits; a supervisor should restart it"
                )
                self.engine_died.set()
                return
            except NoServer:
                pass  # readiness tells; a server may come back
            except Exception as error:  # a check that fails says nothing of the engine: the next one may see it dead
                if trouble != (trouble := repr(error)):
                    logger.exception("the engine's health can't be checked; trying again")
            else:
                trouble = ""
            await asyncio.sleep(every_s)
