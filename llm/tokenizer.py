"""Text as tokens: characters, words, files of the `tokenizers` library, tokenizers of Hugging Face by path.

All have one face: `vocabulary`, the numbers `eos` and `bos` (None where there is none), `encode(text) -> list[int]`,
which adds nothing to the text, and `decode(ids) -> str`, which leaves out special tokens and PAD. Without an end token
no answer could end: such a tokenizer is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fenchel.errors import UserError

EOS, UNKNOWN = "<eos>", "<unk>"
ENDS = (EOS, "</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "[EOS]", "[SEP]")
BEGINNINGS = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "[CLS]")
WORD = re.compile(r"\w+|[^\w\s]")


class Tokenizer(Protocol):
    vocabulary: int
    eos: int
    bos: int | None

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class Symbols:
    """A list of symbols, token 0 the end. by: "character", or "word" (and signs, which decode with spaces between)."""

    eos, bos = 0, None

    def __init__(self, symbols: Sequence[str], by: str = "character"):
        self.symbols, self.by = [EOS, *symbols], by
        self.vocabulary, self.number = len(self.symbols), {symbol: i for i, symbol in enumerate(self.symbols)}
        if len(self.number) < self.vocabulary:
            raise UserError("The symbols of a tokenizer must differ, and none may be <eos>.")

    def encode(self, text: str) -> list[int]:
        """Raises UserError for a character that is not in the list; a word that is not is <unk>, if that is one."""
        units = list(text) if self.by == "character" else WORD.findall(text)
        if UNKNOWN not in self.number:
            for unit in units:
                if unit not in self.number:
                    raise UserError(f"{self.by} {unit!r} is not in the tokenizer's list of {self.vocabulary - 1}.")
        return [self.number[unit if unit in self.number else UNKNOWN] for unit in units]

    def decode(self, ids: Iterable[int]) -> str:
        return ("" if self.by == "character" else " ").join(self.symbols[i] for i in ids if i > 0)


def characters(texts: Iterable[str]) -> Symbols:
    """All characters of some texts, in order."""
    return Symbols(sorted(set().union(*texts)))


def words(texts: Iterable[str], size: int | None = None) -> Symbols:
    """The `size` commonest words and signs of some texts, and <unk> for the others."""
    counts = Counter(word for text in texts for word in WORD.findall(text))
    return Symbols([UNKNOWN, *sorted(counts, key=lambda word: (-counts[word], word))[:size]], by="word")


class File:
    """A tokenizer of the `tokenizers` library from its JSON file. eos, bos: tokens; by default the usual ones."""

    def __init__(self, path: str | Path, eos: str | None = None, bos: str | None = None):
        try:
            from tokenizers import Tokenizer as Fast
        except ImportError:
            raise UserError("tokenizer files need tokenizers; pip install 'fenchel[llm]'.") from None
        if not Path(path).is_file():
            raise UserError(f"tokenizer={path} is not there.")
        try:
            self.inner: Any = Fast.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"tokenizer={path} is no file of the tokenizers library ({error}).") from None
        self.vocabulary = self.inner.get_vocab_size()
        self.eos = _end(f"tokenizer={path}", eos, self._first([eos] if eos else ENDS))
        self.bos = self._first([bos] if bos else BEGINNINGS)

    def _first(self, tokens: Iterable[str]) -> int | None:
        return next((i for i in map(self.inner.token_to_id, tokens) if i is not None), None)

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self.inner.decode([i for i in ids if i >= 0 and i != self.eos], skip_special_tokens=True)


class HuggingFaceTokenizer:
    """A tokenizer of Hugging Face by folder or name; code that stands in a repository is not executed. name: what a
    refusal calls it."""

    def __init__(self, path: str | Path, name: str = "tokenizer"):
        try:
            from transformers import AutoTokenizer
        except ImportError:
            raise UserError("tokenizer folders need transformers; pip install 'fenchel[llm]'.") from None
        try:
            self.inner: Any = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise UserError(f"{name}={path} cannot be read: {reason}.") from None
        self.vocabulary, self.bos = len(self.inner), self.inner.bos_token_id
        self.eos = _end(f"{name}={path}", None, self.inner.eos_token_id)

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False)

    def decode(self, ids: Iterable[int]) -> str:
        known = [i for i in ids if 0 <= i < self.vocabulary]
        return self.inner.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def load_tokenizer(path: str | Path, **options: Any) -> Tokenizer:
    """A `.json` file of the `tokenizers` library, or a folder or name of Hugging Face."""
    return File(path, **options) if str(path).endswith(".json") else HuggingFaceTokenizer(path, **options)


def _end(what: str, given: str | None, found: int | None) -> int:
    if found is None:
        why = f"eos={given} is not one of its tokens" if given else "it has no end token, so that no answer could end"
        raise UserError(f"{what} is not valid: {why}.")
    return found
