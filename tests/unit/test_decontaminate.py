"""`criticrm decontaminate`: what an evaluation file holds too goes, for a named reason; the rest stays as it is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from criticrm_training.commands.decontaminate import Decontaminate
from criticrm_training.data.contamination import find_contamination, read_rows
from criticrm_training.data.sources import DataError

RNG = random.Random(0)
PASSAGE = " ".join(RNG.sample([f"word{i}" for i in range(500)], 16))
REFUSAL = "I am sorry but I can not help with that because it would not be safe for anyone"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def a_question() -> str:
    return " ".join(RNG.choices([f"term{i}" for i in range(500)], k=20))


HELD_OUT = a_question()
EVALUATION = [
    {"id": "e1", "prompt": user(HELD_OUT), "chosen": "c", "rejected": "r"},
    {"id": "e2", "prompt": a_question(), "chosen": f"Because {PASSAGE}.", "rejected": REFUSAL},
]
CLEAN: list[dict[str, Any]] = [
    {"id": i, "prompt": user(a_question()), "chosen": f"fine {i}", "rejected": "no", "tags": ["a", None], "source": "s"}
    for i in range(5)
]
SAME = {"id": "same", "prompt": user(f"  {HELD_OUT.upper()}\n"), "chosen": "other", "rejected": "no", "source": "t"}
CONTINUED = SAME | {
    "id": "continued",
    "prompt": [*user(HELD_OUT), {"role": "assistant", "content": "?"}, *user("Go on.")],
}
NEAR = SAME | {"id": "near", "prompt": "Please: " + HELD_OUT}
QUOTED = CLEAN[0] | {"id": "quoted", "prompt": user("other words"), "rejected": f"They say: {PASSAGE.title()}!"}


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rows = [CLEAN[0], SAME, CLEAN[1], CONTINUED, NEAR, *CLEAN[2:], QUOTED]
    return written(tmp_path / "train.jsonl", rows), written(tmp_path / "test.jsonl", EVALUATION)


def run(data: Path, *against: Path, **settings: Any) -> int:
    fields = {"data": str(data), "against": [str(path) for path in against]}
    return Decontaminate.model_validate(fields | settings).run()


def test_what_goes_and_why(files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "new" / "clean.jsonl"
    with caplog.at_level("INFO"):
        assert run(*files, out=out) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == CLEAN
    report = json.loads((tmp_path / "new" / "clean.report.json").read_text())
    assert [(row["id"], row["row"], row["reason"], row["evaluation_id"]) for row in report["removed"]] == [
        ("same", 2, "same question", "e1"),
        ("continued", 4, "same question", "e1"),
        ("near", 5, "nearly the same question", "e1"),
        ("quoted", 9, "passage", "e2"),
    ]
    assert report["removed"][-1]["shared"] == " ".join(PASSAGE.split()[:13])
    assert (report["rows"], report["kept"]) == (9, 5)
    counts = {"same question": 2, "nearly the same question": 1, "passage": 1}
    assert report["by_evaluation_file"] == {"test.jsonl": counts}
    assert report["by_source"] == {
        "s": counts | {"same question": 0, "nearly the same question": 0},
        "t": counts | {"passage": 0},
    }
    assert "evaluation file  same question  nearly the same question  passage  removed" in caplog.text
    assert "test.jsonl                   2                         1        1        4" in caplog.text
    assert caplog.text.count("test.jsonl, row ") == 3
    assert "5 of 9 rows are kept" in caplog.text


def test_a_dry_run_writes_nothing(files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = sorted(tmp_path.rglob("*"))
    with caplog.at_level("INFO"):
        run(*files, dry_run=True, out=tmp_path / "clean.jsonl")
    assert "5 of 9 rows are kept" in caplog.text
    assert sorted(tmp_path.rglob("*")) == before


def test_exact_only(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(*files, out=tmp_path / "clean.jsonl", exact_only=True)
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 7


def test_each_row_has_the_file_that_it_is_in(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = written(tmp_path / "other.jsonl", [{"question": CLEAN[3]["prompt"][0]["content"], "answer": "42"}])
    run(files[0], other, files[1], out=tmp_path / "clean.jsonl")
    report = json.loads((tmp_path / "clean.report.json").read_text())
    assert {name: sum(row.values()) for name, row in report["by_evaluation_file"].items()} == {
        "other.jsonl": 1,
        "test.jsonl": 4,
    }
    assert report["against"] == {"other.jsonl": 1, "test.jsonl": 2}


def test_files_of_one_name_are_told_apart(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    other = written(tmp_path / "new" / "test.jsonl", [{"prompt": CLEAN[3]["prompt"]}])
    run(files[0], files[1], other, out=tmp_path / "clean.jsonl")
    report = json.loads((tmp_path / "clean.report.json").read_text())
    assert report["against"] == {str(files[1]): 2, str(other): 1}


def test_wording_that_many_questions_share_is_no_passage(tmp_path: Path) -> None:
    rows = [row | {"rejected": REFUSAL} for row in CLEAN]
    data, evaluation = (
        read_rows(written(tmp_path / name, rows)) for name, rows in (("a.jsonl", rows), ("b.jsonl", EVALUATION))
    )
    assert len(find_contamination(data, evaluation)) == 5
    assert not find_contamination(data, evaluation, common=4)
    assert len(find_contamination(data, evaluation, common=5)) == 5
    assert not find_contamination(data, evaluation, ngram=0)


def test_twelve_words_are_no_passage(tmp_path: Path) -> None:
    texts = [" ".join(PASSAGE.split()[:n]) for n in (12, 13)]
    data = read_rows(written(tmp_path / "a.jsonl", [CLEAN[i] | {"chosen": text} for i, text in enumerate(texts)]))
    evaluation = read_rows(written(tmp_path / "b.jsonl", EVALUATION))
    assert [c.row.number for c in find_contamination(data, evaluation)] == [2]
    assert [c.row.number for c in find_contamination(data, evaluation, ngram=12)] == [1, 2]
    fewer = [c.shared for c in find_contamination(data, evaluation, ngram=12)]
    assert fewer == [" ".join(PASSAGE.split()[:12])] * 2


def test_rows_whose_responses_hold_the_prompt(tmp_path: Path) -> None:
    talk = f"\n\nHuman: {HELD_OUT}\n\nAssistant:"
    rows = [{"chosen": f"{talk} Yes.", "rejected": f"{talk} No."}, *CLEAN]
    data, evaluation = written(tmp_path / "a.jsonl", rows), written(tmp_path / "b.jsonl", EVALUATION)
    run(data, evaluation, out=tmp_path / "clean.jsonl")
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 5


def test_parquet_keeps_its_columns(files: tuple[Path, Path], tmp_path: Path) -> None:
    table = pyarrow.table({"prompt": [HELD_OUT, "Why?"], "n": pyarrow.array([1, 2], pyarrow.int8())})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    run(tmp_path / "train.parquet", files[1], out=tmp_path / "clean.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "clean.parquet").equals(table.slice(1))


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (None, "give --out"),
        ("clean.csv", r"clean\.csv: a \.jsonl file"),
        ("train.jsonl", "is one of the files"),
        ("test.jsonl", "is one of the files"),
    ],
)
def test_where_it_can_not_write(files: tuple[Path, Path], tmp_path: Path, out: str | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        run(*files, out=None if out is None else tmp_path / out)


def test_no_row_left(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"every row occurs in .*; is it the same file"):
        run(files[0], files[0], out=tmp_path / "clean.jsonl")
    assert not (tmp_path / "clean.jsonl").exists()


def test_a_row_without_a_prompt(files: tuple[Path, Path], tmp_path: Path) -> None:
    odd = written(tmp_path / "odd.jsonl", [CLEAN[0], {"text": "x"}])
    with pytest.raises(DataError, match="row 2: no prompt: none of the fields prompt, question"):
        run(files[0], odd, dry_run=True)
    for rows, words in (([3], "row 1: a row is an object"), ([], "holds no rows")):
        with pytest.raises(DataError, match=words):
            run(written(tmp_path / "odd.jsonl", rows), files[1], dry_run=True)
