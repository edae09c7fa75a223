"""The reward after critiques that are there already, against writing as many: one server, by turns.

Four responses to one prompt, 16 critiques each. A round writes critiques of one prompt and reads the reward after the
same texts behind another prompt, so that nothing of them is in the prefix cache.

figure, a ratio of time within one run:
  supplied  seconds to write and score 64 critiques : seconds to read the reward after 64

How large it can be is the machine's: a GPU reads a prompt's tokens tens of times faster than it writes as many, a CPU
whose cores are busy with a batch of 64 hardly faster.

Prints a table, then one line of JSON with every round, the workload and the machine.

examples:
  python benchmarks/supplied.py --rounds 1 --critique-tokens 16
  python benchmarks/supplied.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import environment, pair_ratios, post_all, print_table, running, say, serve_command

PORT, RESPONSES, CRITIQUES = 8187, 4, 16


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", metavar="NAME", help="folder, or the embedded one (default)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="counted rounds, after one to warm up (3)")
    parser.add_argument("--critique-tokens", type=int, default=96, metavar="N", help="longest critique (96)")
    return parser.parse_args()


def question(number: int) -> dict[str, Any]:
    a, b = 17 + number, 25 + 3 * number
    answers = [a + b, a + b + 1, a * b, a - b]
    return {"prompt": f"Start with {a}, add {b}. What is the result?", "responses": [f"It is {n}." for n in answers]}


def main() -> None:
    arguments = parse()
    described = environment()
    url = f"http://127.0.0.1:{PORT}"
    written_s, read_s, tokens = [], [], 0
    with tempfile.TemporaryDirectory(prefix="criticrm-bench-") as scratch:
        say("starting the server")
        command = serve_command(arguments.model, PORT, "--prefix-caching", "true")
        with running(command, f"{url}/health/ready", Path(scratch) / "serve.log"):
            for number in range(arguments.rounds + 1):
                say(f"round {number} of {arguments.rounds}" if number else "warming up")
                options = {"n": CRITIQUES, "max_tokens": arguments.critique_tokens, "seed": number}
                writing_s, (written,) = post_all(f"{url}/score", [question(2 * number) | {"critique": options}], 1)
                critiques = [
                    [{"text": c["text"], "finish_reason": c["finish_reason"]} for c in result["critiques"]]
                    for result in written["results"]
                ]
                body = question(2 * number + 1) | {"critiques": critiques}
                reading_s, (read,) = post_all(f"{url}/score", [body], 1)
                assert sum(len(result["critiques"]) for result in read["results"]) == RESPONSES * CRITIQUES
                if number:  # after a warm-up
                    written_s.append(writing_s)
                    read_s.append(reading_s)
                    tokens += sum(c["tokens"] for result in written["results"] for c in result["critiques"])
    figures = {
        "supplied": {
            **pair_ratios(written_s, read_s),
            "what": "seconds, 64 critiques written : 64 supplied",
            "target": ">= 10",
            "written_s": written_s,
            "supplied_s": read_s,
            "critique_tokens": tokens / arguments.rounds,
        }
    }
    print_table(figures)
    print(json.dumps({"environment": described, "workload": vars(arguments), "figures": figures}))


if __name__ == "__main__":
    main()
