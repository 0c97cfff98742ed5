"""The site's edition: the consortium's report and exact numbers, made, signed and kept at the institution."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import report_folder
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from lepton_client.contracts import Contracts, Offered
from lepton_client.home import Home, save
from lepton_client.identity import identity_of
from lepton_client.main import main
from proposals import contract, terms
from safetensors.torch import save as save_model

from lepton_fl.evidence.report_check import check, read
from lepton_fl.fairness.settings import Ditto
from lepton_fl.federation.contract import to_bytes
from lepton_fl.link.signature import Signed

TERMS = terms()
CONTRACT = contract(TERMS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The consortium's report of a run on the shipped heart data."""
    path = report_folder.write(tmp_path / "run")
    model = save_model(TERMS.model.build(TERMS.task.shape()).state_dict())
    (path / "model.safetensors").write_bytes(model)
    result = report_folder.result() | {"model_sha256": hashlib.sha256(model).hexdigest()}
    (path / "result.json").write_text(json.dumps(result))
    (path / "contract.json").write_bytes(to_bytes(CONTRACT))
    _write(path, "consortium")
    return path


def _write(path: Path, edition: str) -> None:
    made = report_folder.make(path, edition)
    for name, content in (("report.json", made.report), ("report.json.sig", made.signature)):
        (path / name).write_bytes(content)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return keeping(tmp_path, to_bytes(CONTRACT))


def keeping(tmp_path: Path, signed: bytes) -> Home:
    """An institution before which this contract was put."""
    made = Home(tmp_path / "home", "Cleveland", ("localhost:1",))
    made.path.mkdir(mode=0o700)
    save(made, b"", b"")
    Contracts(made.path / "contracts").keep(CONTRACT.run_id, Offered(signed, Signed(b"", b"")))
    return made


def make(monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path, *arguments: str) -> None:
    command = ["lepton-client", "report", str(folder / "report.json"), "--home", str(home.path), *arguments]
    monkeypatch.setattr("sys.argv", command)
    main()


def own_figures(made: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((made / "report.json").read_bytes())
    assert document["edition"] == "site"
    table = next(one for one in document["sections"][-1]["blocks"] if one.get("id") == "own")
    return {row["labels"][0]: row["figures"][0] for row in table["rows"]}


def test_it_has_the_exact_numbers_of_its_own_hold_out_and_its_own_signature(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(monkeypatch, home, folder)
    assert "must not leave Cleveland" in capsys.readouterr().out
    made = home.path / "reports" / str(CONTRACT.run_id)
    from lepton_client.records import own_site

    from lepton_fl.tasks.task import DataSource

    site = own_site(TERMS, DataSource(None, None), "Cleveland")
    assert own_figures(made)["records"]["value"] == str(len(site.holdout))
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {0o600}
    key = Ed25519PublicKey.from_public_bytes(identity_of(home).public)
    assert check(read(made / "report.json", None), key) == []
    assert '"id":"own"' not in (folder / "report.json").read_text()


def test_it_takes_figures_of_several_models_that_the_institution_wrote_of_itself(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path, tmp_path: Path
) -> None:
    models = {name: report_folder.assessment() for name in ("local", "federated", "personal")}
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"institution": "Cleveland", "models": models}))
    make(monkeypatch, home, folder, "--own", str(own), "--into", str(tmp_path / "here"))
    assert own_figures(tmp_path / "here")["accuracy"]["value"] == "0.800"
    for other in ({"institution": "Hungary", "models": models}, {"institution": "Cleveland", "models": {"x": {}}}, []):
        own.write_text(json.dumps(other))
        with pytest.raises(SystemExit, match=r"2|4"):
            make(monkeypatch, home, folder, "--own", str(own), "--into", str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_under_ditto_it_says_whether_joining_was_worth_it(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    signed = to_bytes(contract(terms(fairness=Ditto(pull=0.1, steps=5, learning_rate=0.5))))
    (folder / "contract.json").write_bytes(signed)
    _write(folder, "consortium")
    make(monkeypatch, keeping(tmp_path, signed), folder, "--into", str(tmp_path / "here"))
    document = json.loads((tmp_path / "here" / "report.json").read_bytes())
    table = next(one for one in document["sections"][-1]["blocks"] if one.get("id") == "own")
    assert all(model in json.dumps(table) for model in ("local", "federated", "personal"))
    assert '"id":"own"' not in (folder / "report.json").read_text()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "is not the model of this report"),
        (lambda folder: (folder / "model.safetensors").unlink(), "it needs report.json and the model"),
        (lambda folder: (folder / "report.json").write_bytes(b"{}"), "is no report"),
        (lambda folder: _write(folder, "public"), "is the public edition"),
        (
            lambda folder: ((folder / "contract.json").unlink(), _write(folder, "consortium")),
            "of no run whose contract",
        ),
    ],
)
def test_what_it_cannot_be_made_from_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    home: Home,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    break_it: Any,
    said: str,
) -> None:
    break_it(folder)
    with pytest.raises(SystemExit, match="2"):
        make(monkeypatch, home, folder)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (home.path / "reports").exists()
