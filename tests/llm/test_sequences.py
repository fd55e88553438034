"""Padding, masks and packed supports."""

from __future__ import annotations

import pytest
import torch

from fenchel.errors import UserError
from fenchel.llm import sequences
from fenchel.llm.sequences import PAD, join, pack, pad_left, pad_right, unpack

EOS = 0


@pytest.mark.parametrize(
    ("answer", "eos", "length", "truncated"),
    [
        ([5, 6, 0], EOS, 3, False),  # ends exactly at the largest length
        ([5, 6, 7], EOS, 3, True),  # reaches it without an end
        ([0, 5, 6], EOS, 1, False),  # what follows the end is not the answer's
        ([5, 0, 0], EOS, 2, False),  # nor is a second end
        ([5, 0, PAD], EOS, 2, False),
        ([5, 6, PAD], EOS, 2, True),  # cut by somebody else
        ([5, 0, 6], None, 3, False),  # without an end token no answer is cut
    ],
)
def test_masks_and_truncation(answer, eos, length, truncated):
    tokens, mask, cut = join(pad_left([[3]], 2), torch.tensor([answer]), eos)
    assert mask.tolist() == [[False, False, *[True] * length, *[False] * (3 - length)]]
    assert tokens[0, 2:].tolist() == answer[:length] + [PAD] * (3 - length)
    assert tokens[0, :2].tolist() == [PAD, 3]
    assert cut.tolist() == [truncated]
    assert sequences.lengths(mask).tolist() == [length]


def test_padding():
    assert pad_left([[1, 2], [], [3]]).tolist() == [[1, 2], [PAD, PAD], [PAD, 3]]
    assert pad_right([[1, 2], [3]], 3).tolist() == [[1, 2, PAD], [3, PAD, PAD]]
    assert pad_left([]).shape == (0, 0)
    assert sequences.left_padding(torch.tensor([[PAD, 1, PAD], [2, 1, 1], [PAD, PAD, PAD]])).tolist() == [1, 0, 3]
    with pytest.raises(UserError, match="has 3 tokens; at most 2 are allowed"):
        pad_left([[1, 2, 3]], 2)


@pytest.mark.parametrize("vocabulary", [1, 7, 8, 9, 33])
def test_packing_is_lossless(vocabulary):
    keep = torch.rand(3, 5, vocabulary, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = pack(keep)
    assert packed.shape == (3, 5, -(-vocabulary // 8))
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, vocabulary), keep)
