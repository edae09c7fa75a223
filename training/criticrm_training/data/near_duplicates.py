"""Texts that say nearly the same: word n-grams, MinHash and locality-sensitive hashing (Broder 1997).

datasketch does this for texts that arrive one by one, in Python a text; here all texts are at hand, and NumPy takes
seconds for 100,000 of them. All hashes are of the words alone, so nothing depends on the order of the texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Hashes = NDArray[np.uint64]

SIMILAR = 0.7  # share of the word 3-grams of two texts that are in both
_WORDS = 3
_BANDS, _ROWS = 20, 4  # of two texts with a share of 0.7, 99.6 % meet in a band; of 0.3, 15 %
_COMMON = 0.05  # word sequences in more than this share of the texts are wording of a template
_LEAST_COMMON = 20  # texts; in small sets there is no telling
# Chinese, Japanese and Korean put no spaces between words: a character counts as one.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+")
# Signs of arithmetic, where a number or a bracket follows: "12 + 7" and "12 - 7" are two questions.
_WORD_OR_SIGN = re.compile(rf"{_WORD.pattern}|[-+*/^=<>\u2212\xd7\xf7](?=\s*[\d(.])")


def normalized_words(text: str) -> list[str]:
    """The words of a text, Unicode forms and case folded, without punctuation; a CJK character is a word."""
    return _words(text, _WORD)


def _words(text: str, word: re.Pattern[str]) -> list[str]:
    return word.findall(unicodedata.normalize("NFKC", text).casefold())


def ngram_hashes(words: Sequence[str], n: int, known: dict[str, int] | None = None) -> Hashes:
    """A hash of each run of n words, `[len(words) - n + 1]` uint64; of fewer than n words, one of them all.

    Args:
        known: hashes of words, kept from text to text to save time.
    """
    known = {} if known is None else known
    hashed = np.array([known[w] if w in known else known.setdefault(w, _hash(w)) for w in words], dtype=np.uint64)
    n = min(n, len(words))
    found = np.zeros(max(len(words) - n + 1, 0) if n else 0, dtype=np.uint64)
    for i in range(n):  # a polynomial in an odd number, modulo 2^64
        found = found * np.uint64(0x9E3779B97F4A7C15) + hashed[i : i + len(found)]
    return _mix(found)


def near_duplicates(texts: Sequence[str], label: str | None = None) -> Iterator[tuple[int, int]]:
    """Places of two texts that share at least `SIMILAR` of their word 3-grams (Jaccard); those of the same words too.

    Signs of arithmetic count as words. Runs of words that are in more than 5 % of the texts, and in more than 20 of
    them, do not count: they are a template's. Pairs that others connect already are left out.

    Args:
        label: of a progress bar; None shows none.
    """
    known: dict[str, int] = {}
    reading = tqdm(texts, desc=label, unit="text", disable=label is None)
    grams = [np.unique(ngram_hashes(_words(text, _WORD_OR_SIGN), _WORDS, known)) for text in reading]
    connected = Components(len(texts))
    by_content: dict[bytes, int] = {}
    for i, found in enumerate(grams):
        if len(found):
            first = by_content.setdefault(found.tobytes(), i)
            if connected.join(first, i):
                yield first, i
    places = sorted(by_content.values())  # of texts that differ
    rest = _without_common([grams[i] for i in places])
    at = [k for k, found in enumerate(rest) if len(found)]
    signatures = _signatures([rest[k] for k in at])
    for bucket in _buckets(signatures):
        for one, other in combinations(bucket, 2):
            i, j = places[at[one]], places[at[other]]
            if not connected.same(i, j) and _jaccard(rest[at[one]], rest[at[other]]) >= SIMILAR:
                connected.join(i, j)
                yield i, j


def is_among(values: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Which of `values`, `[n]`, are in `known`, which is sorted: `np.isin` would sort it in each call."""
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    places = np.searchsorted(known, values).clip(max=len(known) - 1)
    found: NDArray[np.bool_] = known[places] == values
    return found


class Components:
    """Which of n things are connected (union-find)."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, i: int) -> int:
        """The one that stands for all that `i` is connected with."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def same(self, i: int, j: int) -> bool:
        return self.find(i) == self.find(j)

    def join(self, i: int, j: int) -> bool:
        """Connect them; False if they were."""
        i, j = self.find(i), self.find(j)
        self._parent[max(i, j)] = min(i, j)
        return i != j


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _mix(x: Hashes) -> Hashes:
    """Spread the bits (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def _without_common(grams: list[Hashes]) -> list[Hashes]:
    if not grams:
        return []
    values, counts = np.unique(np.concatenate(grams), return_counts=True)
    common = values[counts > max(_LEAST_COMMON, _COMMON * len(grams))]
    return [found[~is_among(found, common)] for found in grams]


def _signatures(grams: list[Hashes]) -> Hashes:
    """MinHash: `[texts, bands * rows]`; two texts agree in an entry with the probability of their Jaccard."""
    if not grams:
        return np.empty((0, _BANDS * _ROWS), dtype=np.uint64)
    every = np.concatenate(grams)
    starts = np.cumsum([0, *map(len, grams[:-1])])
    draw = np.random.default_rng(0).integers(0, 2**63, size=(_BANDS * _ROWS, 2), dtype=np.uint64)
    columns = [np.minimum.reduceat(every * (2 * a + 1) + b, starts) for a, b in draw]  # modulo 2^64
    return np.stack(columns, axis=1)


def _buckets(signatures: Hashes) -> Iterator[list[int]]:
    """Texts that agree in a whole band."""
    for band in range(_BANDS):
        members: dict[bytes, list[int]] = defaultdict(list)
        for i, entries in enumerate(np.ascontiguousarray(signatures[:, band * _ROWS : (band + 1) * _ROWS])):
            members[entries.tobytes()].append(i)
        yield from (bucket for bucket in members.values() if len(bucket) > 1)


def _jaccard(a: Hashes, b: Hashes) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
