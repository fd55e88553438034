"""Text to tokens and back, and tokenizers that are refused."""

from __future__ import annotations

import pytest

from fenchel.errors import UserError
from fenchel.llm.sequences import PAD
from fenchel.llm.tokenizer import Symbols, characters, load_tokenizer, words

TEXTS = ["Anna has 3 apples.", "3 + 4 = 7"]


def save(folder, specials):
    """A word-level file of the tokenizers library."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {token: i for i, token in enumerate([*specials, "<unk>", "a", "b", "c"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(list(specials))
    path = folder / "tokenizer.json"
    inner.save(str(path))
    return path


def test_characters():
    tokenizer = characters(TEXTS)
    assert tokenizer.vocabulary == len(set("".join(TEXTS))) + 1
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert 0 not in ids
        assert tokenizer.decode([*ids, tokenizer.eos, PAD, PAD]) == text
    with pytest.raises(UserError, match="character 'z' is not in the tokenizer's list"):
        tokenizer.encode("z")


def test_words():
    tokenizer = words([*TEXTS, "3"], size=3)
    assert tokenizer.symbols == ["<eos>", "<unk>", "3", "+", "."]  # by frequency, then by name
    assert tokenizer.decode(tokenizer.encode("3 + 4.")) == "3 + <unk> ."
    assert words(TEXTS).vocabulary == 2 + len({"Anna", "has", "3", "apples", ".", "+", "4", "=", "7"})
    with pytest.raises(UserError, match="must differ"):
        Symbols(["a", "a"])


def test_files(tmp_path):
    tokenizer = load_tokenizer(save(tmp_path, ["</s>", "<s>"]))
    assert (tokenizer.eos, tokenizer.bos, tokenizer.vocabulary) == (0, 1, 6)
    ids = tokenizer.encode("b a z")
    assert ids == [4, 3, 2]
    assert tokenizer.decode([*ids[:2], 0, PAD]) == "b a"
    assert load_tokenizer(tmp_path / "tokenizer.json", eos="c").eos == 5


def test_folders(tmp_path):
    transformers = pytest.importorskip("transformers")
    path = save(tmp_path, ["</s>", "<s>"])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "folder")
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert (tokenizer.eos, tokenizer.bos, tokenizer.vocabulary) == (0, None, 6)
    assert tokenizer.encode("b a") == [4, 3]
    assert tokenizer.decode([4, 3, 0, PAD]) == "b a"


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    sentence = "it has no end token, so that no answer could end"
    with pytest.raises(UserError, match=sentence):
        load_tokenizer(save(tmp_path, ["<s>"]))
    with pytest.raises(UserError, match="eos=nothing is not one of its tokens"):
        load_tokenizer(tmp_path / "tokenizer.json", eos="nothing")
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), unk_token="<unk>")
    fast.save_pretrained(tmp_path / "folder")
    with pytest.raises(UserError, match=sentence):
        load_tokenizer(tmp_path / "folder")


def test_unreadable_tokenizers_are_refused(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "broken.json").write_text("{")
    for name, sentence in (("none.json", "is not there"), ("broken.json", "is no file of"), ("none", "cannot be read")):
        with pytest.raises(UserError, match=sentence):
            load_tokenizer(tmp_path / name)
