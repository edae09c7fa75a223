"""Preference files: what is read, and how a bad row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from criticrm_training.data.pairs import PreferencePair, content_sha256, read_pairs
from criticrm_training.data.sources import DataError

ROW: dict[str, Any] = {"prompt": "Q?", "chosen": "good", "rejected": "bad"}


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_explicit_prompt(tmp_path: Path) -> None:
    (pair,) = read_pairs(written(tmp_path, ROW | {"id": "x", "category": "math"}))
    assert pair == PreferencePair("x", ({"role": "user", "content": "Q?"},), "good", "bad", "math", "q?")


def test_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}]
    good, bad = ([{"role": "assistant", "content": text}] for text in ("good", "bad"))
    explicit, implicit = (
        {"prompt": turns, "chosen": good, "rejected": bad},
        {"chosen": [*turns, *good], "rejected": [*turns, *bad], "id": "other"},
    )
    for row in (explicit, implicit):
        (pair,) = read_pairs(written(tmp_path, row))
        assert pair.prompt == tuple(turns)
        assert (pair.chosen, pair.rejected) == ("good", "bad")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    rows = [ROW | {"id": "x", "category": "math"}, ROW | {"chosen": "better"}, ROW | {"chosen": "best"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)  # where a row has no id, there is a null
    found = [(pair.id, pair.chosen, pair.category) for pair in read_pairs(path)]
    assert found == [("x", "good", "math"), ("2", "better", "all"), ("3", "best", "all")]


def test_a_parquet_file_damaged_inside(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW] * 50), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56  # the first column's page
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pairs\.parquet: no parquet that can be read"):
        read_pairs(path)


def test_duplicates_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert len(read_pairs(written(tmp_path, ROW, ROW, ROW | {"chosen": "other"}))) == 2
    assert caplog.records[0].getMessage() == "pairs.jsonl: 2 pairs of 1 questions; 1 exact duplicates were dropped"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "Q", "chosen": "a"}, "row 2: no field 'rejected'"),
        (ROW | {"chosen": 3}, "row 2: chosen: neither text nor a list of messages"),
        (ROW | {"prompt": ""}, "row 2: no prompt"),
        (ROW | {"rejected": "good"}, "row 2: chosen and rejected are the same"),
        (ROW | {"prompt": [{"role": "robot", "content": "x"}]}, r"row 2: prompt\[0\].role: 'robot'"),
        (ROW | {"prompt": [{"role": "user"}]}, r"row 2: prompt\[0\]: a message needs"),
        (ROW | {"chosen": [{"role": "user", "content": "x"}]}, "row 2: chosen: the last message is the user's"),
        (
            ROW | {"chosen": [{"role": "user", "content": "Other?"}, {"role": "assistant", "content": "good"}]},
            "row 2: chosen: the messages before the response are not those of prompt",
        ),
        (
            ROW | {"rejected": [{"role": "system", "content": "Be."}, {"role": "assistant", "content": "bad"}]},
            "row 2: rejected: the messages before",
        ),
        (["not", "a", "row"], "row 2"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_pairs(written(tmp_path, ROW, row))


def test_a_row_is_numbered_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"\n{json.dumps(ROW)}\n\n{json.dumps({'prompt': 'Q'})}")
    with pytest.raises(DataError, match="row 4: no field 'chosen'"):
        read_pairs(path)
    path.write_text(f"\n\n{json.dumps(ROW)}")
    assert [pair.id for pair in read_pairs(path)] == ["3"]


def test_an_id_names_one_pair(tmp_path: Path) -> None:
    row = ROW | {"id": "x"}
    assert len(read_pairs(written(tmp_path, row, row))) == 1
    with pytest.raises(DataError, match="row 3: the id 'x' is that of row 1, which is another pair"):
        read_pairs(written(tmp_path, row, ROW | {"chosen": "b"}, row | {"chosen": "c"}))


def test_a_prompt_that_the_responses_repeat(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}]
    row = ROW | {"chosen": [*turns, {"role": "assistant", "content": "good"}]}
    (pair,) = read_pairs(written(tmp_path, row))
    assert (pair.prompt, pair.chosen) == (tuple(turns), "good")


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "Q"')
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(f"{json.dumps(ROW)}\n\n".encode() + '{"prompt": "é"}'.encode("latin-1"))
    parquet = tmp_path / "broken.parquet"
    parquet.write_bytes(b"PAR1 and no more")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for path, words in (
        (broken, r"broken\.jsonl, row 1: not JSON"),
        (latin, r"latin\.jsonl, row 3: not JSON in UTF-8"),
        (parquet, r"broken\.parquet: no parquet that can be read beyond row 0"),
        (empty, "holds no preference pairs"),
        (tmp_path / "none.jsonl", "does not exist"),
        (Path(__file__), "are .jsonl or .parquet"),
    ):
        with pytest.raises(DataError, match=words):
            read_pairs(path)


def test_near_duplicates_are_of_one_group(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(40)]
    prompts = [" ".join(words), " ".join([*words[:-1], "another"]), "Unlike them."]
    rows = [ROW | {"prompt": prompt} for prompt in prompts]
    pairs = read_pairs(written(tmp_path, *rows))
    assert [pair.group for pair in pairs] == [min(prompts[:2]), min(prompts[:2]), "unlike them."]
    assert [p.group for p in read_pairs(written(tmp_path, *reversed(rows)))] == [p.group for p in reversed(pairs)]


def test_the_content_has_a_name_whatever_holds_it(tmp_path: Path) -> None:
    path = written(tmp_path, ROW, ROW | {"chosen": "other"})
    there = content_sha256(read_pairs(path))
    table = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW | {"chosen": "other"}, ROW]), table)
    assert content_sha256(read_pairs(table)) == there
    assert content_sha256(read_pairs(written(tmp_path, ROW))) != there


def test_text_that_begins_with_its_prompt(tmp_path: Path) -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is bright green."}
    (pair,) = read_pairs(written(tmp_path, row))
    assert (pair.prompt[0]["content"], pair.chosen, pair.rejected) == ("The sky is", "blue.", "bright green.")


def test_text_in_turns(tmp_path: Path) -> None:
    talk = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    (pair,) = read_pairs(written(tmp_path, {"chosen": f"{talk} Good: so.", "rejected": f"{talk} Bad."}))
    assert [(m["role"], m["content"]) for m in pair.prompt] == [
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Why?"),
    ]
    assert (pair.chosen, pair.rejected, pair.group) == ("Good: so.", "Bad.", "hi")


def test_a_dataset_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for split, text in (("train", "good"), ("test", "better")):
        (tmp_path / "set" / f"{split}.jsonl").write_text(json.dumps(ROW | {"chosen": text}) + "\n")
    assert [pair.chosen for pair in read_pairs(str(tmp_path / "set"))] == ["good"]
    assert [pair.chosen for pair in read_pairs(f"{tmp_path / 'set'}@test")] == ["better"]
    with pytest.raises(DataError, match="is no file and no dataset"):
        read_pairs(f"{tmp_path / 'set'}@validation")
