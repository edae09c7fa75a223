"""The compiler: nothing is compiled."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from triton.backends.compiler import BaseBackend, GPUTarget, Language


class InterpretedBackend(BaseBackend):  # type: ignore[misc]
    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return bool(target.backend == "cpu")

    def hash(self) -> str:
        raise NotImplementedError  # never asked in the interpreter

    def parse_options(self, options: dict[str, Any]) -> object:
        raise NotImplementedError  # never asked in the interpreter

    def add_stages(self, stages: dict[str, Any], options: object, language: Language) -> None:
        raise NotImplementedError  # never asked in the interpreter

    def load_dialects(self, context: object) -> None:
        raise NotImplementedError  # never asked in the interpreter

    def get_module_map(self) -> dict[str, ModuleType]:
        raise NotImplementedError  # never asked in the interpreter
