"""Masked rounds over mutual TLS with real processes: some are killed, and every model is the right one."""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from federations import HEART, PUBLIC, Federation
from hydra import compose, initialize_config_dir

from lepton_fl.config import config_dir, load
from lepton_fl.errors import TrainingFailed
from lepton_fl.federation.journal import NoJournal, RoundReport
from lepton_fl.federation.local_masked import App, LocalMasked, local_masked
from lepton_fl.federation.steps import INBOX, PARAMS, step_of
from lepton_fl.flower import Context, Message
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import JsonVoice
from lepton_fl.run import Carrier, Names, conduct
from lepton_fl.simulation import Plan, SimConfig, plan, register_schemas

TEN = [f"clinic {number:02}" for number in range(1, 11)]
ROUNDS, KILLS = 20, 3
RUN = [f"rounds={ROUNDS}", "seed=7", "privacy=none", "training.learning_rate=0.2"]


def spread_over(clinics: list[str], folder: Path) -> None:
    """Heart's patients dealt out to these clinics: a file for each, and one with all of them."""
    with HEART.open() as file:
        rows = list(csv.DictReader(file))
    dealt = [{**row, "hospital": clinics[number % len(clinics)]} for number, row in enumerate(rows)]
    for name in [*clinics, "all"]:
        with (folder / f"{name.replace(' ', '_')}.csv").open("w") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(row for row in dealt if name in ("all", row["hospital"]))


@dataclass
class DropsOut:
    """An institution's side that is gone in the rounds in which its vector was not added up."""

    app: App
    name: str
    replied: Mapping[int, list[str]]  # round: who is in the sum
    round: int = 0

    def __call__(self, message: Message, context: Context) -> Message:
        step = step_of(message.content)
        assert step is not None
        if step.name == PARAMS:
            self.round = int(str(message.content.config_records["config"]["server-round"]))
        if (
            step.name == INBOX
            and message.metadata.message_type == "train"
            and self.name not in self.replied[self.round]
        ):
            raise TrainingFailed("this institution is away")
        return self.app(message, context)


class Quiet(JsonVoice):
    """Says nothing."""

    def round_done(self, report: RoundReport) -> None:
        """See `Voice`."""

    @staticmethod
    def _say(event: dict[str, object]) -> None:
        """See `JsonVoice`."""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    folder = tmp_path_factory.mktemp("all")
    spread_over(TEN, folder)
    register_schemas()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        composed = compose("sim", overrides=[*RUN, "task=heart", f"data.path={folder / 'all.csv'}"])
        yield plan(load(SimConfig, composed), Names("heart", "logistic", "fedavg"))


def model_with(planned: Plan, replied: Mapping[int, list[str]], folder: Path) -> str:
    """The digest of the last model, where in each round these institutions alone are added up; in one process."""
    run, sites = planned.run, {site.institution: site for site in planned.loaded.sites}
    assert run.sums is not None
    whole = local_masked(run.program, {name: sites[name] for name in run.facts.institutions}, run.sums, bytes(32))
    apps = {name: DropsOut(app, name, replied) for name, app in whole.apps.items()}
    grid, names = LocalMasked(apps, whole.identities, whole.contract).grid(run.sums)
    carrier = Carrier(grid, names, NoJournal(run.program.randomness), None)
    return conduct(run, carrier, (Folder(folder / "alone"), Quiet())).model_sha256


@pytest.mark.slow
def test_ten_institutions_of_which_three_are_killed_at_random_have_the_right_model_in_every_round(
    federation: Federation, planned: Plan
) -> None:
    spread_over(TEN, federation.folder)
    server = federation.gather(TEN, *RUN, "output=out", "grace_s=1.5")
    clients = {clinic: federation.client(clinic, *PUBLIC) for clinic in TEN}
    federation.wait_for("server.log", "round  1/20")
    seed = int(os.environ.get("LEPTON_TEST_SEED", str(random.SystemRandom().randrange(1 << 30))))
    choose = random.Random(seed)  # noqa: S311 - when to kill is no secret
    for clinic in choose.sample(TEN, KILLS):
        time.sleep(choose.uniform(0.5, 3.0))
        clients[clinic].send_signal(signal.SIGKILL)
        clients[clinic].wait(10)
        if choose.random() < 0.5:
            federation.client(clinic, *PUBLIC)  # and back, as a service would be
    assert server.wait(300) == 0, f"LEPTON_TEST_SEED={seed}\n{(federation.folder / 'server.log').read_text()}"

    rounds = federation.rounds()
    assert [one["skipped"] for one in rounds] == [None] * ROUNDS, f"LEPTON_TEST_SEED={seed}"
    assert any(len(one["replied"]) < len(TEN) for one in rounds), f"nobody was missed; LEPTON_TEST_SEED={seed}"
    # Each round's model is a function of the one before and of who is in the sum, so that one digest says it of all.
    replied = {one["round"]: one["replied"] for one in rounds}
    assert federation.result()["model_sha256"] == model_with(planned, replied, federation.folder)
