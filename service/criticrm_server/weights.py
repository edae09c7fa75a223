"""What the engine holds, changed while the service runs: other weights in place; sleep, and waking (docs/rl-loops.md).

An RLHF loop on one GPU trains, generates and scores in turns: it takes the reward model's memory for a while, or gives
it the weights of the last round. No request is scored by a mixture: those in work end first, the others wait.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from criticrm_model import CheckpointError, UnsupportedModel

from .errors import Busy, EngineDead, EngineFailed, InvalidField, WeightsRefused
from .self_check import check_engine
from .state import Service

if TYPE_CHECKING:
    from criticrm_model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

# Of a config, what says nothing of the shapes in the engine.
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


async def reload(service: Service, name: str) -> None:
    """Serve another checkpoint of the same architecture from now on.

    Args:
        name: a folder, or what else `criticrm serve` takes.

    Raises:
        InvalidField: there is no such checkpoint.
        WeightsRefused: it is of another architecture, or fails the self-check; the one before is served on.
        NotSupported: the engine can't.
        Busy: it sleeps, is being changed, or what is in work takes too long.
        EngineDead
    """
    checkpoint = await asyncio.to_thread(_open, name, service.settings.trust_remote_code)
    if faults := _differences(service.checkpoint, checkpoint):
        raise WeightsRefused(f"{name} can't take the place of {service.checkpoint.folder.name}: {'; '.join(faults)}")
    if service.admission.sleeping:
        raise Busy("the engine sleeps: wake it first")
    async with service.admission.paused(service.settings.deadline_s):
        try:
            await service.engine.reload(checkpoint)
            checks = await check_engine(service.engine, checkpoint, service.settings)
        except EngineFailed as error:
            await _put_back(service)
            raise WeightsRefused(f"{error}\n{service.checkpoint.folder.name} is served on") from error
        before = service.model_version
        service.take(checkpoint, checks)
    logger.info("now serving checkpoint version %s instead of %s", service.model_version, before)


async def sleep(service: Service) -> None:
    """Have the engine give its memory away; requests are refused until it is woken. Raises NotSupported, Busy."""
    async with service.admission.paused(service.settings.deadline_s):
        if not service.admission.sleeping:
            await service.engine.sleep()
            service.admission.fall_asleep()
    logger.info("the engine sleeps: requests are answered with 503")


async def wake(service: Service) -> None:
    """Raises NotSupported, Busy; EngineDead, and then the process ends."""
    async with service.admission.paused(service.settings.deadline_s):
        await service.engine.wake()
        await _check_or_die(service)
        service.admission.sleeping = False
    logger.info("the engine is awake")


async def _put_back(service: Service) -> None:
    await service.engine.reload(service.checkpoint)
    await _check_or_die(service)


async def _check_or_die(service: Service) -> None:
    """An engine that fails with the weights it served before can't be trusted: the process ends, as if it had died."""
    try:
        service.self_check = await check_engine(service.engine, service.checkpoint, service.settings)
    except EngineFailed as error:
        service.engine_died.set()
        raise EngineDead("the engine no longer reads rewards right; this server is about to exit") from error


def _open(name: str, trust_remote_code: bool) -> Checkpoint:
    from criticrm_model.checkpoint import Checkpoint
    from criticrm_model.default import resolve

    try:
        return Checkpoint.open(resolve(name), trust_remote_code=trust_remote_code)
    except (CheckpointError, UnsupportedModel) as error:
        raise InvalidField("checkpoint", str(error)) from error


def _differences(old: Checkpoint, new: Checkpoint) -> list[str]:
    """Why the engine that holds `old` can't take `new`."""
    ours, theirs = _shapes(old), _shapes(new)
    differ = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    faults = [f"its config differs in {', '.join(differ[:5])}"] if differ else []
    if _rewards(new) != _rewards(old):
        faults.append(f"its reward tokens are {_rewards(new)} and not {_rewards(old)}")
    if new.renderer.stop_token_ids != old.renderer.stop_token_ids:
        faults.append("its tokenizer ends turns with other tokens")
    return faults


def _rewards(checkpoint: Checkpoint) -> dict[int, float]:
    """Weights in the score by token, which the engine has."""
    return {reward.token_id: reward.weight for reward in checkpoint.manifest.rewards}


def _shapes(checkpoint: Checkpoint) -> dict[str, Any]:
    return {key: value for key, value in checkpoint.config.to_dict().items() if key not in _NOT_OF_THE_MODEL}
