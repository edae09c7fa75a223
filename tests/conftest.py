"""Fixtures that several folders share."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
import torch
import uvicorn
from fastapi import FastAPI

from criticrm_client import AsyncCriticRM, CriticRM
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.app import create_app
from criticrm_server.engines.base import Engine
from criticrm_server.engines.fake import FakeEngine
from criticrm_server.settings import Settings
from criticrm_server.state import Service
from support.browser import start_browser
from support.runs import write_data
from support.tiny import make_checkpoint, make_model, make_tokenizer

if TYPE_CHECKING:
    from playwright.async_api import Browser

gc.set_threshold(10_000, 10, 10)  # as a command does
torch.set_num_threads(1)  # tiny models: more threads only wait for each other, for minutes on a busy machine
MAX_MODEL_LEN = 512
Using = Callable[..., Any]
StartApp = Callable[..., AbstractAsyncContextManager["Running"]]


# The files that take longest, begun first: processes share the tests by files, and the last one is waited for.
_LONGEST = (
    "test_ray_serve.py",
    "test_readme.py",
    "test_imported_checkpoint.py",
    "test_score_command.py",
    "test_guides.py",
    "test_v2_runner.py",
    "test_self_check_of_vllm.py",
    "test_sampling.py",
    "test_server.py",
    "test_verify_command.py",
    "test_tensor_parallel.py",
    "test_rolling_restart.py",
    "test_parity.py",
    "test_policy.py",
    "test_gateway.py",
    "test_engine_death.py",
    "test_killed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """What is imported by now is there to the end: not to be looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


class Running:
    """An app on the fake engine, and a client that calls it in-process."""

    def __init__(self, client: httpx.AsyncClient, service: Service, app: Any) -> None:
        self.client = client
        self.service = service
        self.app = app

    @property
    def engine(self) -> FakeEngine:
        assert isinstance(self.service.engine, FakeEngine)
        return self.service.engine

    async def score(self, body: object = None, **fields: object) -> httpx.Response:
        return await self.client.post("/score", json=fields if body is None else body)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-critic-rm")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal LM that is no Critic-RM yet."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs and critiques to train on (see `runs`)."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """A command sets up the process's logging; what it leaves would write to a stream that is gone.

    The access log is on, whatever a test of `criticrm score` left.
    """
    root, access = logging.getLogger(), logging.getLogger("criticrm.access")
    handlers, level = root.handlers[:], root.level
    access.setLevel(logging.NOTSET)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def as_users_start_it() -> Iterator[None]:
    """vLLM without what the Makefile sets so that engines start fast, and side by side."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND", "TORCH_COMPILE_DISABLE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def opened_checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="session")
def writing_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """One whose limit is above the length of what a `WritingEngine` writes."""
    folder = tmp_path_factory.mktemp("writing") / "tiny-critic-rm"
    return Checkpoint.open(make_checkpoint(folder, max_critique_tokens=128))


@pytest.fixture
def start_app(opened_checkpoint: Checkpoint) -> StartApp:
    """`async with start_app(engine=..., max_items=2) as running`: an app with these settings."""

    @asynccontextmanager
    async def start(
        engine: Engine | None = None, checkpoint: Checkpoint = opened_checkpoint, **settings: Any
    ) -> AsyncIterator[Running]:
        engine = engine or FakeEngine(checkpoint.renderer.stop_token_ids[0], tokens=checkpoint.manifest.reward_tokens)
        if isinstance(engine, FakeEngine):
            engine.max_model_len = MAX_MODEL_LEN
        settings = {"engine": "fake", "greedy_results_mib": 0, **settings}
        app = create_app(Settings(**settings), checkpoint, engine, run_warm_up=False)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            yield Running(client, app.state.service, app)

    return start


@pytest.fixture
async def running(start_app: StartApp) -> AsyncIterator[Running]:
    async with start_app() as app:
        yield app


@contextmanager
def serving(checkpoint: Checkpoint, engine: Engine | None = None, **settings: Any) -> Iterator[str]:
    """The app on the fake engine, or another, behind a real uvicorn on a free loopback port: its URL."""
    engine = engine or FakeEngine(
        checkpoint.renderer.stop_token_ids[0],
        max_model_len=MAX_MODEL_LEN,
        tokens=checkpoint.manifest.reward_tokens,
    )
    with listening(
        create_app(Settings(**{"engine": "fake", "greedy_results_mib": 0, **settings}), checkpoint, engine)
    ) as url:
        yield url


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """An app behind a real uvicorn on a free loopback port, whatever its settings name: its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests that run in the session's event loop."""
    async with start_browser() as started:
        yield started


@pytest.fixture(params=["sync", "async"])
def using(request: pytest.FixtureRequest) -> Using:
    """`using(lambda client: client.score(...), url, ...)`: what the method gives, with either client."""

    def run(ask: Callable[[Any], Any], *arguments: Any, **options: Any) -> Any:
        if request.param == "sync":
            with CriticRM(*arguments, **options) as client:
                return ask(client)

        async def awaited() -> Any:
            async with AsyncCriticRM(*arguments, **options) as client:
                return await ask(client)

        return asyncio.run(awaited())

    return run
