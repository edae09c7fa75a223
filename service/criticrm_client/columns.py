"""Which columns of a row are scored, and which it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .arguments import lost_field
from .errors import FileError
from .schemas import Item, Result
from .score_many import as_item
from .tables import Row

_ADDED = ("score", "direct_score", "score_std", "status", "critiques", "warnings")
_REWARDS = "rewards"  # of a model with several
_BY_CRITERION = "criterion_scores"  # where a column with criteria is named; null for a row without a list of them


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a row that are scored. None: the column with a usual name, in brackets below.

    Attributes:
        prompt: text or messages ("prompt").
        response: one text ("response", "completion"); its row gets one score.
        responses: a list of texts ("responses"); the row gets a list of scores, and `best`, the index of the highest.
        messages: a whole conversation that ends with the response, instead of the others ("messages").
        prefix: of the names of the columns that are added.
        criteria: what to judge by, a text or a list of texts; only where it is named here.
        reference: a correct answer; only where it is named here.
    """

    prompt: str | None = None
    response: str | None = None
    responses: str | None = None
    messages: str | None = None
    prefix: str = ""
    criteria: str | None = None
    reference: str | None = None

    def found_in(self, row: Row) -> Columns:
        """Raises FileError."""
        given = [self.prompt, self.response, self.responses, self.messages]
        for name in (*given, self.criteria, self.reference):
            if name is not None and name not in row:
                raise FileError(f"no column {name!r}; there are: {', '.join(row)}")
        if sum(name is not None for name in given[1:]) > 1:
            raise FileError("give one of the columns response, responses and messages")
        if self.messages and self.prompt:
            raise FileError("give the column messages alone, for it holds the prompt too, or prompt and response")
        if self.messages or (not any(given) and "messages" in row and "prompt" not in row):
            return replace(self, messages=self.messages or "messages")
        prompt = self.prompt or "prompt"
        response, responses = self.response, self.responses
        if not response and not responses:
            response = next((name for name in ("response", "completion") if name in row), None)
            responses = None if response else "responses"
        for name in (prompt, response or responses):
            if name not in row:
                raise FileError(f"no column {name!r}; there are: {', '.join(row)}. Say which to use (columns)")
        return replace(self, prompt=prompt, response=response, responses=responses)

    def item(self, row: Row) -> Item:
        """Raises ValueError, with what is wrong with the row."""
        wanted = [name for name in (self.prompt, self.response, self.responses, self.messages) if name]
        for name in wanted:
            if row.get(name) is None:
                raise ValueError(f"{name}: missing")
        if self.messages:
            turns = row[self.messages]
            last = turns[-1] if isinstance(turns, list) and len(turns) > 1 else None
            if not isinstance(last, dict) or last.get("role") != "assistant":
                raise ValueError(f"{self.messages}: must be a conversation that ends with the assistant's response")
            if lost := lost_field(last):
                raise ValueError(
                    f"{self.messages}[{len(turns) - 1}]: {lost} would be lost: put what it says into the content"
                )
            return as_item({"prompt": turns[:-1], "responses": [last.get("content")], **self._judged_by(row)})
        responses = [row[self.response]] if self.response else row[self.responses or ""]
        return as_item({"prompt": row[self.prompt or ""], "responses": responses, **self._judged_by(row)})

    def _judged_by(self, row: Row) -> Row:
        """A row may have none."""
        named = {"criteria": self.criteria, "reference": self.reference}
        return {field: row[name] for field, name in named.items() if name and row.get(name) is not None}

    def added(self, results: Sequence[Result]) -> Row:
        """The columns that a row gets."""
        each = [self._of_response(result) for result in results]
        if not self.responses:
            return {self.prefix + name: value for name, value in each[0].items()}
        scores = [result.reward for result in results]
        lists = {self.prefix + name: [one[name] for one in each] for name in each[0]}
        return {**lists, f"{self.prefix}best": scores.index(max(scores))}

    def example(self, rewards: Sequence[str] = ()) -> Row:
        """`added` with nothing empty in it, for its types.

        Args:
            rewards: names, of a model with several.
        """
        critique: Row = {"text": "", "score": 0.0, "finish_reason": "", "tokens": 0}
        if self.criteria:
            critique["criterion"] = 0
        one: Row = dict(zip(_ADDED, (0.0, 0.0, 0.0, "", [critique], [""]), strict=True))
        if rewards:
            one[_REWARDS] = {name: {"score": 0.0, "direct_score": 0.0} for name in rewards}
        if self.criteria:
            by_criterion = {"criterion": "", "weight": 0.0, "score": 0.0, "direct_score": 0.0, "score_std": 0.0}
            one[_BY_CRITERION] = [by_criterion]
        if not self.responses:
            return {self.prefix + name: value for name, value in one.items()}
        return {**{self.prefix + name: [value] for name, value in one.items()}, f"{self.prefix}best": 0}

    def _of_response(self, result: Result) -> Row:
        critiques = [critique.model_dump(exclude={"trace"}) for critique in result.critiques]
        if not self.criteria:
            for critique in critiques:
                del critique["criterion"]
        values = (result.reward, result.direct_score, result.score_std, result.status, critiques, result.warnings)
        row: Row = dict(zip(_ADDED, values, strict=True))
        if result.rewards is not None:
            row[_REWARDS] = {name: reward.model_dump() for name, reward in result.rewards.items()}
        if self.criteria:
            several = result.criteria
            row[_BY_CRITERION] = None if several is None else [criterion.model_dump() for criterion in several]
        return row


DEFAULT_COLUMNS = Columns()
