"""A model in which one record moves another's output is found out by trying."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.clipped_sum import refuse_coupled_records


class Centred(nn.Module):
    """Takes the batch's mean away, like a BatchNorm that Opacus cannot know by its type."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch - batch.mean(dim=0)


def test_a_layer_of_ones_own_that_couples_records_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no record's influence is bounded; nothing was trained"):
        refuse_coupled_records(nn.Sequential(nn.Linear(3, 2), Centred()), (3,))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_that_treats_records_alone_passes_and_stays_as_it_was(is_training: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.ReLU()).train(is_training)
    before = torch.get_rng_state()
    refuse_coupled_records(model, (3,))
    assert model.training is is_training
    assert torch.equal(torch.get_rng_state(), before)
