"""The one shift of language modelling."""

import torch

from kd_lightning.core.causal import shift_targets


def test_every_position_predicts_the_token_after_it():
    ids = torch.tensor([[5, 6, 7, 8]])
    assert shift_targets(ids, torch.ones_like(ids).bool()).tolist() == [[6, 7, 8, -100]]


def test_both_ends_of_a_response():
    """The last token of the prompt predicts the first of the response; the last of the response predicts nothing."""
    ids = torch.tensor([[1, 2, 3, 4, 0, 0]])
    response = torch.tensor([[False, False, True, True, False, False]])
    assert shift_targets(ids, response).tolist() == [[-100, 3, 4, -100, -100, -100]]


def test_padding_on_the_left():
    ids = torch.tensor([[0, 0, 1, 2]])
    assert shift_targets(ids, torch.tensor([[False, False, True, True]])).tolist() == [[-100, 1, 2, -100]]
