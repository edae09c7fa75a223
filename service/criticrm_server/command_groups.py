"""What `criticrm --help` prints; it works without any of the packages that the commands need."""

from __future__ import annotations

from collections.abc import Mapping

# By what they are for, as `criticrm --help` shows them, each with an example. Commands of other packages come last.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "serve": ("criticrm serve default --port 8000", ("quickstart", "serve")),
    "score": ("criticrm score in.jsonl out.jsonl", ("score",)),
    "train": (
        "criticrm rounds my-rounds.yaml --out rounds",
        ("import", "fit-head", "decontaminate", "control", "critiques", "rounds", "train"),
    ),
    "measure": (
        "criticrm evaluate heldout.jsonl --model default --out evaluated",
        ("evaluate", "judge", "benchmark", "probe", "best-of-n", "correct", "report"),
    ),
    "operate": ("criticrm doctor default", ("doctor", "verify", "default", "export", "completion")),
}
EXIT_CODES = "0 done, 1 failed, with the reason, 2 a wrong call, 3 the engine died (serve), 130 interrupted"


def usage(summaries: Mapping[str, str]) -> str:
    """Args: summaries: a line for each command, by its name."""
    grouped = {name for _, names in GROUPS.values() for name in names}
    groups = {group: (example, [n for n in names if n in summaries]) for group, (example, names) in GROUPS.items()}
    if others := sorted(summaries.keys() - grouped):
        groups["other packages"] = ("", others)
    width = max(map(len, summaries)) + 2
    lines = ["criticrm: a reward model that writes a critique, then a scalar reward", ""]
    lines += ["usage: criticrm COMMAND [options]"]
    for group, (example, names) in groups.items():
        if names:
            lines += ["", f"{group}:" + (f"  {example}" if example else "")]
            lines += [f"  {name:<{width}}{summaries[name]}" for name in names]
    lines += ["", "`criticrm COMMAND --help` lists a command's options. Start with: criticrm quickstart"]
    lines += [f"exit codes: {EXIT_CODES}"]
    return "\n".join(lines)
