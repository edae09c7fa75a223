"""The table of accuracies: every number under its own method, and no category lost."""

from __future__ import annotations

import math

from criticrm_training.data.pairs import PreferencePair
from criticrm_training.tables import accuracy_report, as_table


def pair(number: int, category: str) -> PreferencePair:
    return PreferencePair(
        str(number), ({"role": "user", "content": f"Q{number}"},), "good one", "bad", category, f"q{number}"
    )


PAIRS = [pair(0, "math"), pair(1, "math"), pair(2, "code")]


def test_a_method_without_a_category_leaves_its_cell_empty() -> None:
    report = accuracy_report(PAIRS, {"forced": [math.nan, math.nan, 0.0], "direct": [1.0, 0.0, -1.0]}, None)
    assert report["accuracy"]["math"].keys() == {"longer wins", "direct"}
    assert report["accuracy"]["math"]["direct"]["value"] == 0.75
    assert report["accuracy"]["overall"]["forced"]["n"] == 1
    header, *rows = as_table({"m": report}).splitlines()[2:]
    row = next(row for row in rows if row.startswith("math"))
    assert row[header.index("forced") :].split()[0] == "-"
    assert row[header.index("direct") :].startswith("0.750 [")


def test_a_category_of_one_pair_has_a_wide_interval() -> None:
    code = accuracy_report(PAIRS, {"direct": [1.0, 0.0, -1.0]}, None)["accuracy"]["code"]["direct"]
    assert (code["value"], code["low"], code["n"]) == (0, 0, 1)
    assert 0.79 < code["high"] < 0.8


def test_methods_that_scored_fewer_pairs_say_so() -> None:
    overall = accuracy_report(PAIRS, {"direct": [1.0, -1.0]}, None)["accuracy"]["overall"]
    assert (overall["longer wins"]["n"], overall["direct"]["n"]) == (3, 2)


def test_a_category_named_overall_does_not_replace_the_total() -> None:
    report = accuracy_report([pair(0, "overall"), pair(1, "math")], {"direct": [1.0, -1.0]}, None)
    assert report["accuracy"].keys() == {"overall", "math"}
    assert report["accuracy"]["overall"]["direct"]["n"] == 2
