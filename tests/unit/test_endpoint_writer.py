"""Critiques by an OpenAI-style endpoint: what it is asked, and every way in which it may answer badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from criticrm_model.prompt import Renderer
from criticrm_training import endpoint as endpoint_module
from criticrm_training.critiques.endpoint_writer import EndpointWriter
from criticrm_training.critiques.rendering import render_conversation, render_task
from criticrm_training.critiques.writers import Conversation, Draft, Sampling, WriterError, WritingTask
from criticrm_training.endpoint import Endpoint, EndpointError
from support.tiny import make_tokenizer


class _Endpoint(BaseHTTPRequestHandler):
    """Refuses, breaks and answers in turn."""

    faults: list[int]
    bodies: list[dict[str, Any]]
    answer: Any = None  # in the place of the usual one; bytes as they are

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body | {"key": self.headers["Authorization"]})
        status = self.faults.pop() if self.faults else 200
        choice = {"message": {"content": " fine. Score: 7 "}, "finish_reason": "stop"}
        answer = {"choices": [choice] * body["n"], "usage": {"completion_tokens": 6 * body["n"]}}
        if self.answer is not None:
            answer = self.answer
        raw = answer if isinstance(answer, bytes) else json.dumps(answer if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Endpoint]]]:
    async def at_once(_: float) -> None: ...

    monkeypatch.setattr(endpoint_module.asyncio, "sleep", at_once)
    handler = type("Handler", (_Endpoint,), {"faults": [], "bodies": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", handler
    server.shutdown()
    thread.join()
    server.server_close()


TASKS = [
    WritingTask(({"role": "user", "content": "Q"},), f"R{i}", "Review it.", seed=i, label=f"pair {i}") for i in range(5)
]


def test_an_endpoint_is_asked_in_its_own_words(endpoint: tuple[str, type[_Endpoint]]) -> None:
    url, handler = endpoint
    critic = EndpointWriter(Endpoint(url, key="secret", concurrency=2), "big")
    drafts = critic.write(TASKS, Sampling(2, 0.7, 32))
    assert drafts == [[Draft("fine. Score: 7", "stop", 6)] * 2] * 5
    (body,) = [b for b in handler.bodies if b["seed"] == 3]
    assert body["messages"] == [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "R3"},
        {"role": "user", "content": "Review it."},
    ]
    assert (body["model"], body["n"], body["max_tokens"], body["key"]) == ("big", 2, 32, "Bearer secret")


def test_what_passes_is_tried_again_and_what_does_not_is_named(endpoint: tuple[str, type[_Endpoint]]) -> None:
    url, handler = endpoint
    handler.faults += [500, 429, 503]
    assert len(EndpointWriter(Endpoint(url), "big").write(TASKS, Sampling(1, 0.7, 32))) == 5
    assert len(handler.bodies) == 8
    handler.faults += [404]
    with pytest.raises(EndpointError, match="answered 404"):
        EndpointWriter(Endpoint(url), "big").write(TASKS, Sampling(1, 0.7, 32))


def test_a_prefix_is_gone_on_from(endpoint: tuple[str, type[_Endpoint]]) -> None:
    url, handler = endpoint
    task = WritingTask(({"role": "user", "content": "Q"},), "R", "Review it.", 0, prefix="Mine: 4. It")
    handler.answer = {
        "choices": [{"message": {"content": " is wrong. "}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 4},
    }
    assert EndpointWriter(Endpoint(url), "big").write([task], Sampling(1, 0, 9)) == [
        [Draft("Mine: 4. It is wrong.", "stop", 4)]
    ]
    (body,) = handler.bodies
    assert body["messages"][-1] == {"role": "assistant", "content": "Mine: 4. It"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    handler.answer["choices"][0]["message"]["content"] = "Mine: 4. It is wrong."
    with pytest.raises(WriterError, match="it began a new message instead of continuing the last one"):
        EndpointWriter(Endpoint(url), "big").write([task], Sampling(1, 0, 9))


def choice(content: Any = "fine.", finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}, "finish_reason": finish, **more}


TWO = [choice(), choice()]


@pytest.mark.parametrize(
    ("answer", "drafts"),
    [
        ({"choices": TWO, "usage": None}, [Draft("fine.", "stop", None)] * 2),
        ({"choices": TWO}, [Draft("fine.", "stop", None)] * 2),
        ({"choices": TWO, "usage": {}}, [Draft("fine.", "stop", None)] * 2),
        ({"choices": TWO, "usage": {"completion_tokens": None}}, [Draft("fine.", "stop", None)] * 2),
        ({"choices": [choice("b", index=1), choice("a", index=0)]},
         [Draft("a", "stop", None), Draft("b", "stop", None)]),
        # Nothing was written before the limit or the filter; that it did not end is kept.
        ({"choices": [choice(None, "length"), choice(None, "content_filter")]},
         [Draft("", "length", None), Draft("", "content_filter", None)]),
        ({"choices": [choice("a \ud83d\ude00"), choice("b \ud83d")]},
         [Draft("a \N{GRINNING FACE}", "stop", None), Draft("b \ufffd", "stop", None)]),
    ],
)  # fmt: skip
def test_what_an_endpoint_leaves_out(endpoint: tuple[str, type[_Endpoint]], answer: Any, drafts: list[Draft]) -> None:
    url, handler = endpoint
    handler.answer = answer
    assert EndpointWriter(Endpoint(url), "big").write(TASKS[:1], Sampling(2, 0.7, 32)) == [drafts]
    assert EndpointWriter(Endpoint(url), "big").answer([Conversation(TASKS[0].prompt, 0)], Sampling(2, 0.7, 32)) == [
        drafts
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"choices": []}, "returned 0 choices for n = 2"),
        ({"choices": TWO[:1]}, "returned 1 choices for n = 2"),
        ({"choices": TWO * 2}, "returned 4 choices for n = 2"),
        ({"choices": None}, "no completion .choices: "),
        ({"choices": {}}, "no completion .choices: "),
        ({"choices": "ab"}, "no completion .choices: "),
        ({"choices": [None, None]}, "choices.0: "),
        ({"choices": [{"finish_reason": "stop"}] * 2}, "choices.0.message: Field required"),
        ({"choices": [{"message": None, "finish_reason": "stop"}] * 2}, "choices.0.message: "),
        ({"choices": [choice(), choice(7)]}, "choices.1.message.content: "),
        ({"choices": [choice(), choice([{"type": "text"}])]}, "choices.1.message.content: "),
        ({"choices": [choice(), choice(None)]}, "ended by itself with content null"),
        ({"choices": [choice(finish=None)] * 2}, "choices.0.finish_reason: "),
        ({"choices": TWO, "usage": {"completion_tokens": -1}}, "usage.completion_tokens: "),
        ({"choices": TWO, "usage": 7}, "usage: "),
        ({"error": "overloaded"}, "choices: Field required"),
        ([], "all: "),
        ("fine.", "all: "),
        (b"null", "all: "),
        (b"<html>Log in</html>", "200 with no JSON .no content type.: '<html>Log in"),
        (b"", "200 with no JSON"),
        (b'{"choices": [', "200 with no JSON"),
        (b"\xff\xfe", "200 with no JSON"),
    ],
)
def test_a_bad_answer_is_an_error_that_names_the_pair(
    endpoint: tuple[str, type[_Endpoint]], answer: Any, words: str
) -> None:
    url, handler = endpoint
    handler.answer = answer
    with pytest.raises((WriterError, EndpointError), match=f"^pair 0: http://.*{words}"):
        EndpointWriter(Endpoint(url), "big").write(TASKS[:1], Sampling(2, 0.7, 32))


def test_a_refused_request_names_its_pair(endpoint: tuple[str, type[_Endpoint]]) -> None:
    url, handler = endpoint
    handler.faults += [400, *[200] * 3]
    with pytest.raises(EndpointError, match=r"^pair 3: http://.* answered 400") as raised:
        EndpointWriter(Endpoint(url, concurrency=1), "big").write(TASKS, Sampling(1, 0.7, 32))
    assert raised.value.request == 3


USER = {"role": "user", "content": "Q"}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (WritingTask((USER,), "R\ud800", "I", 0), r"response: a lone surrogate \(U\+D800\) at character 1"),
        (WritingTask((USER, {"role": "user", "content": "\udfff"}), "R", "I", 0), r"prompt\[1\].content: .*U\+DFFF"),
        (WritingTask((USER,), "R", "I\ud800", 0), "instruction: a lone surrogate"),
        (WritingTask((USER,), "R", "I", 0, "P\ud800"), "prefix: a lone surrogate"),
    ],
)
def test_half_a_character_is_named_by_its_field(
    endpoint: tuple[str, type[_Endpoint]], task: WritingTask, words: str
) -> None:
    task = WritingTask(task.prompt, task.response, task.instruction, 0, task.prefix, label="pair 'x', chosen")
    with pytest.raises(WriterError, match=f"^pair 'x', chosen: {words}"):
        EndpointWriter(Endpoint(endpoint[0]), "big").write([task], Sampling(1, 0.7, 32))
    with pytest.raises(WriterError, match=f"^pair 'x', chosen: {words}"):
        render_task(Renderer(make_tokenizer(), ""), task, max_model_len=99, max_tokens=9)
    with pytest.raises(EndpointError, match="lone surrogate can't be sent"):
        Endpoint(endpoint[0]).post_all("/x", [{"text": "\ud800"}])


def test_roles_that_a_template_refuses_are_named_with_their_pair() -> None:
    renderer = Renderer(make_tokenizer("gemma"), "")
    prompt = ({"role": "system", "content": "S"}, USER)
    words = r"chat template refuses the roles \[system, user\]"
    task = WritingTask(prompt, "R", "I", 0, label="pair 'x'")
    with pytest.raises(WriterError, match=f"^pair 'x': the model's {words}"):
        render_task(renderer, task, max_model_len=99, max_tokens=9)
    with pytest.raises(WriterError, match=f"^pair 'x': the model's {words}"):
        render_conversation(renderer, Conversation(prompt, 0, "pair 'x'"), max_model_len=99, max_tokens=9)
    with pytest.raises(WriterError, match=r"^pair 'x': .* tokens"):
        render_task(renderer, WritingTask((USER,), "R", "I", 0, label="pair 'x'"), max_model_len=9, max_tokens=9)


def test_a_prefix_is_rendered_without_an_end_and_has_its_room() -> None:
    renderer = Renderer(make_tokenizer(), "")
    long = "word " * 200
    bare, none, cut = render_task(renderer, WritingTask((USER,), long, "I", 0), max_model_len=99, max_tokens=9)
    task = WritingTask((USER,), long, "I", 0, "Mine: 4. It")
    prompt, prefix, _ = render_task(renderer, task, max_model_len=99, max_tokens=9)
    assert none == []
    assert renderer.decode(prefix) == "Mine: 4. It"
    assert prefix == renderer.tokenize_critique("Mine: 4. It")[:-1]
    assert cut
    assert len(bare) == 90
    assert len(prompt) + len(prefix) == 90
    assert (
        render_task(renderer, WritingTask((USER,), "short", "I", 0), max_model_len=99, max_tokens=9).truncated is False
    )
