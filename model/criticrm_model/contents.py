"""Tokenises what callers write: never into a control token, and no more of it than can fit."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .errors import UnsupportedModel

# Of a longer text a part is tokenised first, which settles for nearly every text whether it is too long. How many
# characters are a token differs (4 in English, over 100 in a run of spaces), so it is counted and not assumed.
_CHARACTERS_A_TOKEN = 8
_ALWAYS_WHOLE = 16_384  # characters, some 5 ms
_BYTES_A_CHARACTER = 4  # each a token where the vocabulary has no better one


class ContentTokenizer:
    """The tokenizer without its control tokens; thread-safe.

    `split_special_tokens` covers only the tokens marked special; `<think>` in Qwen's tokenizer, for one, is not.

    Raises:
        UnsupportedModel: its vocabulary spells a control token by itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control_ids: frozenset[int]) -> None:
        self._whole = tokenizer
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        added = spec["added_tokens"] or []
        spec["added_tokens"] = [token for token in added if token["id"] not in control_ids]
        spec.update(post_processor=None, padding=None, truncation=None)
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        # A text that is cut inside a word has other tokens beside the cut, at worst the bytes of one that was cut.
        self._changed_by_a_cut = _BYTES_A_CHARACTER * max(map(len, self._tokenizer.get_vocab()))
        # A vocabulary that spells a control token by itself (ignore_merges, Unigram) would let one through.
        for token_id in control_ids:
            token = tokenizer.added_tokens_decoder[token_id].content
            if token_id in self.tokenize(token):
                raise UnsupportedModel(
                    f"this tokenizer turns the text {token!r} into a control token; a caller could inject it"
                )

    def tokenize(self, text: str) -> list[int]:
        return self.tokenize_all([text])[0] if text else []

    def tokenize_all(self, texts: list[str]) -> list[list[int]]:
        # Unlike `encode`, it lets other threads run meanwhile, and it leaves out the offsets.
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of what a model wrote, without special tokens."""
        if self._whole.clean_up_tokenization_spaces:
            return str(self._whole.decode(list(token_ids), skip_special_tokens=True))
        # What it calls, without its checks of every token's type, which take longer.
        return str(self._whole.backend_tokenizer.decode(token_ids, skip_special_tokens=True))

    def tokenize_beginnings(self, texts: Sequence[str], most: int | None) -> list[tuple[list[int], bool]]:
        """For each text its tokens and True, or the first of them and False where they are more than `most`.

        The first are more than `most` too. The cost is in proportion to `most`, however long a text is. None is no
        bound.
        """
        if most is None or max(map(len, texts)) <= _part_size(most):
            return [(ids, True) for ids in self.tokenize_all(list(texts))]
        return [self._tokenize_part(text, most, from_end=False) for text in texts]

    def tokenize_end(self, text: str, most: int | None) -> tuple[list[int], bool]:
        """As `tokenize_beginnings`, of one text, with the last tokens."""
        return self._tokenize_part(text, most, from_end=True)

    def _tokenize_part(self, text: str, most: int | None, *, from_end: bool) -> tuple[list[int], bool]:
        if most is not None:
            size = _part_size(most)
            while size < len(text):
                ids = self.tokenize(text[-size:] if from_end else text[:size])
                if len(ids) > most + max(most // 4, self._changed_by_a_cut):
                    return ids, False
                size *= 2
        return self.tokenize(text), True


def _part_size(most: int) -> int:
    """Characters of a text that are tokenised first."""
    return max(_CHARACTERS_A_TOKEN * most, _ALWAYS_WHOLE)


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Added tokens a content must never turn into: the special ones, and those the template itself writes.

    Other added tokens are ordinary text (Gemma adds runs of spaces and HTML tags) and stay available to contents.
    """
    template = str(tokenizer.chat_template)
    return frozenset(
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content.strip() and token.content in template)
    )
