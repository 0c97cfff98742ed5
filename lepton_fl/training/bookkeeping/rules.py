"""The layers that book-keeping knows, by their exact type, each with its rule."""

from __future__ import annotations

from torch import nn

from lepton_fl.training.bookkeeping.attention import attention
from lepton_fl.training.bookkeeping.convolution import convolution
from lepton_fl.training.bookkeeping.dense import embedding, linear
from lepton_fl.training.bookkeeping.norms import group_norm, layer_norm, rms_norm
from lepton_fl.training.bookkeeping.recurrent import gru, lstm
from lepton_fl.training.bookkeeping.tape import Rule

RULES: dict[type[nn.Module], Rule] = {
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.Embedding: embedding,
    nn.GRU: gru,
    nn.GroupNorm: group_norm,
    nn.LSTM: lstm,
    nn.LayerNorm: layer_norm,
    nn.Linear: linear,
    nn.MultiheadAttention: attention,
    nn.RMSNorm: rms_norm,
}
