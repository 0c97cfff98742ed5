"""Models of sequences train privately in a federation as any model does: an LSTM, and a transformer."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from voices import Quiet

from lepton_fl.config import config_dir, load
from lepton_fl.federation.terms import table
from lepton_fl.models.shape import Model, Shape
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.results.folder import Folder
from lepton_fl.run import Names
from lepton_fl.simulation import SimConfig, plan, register_schemas, simulate
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.examples import Examples, per_record_loss
from lepton_fl.training.local import LocalTask
from lepton_fl.training.private import Mechanism, train_privately
from lepton_fl.training.settings import Training

STEPS, WORDS = 8, 12


@dataclass
class Recurrent(Model):
    """A record's numbers one after the other: a sequence of as many steps."""

    hidden: int

    def build(self, shape: Shape) -> nn.Module:
        return OverNumbers(self.hidden, shape.outputs)


class OverNumbers(nn.Module):
    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.steps = nn.LSTM(1, hidden, batch_first=True)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.steps(x.flatten(1)[:, :, None])[0][:, -1])
        return logits


class OverWords(nn.Module):
    """Numbers of words, looked up and read by an LSTM or a transformer."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.reader: nn.Module
        if reader == "lstm":
            self.reader = nn.LSTM(8, 8, batch_first=True)
        else:
            self.reader = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.last = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        read = self.reader(self.words(x.long()))
        read = read[0] if isinstance(read, tuple) else read
        logits: Tensor = self.last(read.mean(dim=1))
        return logits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several, and much slower where others compute too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_federation_trains_an_lstm_privately_without_opacus(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_schemas()
    monkeypatch.setitem(table("model"), "recurrent", f"{__name__}:Recurrent")  # where a plug-in puts it
    settings = ["privacy=record", "rounds=1", "training.sampling_rate=1.0", "training.local_steps=1"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = load(SimConfig, compose("sim", overrides=settings))
    with caplog.at_level(logging.INFO):
        planned = plan(replace(config, model=Recurrent(hidden=4)), Names("heart", "recurrent", "fedavg"))
        simulate(planned, Folder(tmp_path), Quiet())
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["rounds"], result["private"]) == (1, True)
    assert result["parameters"] == 4 * 4 * (1 + 4 + 2) + 4 + 1
    assert "Opacus" not in caplog.text


@pytest.mark.parametrize("reader", ["lstm", "transformer"])
def test_private_training_learns_which_words_are_many(reader: str) -> None:
    torch.manual_seed(1)
    features = torch.randint(0, WORDS, (400, STEPS))
    examples = Examples(features.float(), (features < WORDS // 2).sum(dim=1).gt(STEPS // 2).long())
    model = OverWords(reader)
    training = Training(
        local_steps=40,
        sampling_rate=0.5,
        learning_rate=1.0,
        learning_rate_decay=1.0,
        momentum=0.5,
        weight_decay=0.0,
        physical_batch=256,
        optimizer="sgd",
    )
    mechanism = Mechanism(1.0, clipping_norm=1.0, sampling_rate=0.5, expected_batch=len(examples) / 2)
    train_privately(model, examples, training, mechanism, BookKeeping(), LocalTask(1, 0.0, Randomness(7)))
    with torch.no_grad():
        loss = float(per_record_loss(model.eval()(examples.features), examples.labels).mean())
    share = float(examples.labels.float().mean())
    assert loss < 0.95 * -(share * math.log(share) + (1 - share) * math.log(1 - share))  # better than knowing the share
