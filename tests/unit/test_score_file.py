"""A file in, a file out: nothing is lost, nothing is twice, whatever happens on the way."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from criticrm_client import APIConnectionError, Columns, CriticRM, FileError
from criticrm_client.arguments import SAID_ELSEWHERE
from criticrm_client.rewards.samples import Sample, item_of
from criticrm_training.data import conversations
from support.null_server import NullServer, score_of
from support.scored_files import read, rows, score, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[NullServer]:
    with NullServer() as running:
        yield running


@pytest.mark.parametrize(
    "kinds", [("jsonl", "jsonl"), ("parquet", "parquet"), ("jsonl", "parquet"), ("parquet", "jsonl")]
)
def test_each_row_gets_its_score(server: NullServer, tmp_path: Path, kinds: tuple[str, str]) -> None:
    source, out = (tmp_path / f"{name}.{kind}" for name, kind in zip(("in", "out"), kinds, strict=True))
    write(source, rows(600))
    summary = score(server, source, out)
    assert [(row["id"], row["score"]) for row in read(out)] == [(i, score_of(f"Because {i}.")) for i in range(600)]
    assert list(read(out)[0]) == [
        "id", "prompt", "response", "score", "direct_score", "score_std", "status", "critiques", "warnings",
    ]  # fmt: skip
    assert (summary.rows, summary.scored, summary.failed, summary.taken_over) == (600, 600, 0, 0)
    assert summary.mean_score == pytest.approx(sum(score_of(f"Because {i}.") for i in range(600)) / 600)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, out.name, f"{out.name}.run.json"])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_several_responses_a_row(server: NullServer, tmp_path: Path, kind: str) -> None:
    texts = [[f"{i}.{j}" for j in range(i % 4 + 1)] for i in range(300)]
    source = write(tmp_path / f"in.{kind}", [{"prompt": "Why?", "responses": some} for some in texts])
    score(server, source, tmp_path / f"out.{kind}")
    for row, some in zip(read(tmp_path / f"out.{kind}"), texts, strict=True):
        assert row["score"] == [score_of(text) for text in some]
        assert row["score"][row["best"]] == max(row["score"])


def test_conversations(server: NullServer, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?", "name": "A"}, {"role": "assistant", "content": "So."}]
    bad = turns[:1]
    source = write(tmp_path / "in.jsonl", [{"messages": turns}, {"messages": bad}, {"messages": "So."}])
    summary = score(server, source, tmp_path / "out.jsonl")
    assert [row["score"] for row in read(tmp_path / "out.jsonl")] == [score_of("So.")]
    assert summary.failures == {"invalid_row": 2}


@pytest.mark.parametrize("field", SAID_ELSEWHERE)
def test_what_a_message_says_elsewhere_is_not_lost(server: NullServer, tmp_path: Path, field: str) -> None:
    user, bare = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": ""}
    calling = bare | {field: [{"name": "search"}]}
    nothing = bare | {field: [], "name": "A", "weight": 1}
    source = write(
        tmp_path / "in.jsonl",
        [{"messages": messages} for messages in ([user, calling], [user, calling, user, bare], [user, nothing])],
    )
    summary = score(server, source, tmp_path / "out.jsonl")
    assert summary.failed_rows
    assert [row["error"]["message"] for row in read(summary.failed_rows)] == [
        f"messages[1]: {field} would be lost: put what it says into the content",
        f"prompt[1]: {field} would be lost: put what it says into the content",
    ]
    assert [row["messages"] for row in read(tmp_path / "out.jsonl")] == [[user, nothing]]
    with pytest.raises(ValueError, match=rf"prompt\[1\].*{field} would be lost"), CriticRM(server.url) as client:
        client.score([user, calling, user], ["So."])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=rf"completion\[0\]\.{field} would be lost"):
        item_of(Sample([user], [calling]))


def test_training_knows_the_same_names() -> None:
    assert conversations._SAID_ELSEWHERE == SAID_ELSEWHERE


def test_columns_by_other_names(server: NullServer, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"question": "Why?", "answer": "So.", "score": 3}])
    with pytest.raises(FileError, match="no column 'prompt'; there are: question, answer, score"):
        score(server, source, tmp_path / "out.jsonl")
    with pytest.raises(FileError, match="no column 'reply'"):
        score(server, source, tmp_path / "out.jsonl", columns=Columns("question", "reply"))
    with pytest.raises(FileError, match="score already; choose a prefix"):
        score(server, source, tmp_path / "out.jsonl", columns=Columns("question", "answer"))
    score(server, source, tmp_path / "out.jsonl", columns=Columns("question", "answer", prefix="rm_"))
    (row,) = read(tmp_path / "out.jsonl")
    assert (row["score"], row["rm_score"]) == (3, score_of("So."))


def test_rows_that_are_none_are_named(server: NullServer, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = [json.dumps(row) for row in rows(4)]
    lines[1:1] = ["{broken", "[1, 2]", json.dumps({"prompt": "Why?"}), json.dumps({"prompt": 7, "response": "So."}), ""]
    source.write_text("\n".join(lines), encoding="utf-8")
    summary = score(server, source, tmp_path / "out.jsonl")
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [0, 1, 2, 3]
    assert summary.failures == {"invalid_row": 4}
    assert summary.failed_rows == tmp_path / "out.jsonl.failed.jsonl"
    failed = read(summary.failed_rows)
    assert [row["row"] for row in failed] == [2, 3, 4, 5]
    assert [row["error"]["message"].split(":")[0] for row in failed] == [
        "not valid JSON", "not a JSON object", "response", "prompt",
    ]  # fmt: skip
    assert failed[0]["input"] == "{broken"
    assert failed[2]["input"] == {"prompt": "Why?"}


def test_a_conversation_is_not_read_beside_a_prompt(server: NullServer, tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    source = write(tmp_path / "in.jsonl", [{"messages": [user, assistant], "q": "Why not?"}])
    with pytest.raises(FileError, match="give the column messages alone"):
        score(server, source, tmp_path / "out.jsonl", columns=Columns(prompt="q", messages="messages"))


def test_conversations_without_a_response_are_named(server: NullServer, tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    rows = [{"messages": messages} for messages in ([user, assistant], 7, [], "Why?", [assistant], [assistant, user])]
    source = write(tmp_path / "in.jsonl", rows)
    summary = score(server, source, tmp_path / "out.jsonl")
    assert [row["score"] for row in read(tmp_path / "out.jsonl")] == [score_of("So.")]
    assert summary.failed_rows
    messages = [row["error"]["message"] for row in read(summary.failed_rows)]
    assert messages == ["messages: must be a conversation that ends with the assistant's response"] * 5


def test_columns_that_only_some_rows_have(server: NullServer, tmp_path: Path) -> None:
    some = [*rows(2), {**rows(1)[0], "note": "mine"}, {**rows(1)[0], "score": 3}]
    source = write(tmp_path / "in.jsonl", some)
    for out in (tmp_path / "out.jsonl", tmp_path / "out.parquet"):
        summary = score(server, source, out)
        assert [row.get("note") for row in read(out)] == [None, None, "mine"]
        assert summary.failures == {"invalid_row": 1}  # a score of the caller's is not written over


@pytest.mark.parametrize(
    ("source", "out", "told"),
    [
        ("nothing.jsonl", "out.jsonl", "no such file"),
        ("in.csv", "out.jsonl", r"must end in \.jsonl or \.parquet"),
        ("in.jsonl", "out.csv", r"must end in \.jsonl or \.parquet"),
        ("in.jsonl", "no/out.jsonl", "no such folder"),
        ("empty.jsonl", "out.jsonl", "no rows"),
        ("pretty.jsonl", "out.jsonl", "no rows; the first line is none: not valid JSON"),
        ("broken.parquet", "out.jsonl", r"broken\.parquet: .*"),
    ],
)
def test_files_that_can_not_be(server: NullServer, tmp_path: Path, source: str, out: str, told: str) -> None:
    write(tmp_path / "in.jsonl", rows(1))
    for name in ("in.csv", "empty.jsonl", "broken.parquet"):
        (tmp_path / name).touch()
    (tmp_path / "pretty.jsonl").write_text('{\n  "prompt": "Why?",\n  "response": "So."\n}')
    with pytest.raises(FileError, match=told):
        score(server, tmp_path / source, tmp_path / out)


def test_a_run_that_has_ended_is_not_made_again(server: NullServer, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", rows(300)), tmp_path / "out.jsonl"
    first = score(server, source, out)
    server.rows.clear()
    again = score(server, source, out)
    assert not server.rows
    assert (again.rows, again.scored, again.taken_over, again.mean_score) == (300, 300, 300, first.mean_score)
    write(source, rows(301))
    assert score(server, source, out).rows == 301
    score(server, source, out, normalize=True)  # another question
    assert server.rows["Because 0."] == 2


def test_what_failed_is_tried_again_and_the_rest_is_not(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", rows(2000)), tmp_path / "out.jsonl"
    with NullServer(faults=0.5) as faulty:
        first = score(faulty, source, out)
        assert first.failed > 0
        assert len(read(out)) == first.scored
        rounds = 0
        while (last := score(faulty, source, out)).failed:
            assert last.taken_over > first.scored * 0.9
            rounds += 1
            assert rounds < 50
    assert [(row["id"], row["score"]) for row in read(out)] == [(i, score_of(f"Because {i}.")) for i in range(2000)]
    assert not list(tmp_path.glob("*.failed.jsonl"))


def test_a_changed_input_keeps_what_is_the_same(tmp_path: Path) -> None:
    source, out = (
        write(tmp_path / "in.jsonl", [*rows(1000), {"prompt": "Why?", "response": None}]),
        tmp_path / "out.jsonl",
    )
    with NullServer() as running:
        assert score(running, source, out).failed == 1
        write(source, [*rows(1000), {"id": 1000, "prompt": "Why?", "response": "Because 1000."}])
        assert score(running, source, out).taken_over == 896  # all parts but the last are as before
    assert [row["score"] for row in read(out)] == [score_of(f"Because {i}.") for i in range(1001)]


def test_a_service_that_has_gone_is_said(tmp_path: Path) -> None:
    with NullServer() as gone:
        pass
    with pytest.raises(APIConnectionError):
        score(gone, write(tmp_path / "in.jsonl", rows(10)), tmp_path / "out.jsonl")


def python(program: str, *arguments: Any) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def test_killed_eight_times(tmp_path: Path) -> None:
    """With SIGKILL, at random moments, while a third of the requests fail."""
    source, out = write(tmp_path / "in.jsonl", rows(2000)), tmp_path / "out.jsonl"
    with NullServer() as sound:
        score(sound, source, tmp_path / "whole.jsonl")
    program = (
        "import sys; from criticrm_client import CriticRM, Retries; "
        "client = CriticRM(sys.argv[1], retries=Retries(first_wait_s=0.01)); "
        "sys.exit(client.score_file(*sys.argv[2:], concurrency=2, pack=2).failed > 0)"
    )
    moments = random.Random(1)
    with NullServer(faults=0.3) as faulty:
        command = python(program, faulty.url, source, out)
        for _ in range(8):
            wanted = faulty.asked.total() + moments.randint(1, 250)
            run = subprocess.Popen(command)
            while run.poll() is None and faulty.asked.total() < wanted:
                time.sleep(0.001)
            assert run.poll() is None, "ended before it was killed"
            run.kill()
            run.wait()
        while subprocess.run(command, check=False).returncode:
            pass
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out.*")) == ["out.jsonl", "out.jsonl.run.json"]


def test_two_runs_on_one_output(server: NullServer, tmp_path: Path) -> None:
    """The second is refused while the first one runs, and loses it nothing."""
    source, out = write(tmp_path / "in.jsonl", rows(1500)), tmp_path / "out.jsonl"
    program = (
        "import sys; from criticrm_client import CriticRM; CriticRM(sys.argv[1]).score_file(*sys.argv[2:], pack=1)"
    )
    before = server.asked.total()
    with subprocess.Popen(python(program, server.url, source, out)) as first:
        while first.poll() is None and server.asked.total() < before + 100:
            time.sleep(0.001)
        with pytest.raises(FileError, match="another run is writing"):
            score(server, source, out)
        assert first.poll() is None, "ended before the second was refused"
    assert first.returncode == 0
    assert [row["id"] for row in read(out)] == list(range(1500))
    assert score(server, source, out).taken_over == 1500


def test_memory_is_flat(tmp_path: Path) -> None:
    """A file of 73 MB in less than 130 MB of the whole process, of which 67 MB are there with few rows."""
    source = tmp_path / "in.jsonl"
    with source.open("w") as file:
        for i in range(30_000):
            file.write(json.dumps({"prompt": "Why?", "response": f"{i} " + "because " * 300}) + "\n")
    program = (
        "import re, sys; from criticrm_client import CriticRM; "
        "s = CriticRM(sys.argv[1]).score_file(*sys.argv[2:], pack=32); "
        "print(s.scored, re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    with NullServer() as running:
        command = python(program, running.url, source, tmp_path / "out.jsonl")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    scored, kib = map(int, done.stdout.split())
    assert scored == 30_000
    assert kib < 130_000
