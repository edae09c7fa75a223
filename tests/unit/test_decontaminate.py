"""`criticrm decontaminate`: what an evaluation file holds too goes, for a named reason; the rest stays as it is."""

from __future__ import annotations

import json
import random
import unicodedata
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


def removed(folder: Path, rows: list[Any], evaluation: list[Any], **settings: Any) -> dict[Any, str]:
    """The reason by the id of each row that goes."""
    data, against = written(folder / "some.jsonl", rows), written(folder / "held-out.jsonl", evaluation)
    found = find_contamination(read_rows(data), read_rows(against), **settings)
    return {contamination.row.values["id"]: contamination.reason for contamination in found}


def row(id: str, prompt: str, chosen: str = "Yes.", rejected: str = "No.") -> dict[str, str]:
    return {"id": id, "prompt": prompt, "chosen": chosen, "rejected": rejected}


APPLES = "小明早上买了三个苹果,下午又买了五个梨,请问他今天一共买了多少个水果?"


def test_languages_without_spaces(tmp_path: Path) -> None:
    """A character is a word: in whatever Unicode form, with whatever punctuation; thirteen are a passage."""
    television = "テレビは何時に始まりますか、教えてください"
    seoul = "서울의 인구는 몇 명입니까 알려주세요 지금 바로"
    evaluation = [{"question": text} for text in (APPLES, television, seoul)]
    rows = [
        row("full width", APPLES.replace(",", "\uff0c").replace("?", "\uff1f")),
        row("no punctuation", APPLES.replace(",", "").replace("?", "")),
        row("one word more", f"请{APPLES}"),
        row("half width", "ﾃﾚﾋﾞは何時に始まりますか、教えてください"),
        row("in parts", unicodedata.normalize("NFD", seoul)),
        row("quoted", "这是一道什么题?", chosen=f"题目是:“{APPLES[:14]}”。"),  # with a comma
        row("quoted less", "这又是一道什么题?", chosen=f"题目是:“{APPLES[:13]}”。"),
        row("other", "为什么天空在白天看起来是蓝色的,而在傍晚看起来是红色的?"),
        row("of other fruit", "小红昨天种了两棵树,明天还要种四棵花,请问她总共要种多少棵?"),
    ]
    assert removed(tmp_path, rows, evaluation) == {
        "full width": "same question",
        "no punctuation": "nearly the same question",
        "one word more": "nearly the same question",
        "half width": "same question",
        "in parts": "same question",
        "quoted": "passage",
    }
    run(tmp_path / "some.jsonl", tmp_path / "held-out.jsonl", out=tmp_path / "clean.jsonl")
    assert (tmp_path / "clean.jsonl").read_text(encoding="utf-8").splitlines() == [
        json.dumps(rows[i], ensure_ascii=False) for i in (6, 7, 8)
    ]


FUNCTION = """def longest_run(values: list[int]) -> int:
    best = run = 0
    for before, after in zip(values, values[1:]):
        run = run + 1 if after > before else 0
        best = max(best, run)
    return best + bool(values)
"""
IMPORTS = "import numpy as np\nimport pandas as pd\nimport matplotlib.pyplot as plt\nfrom pathlib import Path\n"


def test_code(tmp_path: Path) -> None:
    """Layout and operators are no words; what many programs begin with is no passage."""
    evaluation = [{"prompt": f"What does it return?\n\n{FUNCTION}"}, {"prompt": "Plot it.", "answer": IMPORTS}]
    rows = [
        row("tabs", f"What does it return?\n{FUNCTION.replace('    ', chr(9))}"),
        row("renamed", f"What does it return?\n\n{FUNCTION.replace('longest_run', 'f')}"),
        row("in a reply", "Write a function that finds runs.", chosen=f"Here:\n```python\n{FUNCTION}```"),
        row("other code", "Write a function that adds.", chosen="def add(a: int, b: int) -> int:\n    return a + b\n"),
        *(row(f"plot {i}", f"Plot column number {i} of {i}.csv", chosen=f"{IMPORTS}plot({i})") for i in range(11)),
    ]
    found = {"tabs": "same question", "renamed": "nearly the same question", "in a reply": "passage"}
    assert removed(tmp_path, rows, evaluation) == found
    few = removed(tmp_path, rows[:-1], evaluation)  # ten questions may be copies
    assert few == found | {f"plot {i}": "passage" for i in range(10)}


@pytest.mark.parametrize(
    ("empty", "words"),
    [
        ({}, "no prompt: none of the fields prompt, question"),
        ({"prompt": ""}, "no prompt: none of the fields prompt, question"),
        ({"prompt": " \n"}, "no prompt: the field prompt says nothing"),
        ({"prompt": user("")}, "no prompt: the field prompt says nothing"),
        ({"prompt": None, "chosen": "", "rejected": ""}, "no prompt, and chosen and rejected"),
        (None, "a row is an object with fields, not NoneType"),
    ],
)
def test_an_empty_row_is_named_on_either_side(tmp_path: Path, empty: Any, words: str) -> None:
    """By its line, empty lines counted; nothing is written."""
    some, holed = written(tmp_path / "some.jsonl", CLEAN), tmp_path / "holed.jsonl"
    holed.write_text(f"{json.dumps(CLEAN[0])}\n\n   \n{json.dumps(empty)}\n")
    for data, against in ((some, holed), (holed, some)):
        with pytest.raises(DataError, match=f"holed.jsonl, row 4: {words}"):
            run(data, against, out=tmp_path / "clean.jsonl")
    assert not (tmp_path / "clean.jsonl").exists()


def test_rows_with_nothing_to_compare_are_kept(tmp_path: Path) -> None:
    """Empty responses, questions without a word, and a file with empty lines among its rows."""
    rows = [row("empty", "Why?", "", ""), row("signs", "?!"), row("smile", "🙂"), row("same", "Really?!")]
    data = tmp_path / "some.jsonl"
    data.write_text("\n\n".join(map(json.dumps, rows)))
    evaluation = [row("e1", "...", "", ""), row("e2", "really?!", "", ""), row("e3", "🙂🙂")]
    run(data, written(tmp_path / "held-out.jsonl", evaluation), out=tmp_path / "clean.jsonl")
    assert [json.loads(line)["id"] for line in (tmp_path / "clean.jsonl").read_text().splitlines()] == [
        "empty", "signs", "smile",
    ]  # fmt: skip
    (gone,) = json.loads((tmp_path / "clean.report.json").read_text())["removed"]
    assert (gone["id"], gone["row"]) == ("same", 7)
