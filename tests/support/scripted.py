"""A service whose scores are a function of the response, in place of one that is served."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from criticrm_training.endpoint import Endpoint

CALIBRATION = {
    "reference_set": "a set",
    "n": 10,
    "direct_score": {"mean": 10.0, "std": 5.0},
    "score": {"mean": 20.0, "std": 10.0},
}


class Scripted(Endpoint):
    """`direct(response)`; a critique adds its number from 1 to that."""

    def __init__(self, direct: Callable[[str], float]) -> None:
        super().__init__("http://nowhere")
        self.direct = direct
        self.bodies: list[Any] = []

    def post_each(self, path: str, bodies: Iterable[Any]) -> Generator[Any, None, None]:
        assert path == "/score"
        for body in bodies:
            self.bodies.append(body)
            supplied = body.get("critiques")  # a list for each response
            options = [body["critique"]] * len(body["responses"]) if not supplied else [{"n": len(s)} for s in supplied]
            yield {"results": [self._result(*one) for one in zip(body["responses"], options, strict=True)]}

    def _result(self, text: str, critique: Any) -> dict[str, Any]:
        direct = self.direct(text)
        n = critique["n"] if isinstance(critique, dict) else int(critique)
        scores = [direct + k + 1 for k in range(n)]
        return {
            "error": None,
            "status": "truncated" if text == "long" else "ok",
            "direct_score": direct,
            "score": sum(scores) / len(scores) if scores else direct,
            "critiques": [{"text": f"says {text}", "score": s, "finish_reason": "stop", "tokens": 3} for s in scores],
            "warnings": [] if text.strip() else ["empty_response"],
        }


def in_place_of_a_service(service: Endpoint, calibration: dict[str, Any] | None = CALIBRATION) -> Callable[..., Any]:
    """What `serving.scoring_service` would give, with this service."""

    @contextmanager
    def scripted(*_: object, **__: object) -> Iterator[tuple[Endpoint, dict[str, Any]]]:
        manifest = {"calibration": calibration, "training_data": [{"pairs": 3}], "critique_instruction": "Review it."}
        yield service, {"model": "m", "model_version": "1", "manifest": manifest}

    return scripted
