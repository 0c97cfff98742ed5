"""The six models whose steps are timed, with random records that fit them; design note, section 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton_fl.training.examples import Examples

WORDS = 1000  # of the two language models
LSTM_WIDTH, LSTM_WORDS = 128, 32
WIDTH, HEADS, FEED_FORWARD, LAYERS, TOKENS = 128, 4, 256, 2, 64


@dataclass(frozen=True)
class Timed:
    """A model of the bench."""

    title: str
    build: Callable[[], nn.Module]
    features: tuple[int, ...]  # of one record; of language models, one number for each word
    classes: int
    words: int | None = None  # how many there are; None: features are standard normal numbers

    def records(self, count: int) -> Examples:
        """Random records, the same ones every time."""
        draw = torch.Generator().manual_seed(count)
        labels = torch.randint(0, self.classes, (count,), generator=draw)
        if self.words is None:
            return Examples(torch.randn(count, *self.features, generator=draw), labels)
        return Examples(torch.randint(0, self.words, (count, *self.features), generator=draw), labels)


class LastState(nn.Module):
    """A recurrent layer that returns its last output."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        """[n, T, d] to [n, h]."""
        states: Tensor = self.recurrent(x)[0]
        return states[:, -1]


class MeanOverWords(nn.Module):
    """The mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, T, d] to [n, d]."""
        return x.mean(dim=1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 10))


def tabular() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2))


def cnn() -> nn.Module:
    """The network of Opacus' MNIST example."""
    layers = (nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1))
    more = (nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten())
    return nn.Sequential(*layers, *more, nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10))


def wide_cnn() -> nn.Module:
    layers = (nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10))


def lstm() -> nn.Module:
    recurrent = LastState(nn.LSTM(64, LSTM_WIDTH, batch_first=True))
    return nn.Sequential(nn.Embedding(WORDS, 64), recurrent, nn.Linear(LSTM_WIDTH, 10))


def transformer() -> nn.Module:
    blocks = [
        nn.TransformerEncoderLayer(WIDTH, HEADS, FEED_FORWARD, dropout=0.0, batch_first=True) for _ in range(LAYERS)
    ]
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), *blocks, MeanOverWords(), nn.Linear(WIDTH, 10))


MODELS = {
    "mlp": Timed("MLP 784-500-500-10", mlp, (784,), 10),
    "tabular": Timed("tabular MLP 30-128-64-2", tabular, (30,), 2),
    "cnn": Timed("MNIST CNN (Opacus' example)", cnn, (1, 28, 28), 10),
    "wide_cnn": Timed("CNN 3x3, 32-64 channels, dense 128", wide_cnn, (1, 28, 28), 10),
    "lstm": Timed("LSTM, embedding 64, hidden 128, 32 words", lstm, (LSTM_WORDS,), 10, WORDS),
    "transformer": Timed("transformer encoder, 2 layers, d=128, 4 heads, 64 words", transformer, (TOKENS,), 10, WORDS),
}
