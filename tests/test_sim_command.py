"""`lepton-sim` as a person meets it: one line and an exit code for every mistake; a table and a YAML suffice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from one_process import Answer, answers

COMMAND = Path(sys.executable).with_name("lepton-sim")
CONFIGURATION, DATA = 2, 4

# What is typed, the exit code, and words a person needs to put it right.
MISTAKES: dict[str, tuple[list[str], int, list[str]]] = {
    "an unknown task": (["task=nope"], CONFIGURATION, ["nope", "heart", "adult"]),
    "an unknown setting": (["nokey=1"], CONFIGURATION, ["nokey"]),
    "an unknown setting, forced": (["+nokey=1", "rounds=1"], CONFIGURATION, ["nokey"]),
    "an epsilon without privacy": (["privacy=none", "privacy.epsilon=1"], CONFIGURATION, ["privacy.epsilon"]),
    "an epsilon without privacy, forced": (
        ["privacy=none", "+privacy.epsilon=1", "rounds=1"],
        CONFIGURATION,
        ["privacy.epsilon"],
    ),
    "a setting left out": (["~rounds"], CONFIGURATION, ["rounds"]),
    "a word for a number": (["rounds=abc"], CONFIGURATION, ["rounds", "abc", "nteger"]),
    "a fraction for a whole number": (["rounds=1.5"], CONFIGURATION, ["rounds", "1.5", "nteger"]),
    "no rounds": (["rounds=0"], CONFIGURATION, ["rounds", "at least 1"]),
    "a negative epsilon": (["privacy.epsilon=-1"], CONFIGURATION, ["privacy.epsilon", "-1"]),
    "an epsilon that is no number": (["privacy.epsilon=nan"], CONFIGURATION, ["privacy.epsilon"]),
    "privacy of null": (["privacy=null"], CONFIGURATION, ["privacy"]),
    "a delta above one": (["privacy.delta=2"], CONFIGURATION, ["privacy.delta"]),
    "a delta that publishes a record": (["privacy.delta=0.01"], CONFIGURATION, ["privacy.delta", "published outright"]),
    "a hold-out of everybody": (["holdout.share=1"], CONFIGURATION, ["holdout.share"]),
    "a file that is not there": (["data.path=missing.csv"], DATA, ["missing.csv", "data.path"]),
    "mnist without its folder": (["task=mnist"], CONFIGURATION, ["data.dir"]),
    "mnist in an empty folder": (["task=mnist", "data.dir=."], DATA, ["train-images-idx3-ubyte"]),
    "more institutions than named": (["institutions=9"], CONFIGURATION, ["4 institutions", "hospital"]),
    "more institutions than records": (["task=digits", "institutions=5000", "privacy=none"], DATA, ["institutions"]),
    "images for a table": (["model=cnn"], CONFIGURATION, ["images", "model=logistic"]),
    "a strategy that reads exact losses": (["strategy=qfedavg"], CONFIGURATION, ["privacy=none"]),
    "too few for krum": (
        ["strategy=krum", "strategy.num_malicious_nodes=3", "privacy=none", "secure_aggregation=off"],
        CONFIGURATION,
        ["2f + 3 = 9", "4"],
    ),
    "a strategy that compares what nobody sees": (
        ["strategy=krum", "privacy=none"],
        CONFIGURATION,
        ["only their sum", "fedavg", "secure_aggregation=off"],
    ),
    "too few for a sum": (
        ["task=digits", "institutions=2", "privacy=none"],
        CONFIGURATION,
        ["at least 3 institutions, and 2 take part", "secure_aggregation=off"],
    ),
    "another cohort in each round, summed": (
        ["cohort_size=3"],
        CONFIGURATION,
        ["one fixed cohort", "leave cohort_size"],
    ),
    "a noise of no kind": (["noise=much"], CONFIGURATION, ["noise must be one of own, shared", "much"]),
    "shared noise without privacy": (["noise=shared", "privacy=none"], CONFIGURATION, ["privacy=record or patient"]),
    "shared noise without a sum": (
        ["noise=shared", "secure_aggregation=off"],
        CONFIGURATION,
        ["secure_aggregation=on", "only a masked sum has the whole noise", "noise=own"],
    ),
    "shared noise over several steps": (
        ["noise=shared", "training.local_steps=2"],
        CONFIGURATION,
        ["local_steps", "nothing was trained"],
    ),
    "an update bound of nothing": (
        ["secure_aggregation.update_bound=0"],
        CONFIGURATION,
        ["secure_aggregation.update_bound", "positive"],
    ),
    "a folder that cannot be written": (["output=/proc/nope", "rounds=1"], CONFIGURATION, ["/proc/nope", "output"]),
    "an unknown log": (["log=yaml"], CONFIGURATION, ["text", "json", "yaml"]),
    "a GPU that is not there": (
        ["device=cuda:9999", "data.path=missing.csv"],
        CONFIGURATION,
        ["cuda:9999", "nothing was trained", "device=cpu"],
    ),
    "a device of no kind": (["device=gpu"], CONFIGURATION, ["gpu", "cuda:N", "auto"]),
    "a cohort larger than the federation": (["cohort_size=9"], CONFIGURATION, ["9", "4 institutions"]),
    "an unknown option": (["--nope"], CONFIGURATION, ["--nope"]),
    "half a setting": (["rounds"], CONFIGURATION, ["rounds"]),
    "a configuration folder that is not there": (["--config-dir", "nosuch"], CONFIGURATION, ["nosuch"]),
    "a YAML with a syntax error": (["--config-dir", "mine", "task=broken"], CONFIGURATION, ["broken"]),
    "a YAML with a key twice": (["--config-dir", "mine", "task=twice"], CONFIGURATION, ["twice"]),
    "a YAML that is no text": (["--config-dir", "mine", "task=binary"], CONFIGURATION, ["binary"]),
    "a YAML with a misspelt key": (["--config-dir", "mine", "task=misspelt"], CONFIGURATION, ["colums"]),
    "a YAML without its subject": (["--config-dir", "mine", "task=nobody"], CONFIGURATION, ["task.subject"]),
    "a YAML without bounds": (["--config-dir", "mine", "task=boundless"], CONFIGURATION, ["age", "low < high"]),
    "a table that does not fit": (["data.path=toy.csv"], DATA, ["toy.csv", "column"]),
    "one bad job of several": (
        ["--multirun", "log=yaml,toml"],
        CONFIGURATION,
        ["text", "json", "yaml"],
    ),
    "a sound print of an unsound setting": (["--cfg", "job", "rounds=abc"], CONFIGURATION, ["rounds"]),
}

# An option in the middle is what a person types who adds one more setting at the end.
SOUND = {
    "an option in the middle": ["rounds=7", "--cfg", "job", "seed=3"],
    "an option at the end": ["rounds=7", "seed=3", "--cfg", "job"],
    "an option first": ["--cfg", "job", "rounds=7", "seed=3"],
}

# Runs of one round, by their logs; what they write lies where the tasks do.
LEFT_OPEN = {
    log: ["device=auto", "privacy=none", "rounds=1", f"output=mine/{log}", f"log={log}"] for log in ("text", "json")
}

HYPERTENSION = """\
defaults: [tabular_schema]

title: high blood pressure at three clinics
declared_records: 300
partition: null
file: null
institution: clinic
subject: patient
label: {column: hypertension, values: ["no", "yes"]}
sensitive: [sex]
missing: ["NA"]
columns:
  age: {kind: numeric, unit: years, low: 18, high: 100}
  salt: {kind: numeric, unit: g/day, low: 0, high: 20}
  sex: {kind: categorical, values: [f, m]}
"""


def write_hypertension(folder: Path) -> None:
    """A table of 300 patients at three clinics, and its task: high pressure goes with age and salt."""
    rng = np.random.default_rng(0)
    age, salt = rng.integers(20, 90, 300), rng.uniform(2, 16, 300).round(1)
    ill = (age - 55) / 10 + (salt - 9) / 2 + rng.normal(0, 0.5, 300) > 0
    lines = ["patient,clinic,age,salt,sex,hypertension"]
    for row in range(300):
        salt_text = "NA" if row % 50 == 0 else str(salt[row])
        lines.append(
            f"P{row},{('East', 'North', 'West')[row % 3]},{age[row]},{salt_text},"
            f"{'fm'[row % 2]},{'yes' if ill[row] else 'no'}"
        )
    (folder / "toy.csv").write_text("\n".join(lines) + "\n")
    tasks = folder / "mine" / "task"
    tasks.mkdir(parents=True)
    (tasks / "hypertension.yaml").write_text(HYPERTENSION)


def write_bad_tasks(tasks: Path) -> None:
    (tasks / "broken.yaml").write_text("title: [unclosed\n")
    (tasks / "twice.yaml").write_text(HYPERTENSION + "file: null\n")
    (tasks / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (tasks / "misspelt.yaml").write_text(HYPERTENSION.replace("columns:", "colums:"))
    (tasks / "nobody.yaml").write_text(HYPERTENSION.replace("subject: patient\n", ""))
    (tasks / "boundless.yaml").write_text(HYPERTENSION.replace("low: 18, high: 100", "high: 100"))


def files(folder: Path) -> set[str]:
    """Every file but those of this test and the list of jobs that Hydra writes for a `--multirun`."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("mine/")} - {"toy.csv", "outputs/multirun/multirun.yaml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, its task, and tasks with a mistake."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_hypertension(folder)
    write_bad_tasks(folder / "mine" / "task")
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Answer]:
    """Exit code, stdout and stderr of each command, all of them in the folder."""
    mistakes = {name: arguments for name, (arguments, _, _) in MISTAKES.items()}
    return answers("lepton-sim", mistakes | SOUND | LEFT_OPEN, folder, processes=2)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_its_documented_exit_code(said: dict[str, Answer], mistake: str) -> None:
    assert said[mistake].code == MISTAKES[mistake][1]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_that_says_what_to_change(said: dict[str, Answer], mistake: str) -> None:
    # What was noticed in the data before is no part of the mistake.
    lines = [line for line in said[mistake].err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in MISTAKES[mistake][2]:
        assert word in lines[0]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_shows_neither_a_traceback_nor_a_schema_nor_a_search_path(
    said: dict[str, Answer], mistake: str
) -> None:
    for noise in ("Traceback", "_schema", "provider=", "pkg://", "ConfigKeyError", "__init__"):
        assert noise not in said[mistake].err


@pytest.mark.usefixtures("said")
def test_neither_a_mistake_nor_a_print_leaves_a_file_behind(folder: Path) -> None:
    assert files(folder) == set()


@pytest.mark.parametrize("order", SOUND)
def test_options_may_stand_anywhere_among_the_settings(said: dict[str, Answer], order: str) -> None:
    assert said[order].code == 0
    assert {"rounds: 7", "seed: 3"} <= set(said[order].out.splitlines())


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_installed_command_ends_a_mistake_in_one_line_on_stderr(tmp_path: Path) -> None:
    done = run(tmp_path, "privacy.epsilon=-1")
    assert done.returncode == CONFIGURATION
    assert done.stdout == ""
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "]


def test_a_table_and_one_yaml_train_a_model_and_each_job_of_several_has_its_folder(tmp_path: Path) -> None:
    write_hypertension(tmp_path)
    mine = ("--config-dir", "mine", "task=hypertension", "data.path=toy.csv")
    done = run(tmp_path, "--multirun", *mine, "privacy=none", "rounds=5,10", "seed=1", "output=results")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["0", "1"]
    for job, rounds in (("0", 5), ("1", 10)):
        folder = tmp_path / "results" / job
        result = json.loads((folder / "result.json").read_text())
        assert result["rounds"] == rounds
        assert result["institutions"] == ["East", "North", "West"]
        # Gradient descent on the pooled table, worked out apart, gives 0.866 after 5 rounds and 0.876 after 10.
        assert result["metrics"]["auc"] == pytest.approx({5: 0.866, 10: 0.876}[rounds], abs=0.02)
        assert len((folder / "rounds.jsonl").read_text().splitlines()) == rounds
        assert (folder / "model.safetensors").stat().st_size > 0
    assert {name.split("/")[0] for name in files(tmp_path)} == {"results"}


@pytest.mark.slow
def test_a_private_run_of_ones_own_table_stays_within_its_budget(tmp_path: Path) -> None:
    write_hypertension(tmp_path)
    done = run(
        tmp_path, "--config-dir=mine", "task=hypertension", "data.path=toy.csv", "rounds=3", "output=out", "log=json"
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["started", "round", "round", "round", "finished"]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["private"] is True
    assert 0 < result["epsilon"] <= 1.0


@pytest.mark.parametrize("log", LEFT_OPEN)
def test_a_device_that_was_left_open_is_told(said: dict[str, Answer], log: str) -> None:
    done = said[log]
    assert done.code == 0, done.err
    if log == "text":
        assert [
            line for line in done.err.splitlines() if line.startswith(("device      cpu (", "device      cuda:0 ("))
        ]
    else:
        first = json.loads(done.out.splitlines()[0])
        assert first["event"] == "device"
        assert first["device"].startswith(("cpu (", "cuda:0 ("))


PRINTED = """
import sys
sys.argv = ["lepton-sim", {arguments}]
from lepton_fl.sim_command import main
main()
heavy = {{"torch", "flwr", "hydra", "omegaconf", "numpy", "pyarrow"}} & set(sys.modules)
sys.stdout.write("imported: " + " ".join(sorted(heavy)))
"""


def test_help_lists_ones_own_tasks_and_imports_nothing_heavy(tmp_path: Path) -> None:
    write_hypertension(tmp_path)
    script = PRINTED.format(arguments='"--help", "--config-dir", "mine"')
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    listed = [line for line in done.stdout.splitlines() if line.startswith("task=")]
    assert listed == ["task=      adult digits german_credit heart hypertension mnist"]
    assert done.stdout.splitlines()[-1] == "imported: "


def test_cfg_job_prints_every_setting_and_runs_nothing(said: dict[str, Answer]) -> None:
    done = said["an option at the end"]
    assert (done.code, done.err) == (0, "")
    assert "rounds: 7" in done.out.splitlines()
    assert "epsilon: 1.0" in done.out
