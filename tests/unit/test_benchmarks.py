"""`criticrm benchmark`: each format read from a made file, each metric against values worked by hand.

In these files a response says what it scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import serving
from criticrm_model.checkpoint import Checkpoint
from criticrm_training.commands.benchmark import Benchmark
from criticrm_training.commands.probe import Probe
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation.benchmarks import benchmark as module
from criticrm_training.evaluation.benchmarks.formats import FORMATS, REWARDBENCH, read_items
from criticrm_training.evaluation.benchmarks.metrics import METRICS
from criticrm_training.evaluation.items import draw_items
from criticrm_training.stats import mean, rank_correlation
from support.scripted import Scripted, in_place_of_a_service

REWARDBENCH_ROWS: list[dict[str, Any]] = [
    {"id": 1, "prompt": "a", "chosen": "2", "rejected": "1", "subset": "alpacaeval-easy"},
    {"id": 2, "prompt": "b", "chosen": "1", "rejected": "2", "subset": "mt-bench-easy"},
    {"id": 3, "prompt": "c", "chosen": "2", "rejected": "1", "subset": "math-prm"},
    {"id": 4, "prompt": "d", "chosen": "1", "rejected": "1", "subset": "hep-python"},
]
REWARDBENCH2_ROWS: list[dict[str, Any]] = [
    {"id": "0", "prompt": "a", "chosen": ["3"], "rejected": ["1", "2", "0"], "subset": "Factuality", "num_correct": 1},
    {"id": "1", "prompt": "b", "chosen": ["2"], "rejected": ["2", "1", "0"], "subset": "Factuality", "num_correct": 1},
    {"id": "2", "prompt": "c", "chosen": ["1"], "rejected": ["2", "0", "0"], "subset": "Precise IF", "num_correct": 1},
    {"id": "ref:1", "prompt": "d", "chosen": ["0.3"], "rejected": ["0.2"], "subset": "Ties", "num_correct": 1},
    {"id": "tied:1", "prompt": "e", "chosen": ["1", "0.8"], "rejected": ["0.5"], "subset": "Ties", "num_correct": 2},
    {"id": "ref:2", "prompt": "f", "chosen": ["0"], "rejected": ["0.1"], "subset": "Ties", "num_correct": 1},
    {"id": "tied:2", "prompt": "g", "chosen": ["0.5", "1"], "rejected": ["0.2"], "subset": "Ties", "num_correct": 2},
    {"id": "ref:3", "prompt": "h", "chosen": ["4"], "rejected": ["1"], "subset": "Ties", "num_correct": 1},
    {"id": "tied:3", "prompt": "i", "chosen": ["4", "3"], "rejected": ["1"], "subset": "Ties", "num_correct": 2},
]
RM_BENCH_ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "a", "chosen": ["1", "2", "3"], "rejected": ["0", "2", "4"], "domain": "chat"},
    {"id": "b", "prompt": "b", "chosen": ["1", "1", "1"], "rejected": ["0", "0", "0"], "domain": "safety-refuse"},
    {"id": "c", "prompt": "c", "chosen": ["0", "0", "0"], "rejected": ["1", "1", "1"], "domain": "safety-response"},
]
JUDGEBENCH_ROWS: list[dict[str, Any]] = [
    {"pair_id": "x", "question": "a", "response_A": "1", "response_B": "2", "label": "B>A", "source": "mmlu-pro-law"},
    {"pair_id": "y", "question": "b", "response_A": "1", "response_B": "2", "label": "A>B", "source": "mmlu-pro-math"},
    {"pair_id": "z", "question": "c", "response_A": "3", "response_B": "2", "label": "A>B", "source": "livecodebench"},
]
ROWS = {
    "rewardbench": REWARDBENCH_ROWS,
    "rewardbench2": REWARDBENCH2_ROWS,
    "rm-bench": RM_BENCH_ROWS,
    "judgebench": JUDGEBENCH_ROWS,
}

BEGUN = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It is"}]


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def ran(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    rows: list[dict[str, Any]],
    *flags: str,
    direct: Callable[[str], float] = float,
) -> dict[str, Any]:
    monkeypatch.setattr(module, "scoring_service", in_place_of_a_service(Scripted(direct)))
    arguments = [name, str(written(tmp_path, rows)), "--out", str(tmp_path / "out"), *flags]
    assert Benchmark(_cli_parse_args=arguments).run() == 0
    report: dict[str, Any] = json.loads((tmp_path / "out" / module.RESULTS).read_text())
    return report


def values(report: dict[str, Any], method: str = "direct_score") -> dict[str, float]:
    return {metric: row[method]["value"] for metric, row in report["accuracy"].items()}


def test_rewardbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ran(tmp_path, monkeypatch, "rewardbench", REWARDBENCH_ROWS, "--samples", "1,3")
    chat, reasoning = 100 / 128, 984 / 1148
    expected = {
        "overall": (chat + reasoning) / 2,
        "Chat": chat,
        "Reasoning": reasoning,
        "alpacaeval-easy": 1,
        "mt-bench-easy": 0,
        "math-prm": 1,
        "hep-python": 0,  # a tie is no win
    }
    for method in ("direct_score", "greedy critique", "mean of 3"):
        assert values(report, method) == pytest.approx(expected)
    # Critiques 1 to 3 add as much: of one each, 2 is above 1 six times of nine, 1 above 2 once, 1 above 1 three times.
    of_one = values(report, "mean of 1")
    assert of_one["math-prm"] == pytest.approx(6 / 9, abs=0.15)
    assert of_one["mt-bench-easy"] == pytest.approx(1 / 9, abs=0.15)
    assert of_one["hep-python"] == pytest.approx(3 / 9, abs=0.15)
    assert next(iter(report["accuracy"])) == "overall"
    assert values(report, "longer wins")["overall"] == 0
    assert (report["items"], report["responses"], report["truncated"]["responses"]) == (4, 8, 0)
    assert report["accuracy"]["Chat"]["direct_score"]["n"] == 2


# Prompts of each subset, as its authors count them (Lambert et al., arXiv 2403.13787, table 1; rewardbench/constants.py
# since July 2024: before, the two xstest ones were swapped).
PROMPTS = {
    "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28, "mt-bench-med": 40,
    "mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
    "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    "refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154, "xstest-should-respond": 250,
    "donotanswer": 136,
    "math-prm": 447, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164, "hep-rust": 164,
}  # fmt: skip


def rewardbench_rows(right: Callable[[str], bool]) -> list[dict[str, Any]]:
    """A row a subset; where `right`, the chosen response scores higher."""
    sides = {True: ("2", "1"), False: ("1", "2")}
    return [
        dict(zip(("chosen", "rejected"), sides[right(s)], strict=True)) | {"id": s, "prompt": s, "subset": s}
        for s in PROMPTS
    ]


@pytest.mark.parametrize("subset", PROMPTS)
def test_the_weight_of_each_subset_is_its_prompts(subset: str) -> None:
    """But the 447 of math-prm count as much as the code of all six languages together."""
    weights = {name: weight for section in REWARDBENCH.values() for name, weight in section.items()}
    assert set(weights) == set(PROMPTS)
    assert weights[subset] == (6 * 164 if subset == "math-prm" else PROMPTS[subset])
    assert sum(PROMPTS.values()) == 2985


def test_a_model_that_always_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right but where a response is due: (740 - 250) / 740."""
    rows = rewardbench_rows(lambda subset: subset != "xstest-should-respond")
    found = values(ran(tmp_path, monkeypatch, "rewardbench", rows))
    assert found["Safety"] == pytest.approx(490 / 740) == pytest.approx(0.662, abs=5e-4)
    assert found["xstest-should-respond"] == 0
    assert found["overall"] == pytest.approx((3 + 490 / 740) / 4)


@pytest.mark.parametrize(
    ("only", "section", "expected"),
    [
        ("xstest-should-refuse", "Safety", 154 / 740),
        ("donotanswer", "Safety", 136 / 740),
        ("llmbar-adver-neighbor", "Chat Hard", 134 / 456),
        ("mt-bench-med", "Chat", 40 / 358),
        ("math-prm", "Reasoning", 1 / 2),
        ("hep-rust", "Reasoning", 1 / 12),
    ],
)
def test_one_subset_alone_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str, section: str, expected: float
) -> None:
    found = values(ran(tmp_path, monkeypatch, "rewardbench", rewardbench_rows(lambda subset: subset == only)))
    assert found[section] == pytest.approx(expected)
    assert found["overall"] == pytest.approx(expected / 4)


SAFETY = {
    "refusals-dangerous": 100,
    "refusals-offensive": 100,
    "xstest-should-refuse": 154,
    "xstest-should-respond": 250,
    "donotanswer": 136,
}


@pytest.mark.parametrize("subset", SAFETY)
def test_the_weight_of_a_subset_of_safety(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subset: str) -> None:
    """Whatever its number of rows in a file: one of four is wrong in this subset, all are right in the others."""
    rows = [
        {"id": f"{name} {i}", "prompt": f"{name} {i}", "chosen": "2", "rejected": "1", "subset": name}
        for k, name in enumerate(SAFETY)
        for i in range(4 if name == subset else k + 1)
    ]
    next(row for row in rows if row["subset"] == subset)["rejected"] = "3"
    found = values(ran(tmp_path, monkeypatch, "rewardbench", rows))
    assert found[subset] == pytest.approx(3 / 4)
    assert found["Safety"] == found["overall"] == pytest.approx(1 - SAFETY[subset] / 740 / 4)


@pytest.mark.parametrize("subset", SAFETY)
def test_safety_without_one_of_its_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subset: str) -> None:
    """The others keep their proportions."""
    first = next(name for name in SAFETY if name != subset)
    rows = [row for row in rewardbench_rows(lambda name: name == first) if row["subset"] in SAFETY.keys() - {subset}]
    found = values(ran(tmp_path, monkeypatch, "rewardbench", rows))
    assert found["Safety"] == pytest.approx(SAFETY[first] / (740 - SAFETY[subset]))
    assert subset not in found


def test_a_benchmark_that_is_all_right_has_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ran(tmp_path, monkeypatch, "rewardbench", rewardbench_rows(lambda _: True))
    for metric, row in report["accuracy"].items():
        assert row["direct_score"]["value"] == row["direct_score"]["high"] == pytest.approx(1), metric
        assert row["direct_score"]["low"] < 0.9, metric


def test_rewardbench2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = values(ran(tmp_path, monkeypatch, "rewardbench2", REWARDBENCH2_ROWS))
    # Gap, spread, gap of the ref: 0.3, 0.2, 0.1 of the first question; 0.3, 0.5, -0.1; 2, 1, 3.
    wider = (math.tanh(0.1 / 0.2 - 1) + math.tanh(-0.1 / 0.5 - 1) + math.tanh(2 / 1 - 1)) / 3
    ties = 0.3 * 1 + 0.3 * 2 / 3 + 0.2 * 2 / 3 + 0.2 * 1 / 3 + 0.01 * wider
    assert found["Factuality"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["Precise IF"] == 0
    assert found["Ties"] == pytest.approx(ties)
    assert found["Ties: ref"] == pytest.approx(2 / 3)
    assert found["overall"] == pytest.approx((0.75 + 0 + ties) / 3)


@pytest.mark.parametrize(("ref", "wider"), [("2", 1), ("0.5", 0), ("0", -1)])
def test_correct_responses_that_score_the_same_have_no_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str, wider: float
) -> None:
    rows = [
        {"id": "ref:1", "prompt": "a", "chosen": [ref], "rejected": ["0.5"], "subset": "Ties"},
        {"id": "tied:1", "prompt": "b", "chosen": ["1", "1"], "rejected": ["0.5"], "subset": "Ties"},
    ]
    assert values(ran(tmp_path, monkeypatch, "rewardbench2", rows))["Ties: how much wider"] == wider


def test_a_question_that_is_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="the subset Ties holds ref:1 twice"):
        ran(tmp_path, monkeypatch, "rewardbench2", [*REWARDBENCH2_ROWS, REWARDBENCH2_ROWS[3]])


def test_ties_without_their_fellows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="holds no question both as ref and as tied"):
        ran(tmp_path, monkeypatch, "rewardbench2", REWARDBENCH2_ROWS[:4])


def test_rm_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = values(ran(tmp_path, monkeypatch, "rm-bench", RM_BENCH_ROWS))
    # chat: 1>0 2=2 3<4 in the same style; 1<2 1<4 2<4 against fancier ones; 2>0 3>0 3>2 against plainer ones.
    chat = (1 / 3 + 0 + 1) / 3
    assert found["chat: normal"] == pytest.approx(1 / 3)
    assert found["chat: hard"] == 0
    assert found["chat: easy"] == 1
    assert found["chat"] == pytest.approx(chat)
    assert found["safety"] == 0.5
    assert found["normal"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["hard"] == pytest.approx((0 + 1 / 2) / 2)
    assert found["easy"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["overall"] == pytest.approx((chat + 0.5) / 2)


def test_responses_that_were_cut_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ran(tmp_path, monkeypatch, "judgebench", [JUDGEBENCH_ROWS[0] | {"response_A": "long"}], direct=len)
    assert report["truncated"] == {"responses": 1, "of": 2, "share": 0.5}


def test_judgebench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = values(ran(tmp_path, monkeypatch, "judgebench", JUDGEBENCH_ROWS))
    assert found == pytest.approx({"overall": 2 / 3, "Knowledge": 1 / 2, "Coding": 1})


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("rewardbench", {"subset": "chat"}, "row 1: subset: 'chat' is none of alpacaeval-easy"),
        ("rewardbench", {"chosen": 3}, "row 1: chosen: int, not text"),
        ("rewardbench", {"prompt": None}, "row 1: prompt: neither text nor a list of messages"),
        ("rewardbench", {"prompt": BEGUN}, "row 1: prompt: its last message is the assistant's, and so are the resp"),
        ("judgebench", {"question": BEGUN}, "row 1: question: its last message is the assistant's"),
        ("rewardbench2", {"rejected": "2"}, "row 1: rejected: not a list of texts"),
        ("rewardbench2", {"num_correct": 2}, "row 1: num_correct: 2, but chosen holds 1"),
        ("rewardbench2", {"subset": "Ties"}, "row 1: id: '0' is neither 'ref:' nor 'tied:' and a number"),
        ("rewardbench2", {"subset": "Ties", "id": "tied:1"}, "row 1: chosen: a tied question has several correct"),
        ("rm-bench", {"chosen": ["1", "2"]}, "row 1: chosen: 2 responses, not one in each of the 3 styles"),
        ("rm-bench", {"domain": "poems"}, "row 1: domain: 'poems' begins with none of chat"),
        ("judgebench", {"label": "A=B"}, "row 1: label: 'A=B' is neither"),
        ("judgebench", {"source": "gsm8k"}, "row 1: source: 'gsm8k' begins with none of mmlu-pro"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_items(name, written(tmp_path, [ROWS[name][0] | change]))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_is_no_object_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="row 2: a row is an object with fields, not list"):
        read_items(name, written(tmp_path, [ROWS[name][0], ["Why?", "So."]]))


def test_a_prompt_that_only_opens_the_answer_is_read(tmp_path: Path) -> None:
    opened = [*BEGUN[:1], {"role": "assistant", "content": ""}]
    (item,) = read_items("rewardbench", written(tmp_path, [ROWS["rewardbench"][0] | {"prompt": opened}]))
    assert item.prompt == tuple(BEGUN[:1])


@pytest.mark.parametrize("name", ROWS)
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    for field in set(ROWS[name][0]) - {"id", "pair_id", "num_correct"}:
        row = {key: value for key, value in ROWS[name][0].items() if key != field}
        with pytest.raises(DataError, match=f"row 1: no field '{field}'"):
            read_items(name, written(tmp_path, [row]))


def test_every_kind_of_file(tmp_path: Path) -> None:
    lines = read_items("rm-bench", written(tmp_path, RM_BENCH_ROWS))
    whole = tmp_path / "total_dataset.json"  # as its authors have it: one list
    whole.write_text(json.dumps(RM_BENCH_ROWS, indent=1))
    pq.write_table(pa.Table.from_pylist(RM_BENCH_ROWS), tmp_path / "rows.parquet")
    assert lines == read_items("rm-bench", whole) == read_items("rm-bench", tmp_path / "rows.parquet")
    whole.write_text('[{"id": ')
    with pytest.raises(DataError, match=r"total_dataset\.json: not JSON"):
        read_items("rm-bench", whole)


def test_a_limit_splits_no_group(tmp_path: Path) -> None:
    items = read_items("rewardbench2", written(tmp_path, REWARDBENCH2_ROWS))
    assert sorted(item.id for item in draw_items(items, 0)) == sorted(item.id for item in items)
    for limit in range(1, 9):
        kept = [item.id for item in draw_items(items, limit)]
        assert limit <= len(kept) <= limit + 1
        for number in "123":
            assert (f"ref:{number}" in kept) == (f"tied:{number}" in kept)


def test_every_format_has_its_metrics() -> None:
    assert set(FORMATS) == set(METRICS) == set(ROWS)
    with pytest.raises(ValueError, match="'rewardbench', 'rewardbench2', 'rm-bench' or 'judgebench'"):
        Benchmark(_cli_parse_args=["mt-bench", "--out", "x"])


def test_intervals() -> None:
    half = mean([0.0, 1.0] * 50, [str(i) for i in range(100)])
    assert half.value == 0.5
    assert half.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01)  # the standard error of 100 fair coins is 0.05
    assert half.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.01)
    together = mean([0.0, 1.0] * 50, [str(i // 4) for i in range(100)])
    unseen = 1.96**2 / (25 + 1.96**2)  # every one of 25 groups is half right, which is not all of them
    assert (together.low, together.high) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2), abs=1e-4)


def test_rank_correlation() -> None:
    groups = list("abcd")
    found = rank_correlation([10, 20, 30, 40], [1, 9, 4, 16], groups)
    assert found is not None
    assert found.value == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert -1 <= found.low < 0.8 < found.high <= 1
    ties = rank_correlation([1, 1, 2], [1, 2, 3], list("abc"))
    assert ties is not None
    assert ties.value == pytest.approx(math.sqrt(0.75))
    assert rank_correlation([1, 1, 1], [1, 2, 3], list("abc")) is None
    up = rank_correlation(np.arange(50.0), np.arange(50.0) ** 3, [str(i) for i in range(50)])
    assert up is not None
    assert (up.value, up.high) == pytest.approx((1, 1))
    assert 0.8 < up.low < 0.9


@pytest.mark.filterwarnings("ignore:unclosed")
def test_both_commands_through_a_server(opened_checkpoint: Checkpoint, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {'x' * i}"} for i in range(8)]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    with serving(opened_checkpoint) as url:
        data = str(written(tmp_path, REWARDBENCH2_ROWS))
        arguments = ["rewardbench2", data, "--out", str(tmp_path / "b"), "--url", url, "--samples", "2"]
        assert Benchmark(_cli_parse_args=arguments).run() == 0
        assert Probe(_cli_parse_args=[str(pairs), "--out", str(tmp_path / "p"), "--url", url]).run() == 0
    report = json.loads((tmp_path / "b" / "benchmark.json").read_text())
    assert set(report["accuracy"]["overall"]) == {"longer wins", "direct_score", "greedy critique", "mean of 2"}
    probed = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert probed["pairs"] == 8
    assert probed["methods"]["direct_score"]["keys"]["(empty)"]["warnings"] == ["empty_response"]
