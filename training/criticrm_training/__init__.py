"""Programs that train a Critic-RM from preference pairs, and the trainer behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .training.critic_config import CriticConfig
    from .training.critic_trainer import CriticTrainer

__all__ = ["CriticConfig", "CriticTrainer"]


def __getattr__(name: str) -> Any:
    """Imported when it is used: torch and transformers take seconds, and most commands need neither."""
    if name == "CriticTrainer":
        from .training.critic_trainer import CriticTrainer

        return CriticTrainer
    if name == "CriticConfig":
        from .training.critic_config import CriticConfig

        return CriticConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
