"""The files under deploy/ name what exists, and each side runs with what its own extra installs."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from federations import PATIENCE_S, Federation, free_port
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lepton_fl.prometheus import served

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNITS = sorted((ROOT / "deploy").glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
CONTAINERS = sorted((ROOT / "deploy").glob("*.Containerfile"))


class Unit(configparser.RawConfigParser):
    """A systemd unit; a name that stands twice is a list there, which no test here needs."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str
        self.read_string(path.read_text())


def codes(text: str) -> set[int]:
    return {int(code) for code in text.split()}


def documented_codes() -> set[int]:
    return {int(code) for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "exit-codes.md").read_text(), re.M)}


def instructions(path: Path) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def of(path: Path, kind: str) -> list[str]:
    return [rest for name, rest in instructions(path) if name == kind]


def test_there_is_a_unit_and_a_container_for_each_side() -> None:
    assert [path.name for path in UNITS] == ["lepton-client.service", "lepton-server.service"]
    assert [path.name for path in CONTAINERS] == ["client.Containerfile", "server.Containerfile"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_a_command_that_exists_with_a_home_it_may_write(path: Path) -> None:
    service = Unit(path)["Service"]
    command = shlex.split(service["ExecStart"])
    assert Path(command[0]).name in PROJECT["scripts"]
    assert Path(command[0]).name == path.stem == service["User"]
    assert command[command.index("--home") + 1] == f"/var/lib/{service['StateDirectory']}"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_knows_the_exit_codes_that_are_documented(path: Path) -> None:
    service = Unit(path)["Service"]
    never, fine = codes(service["RestartPreventExitStatus"]), codes(service.get("SuccessExitStatus", ""))
    assert never | fine <= documented_codes()
    assert never == {*range(2, 9), 12}
    assert not never & fine
    assert service["Restart"] == "on-failure"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_has_the_least_rights(path: Path) -> None:
    service = Unit(path)["Service"]
    for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "PrivateDevices", "RestrictNamespaces"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["RestrictAddressFamilies"] == "AF_INET AF_INET6"
    assert service["SystemCallFilter"] == "@system-service"
    assert (service["UMask"], service["LimitCORE"], service["MemorySwapMax"]) == ("0077", "0", "0")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_the_unit_and_finds_little_exposed(path: Path, tmp_path: Path) -> None:
    if ANALYZE is None:
        pytest.skip("systemd-analyze is not installed here")
    # systemd looks whether the command is there; here it lies beside this Python.
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/lepton/bin", str(Path(sys.executable).parent)))
    verified = subprocess.run([ANALYZE, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = [ANALYZE, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    rated = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in rated.stderr:
        pytest.skip("this systemd-analyze cannot rate a unit that is not installed")
    assert rated.returncode == 0, rated.stdout


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_a_container_installs_one_existing_extra_and_runs_its_command_as_nobody_special(path: Path) -> None:
    side = path.stem
    assert re.findall(r"'\.\[(\w+)\]'", " ".join(of(path, "RUN"))) == [side]
    assert side in PROJECT["optional-dependencies"]
    (entry,) = of(path, "ENTRYPOINT")
    assert yaml.safe_load(entry) == [f"lepton-{side}"]
    assert f"lepton-{side}" in PROJECT["scripts"]
    kinds = [name for name, _ in instructions(path)]
    (user,) = of(path, "USER")
    assert all(int(number) >= 1000 for number in user.split(":"))
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    assert of(path, "VOLUME") == ["/var/lib/lepton"]
    assert "LEPTON_HOME=/var/lib/lepton" in " ".join(of(path, "ENV"))


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_a_container_is_slim_tagged_of_a_supported_python_and_names_no_host(path: Path) -> None:
    for base in of(path, "FROM"):
        assert re.fullmatch(r"python:3\.1[123]-slim-\w+( AS build)?", base)
    assert "://" not in re.sub(r"http://127\.0\.0\.1|'127\.0\.0\.1'", "", path.read_text())
    last = [name for name, _ in instructions(path)][::-1].index("FROM")
    assert "pip install" not in " ".join(rest for _, rest in instructions(path)[-last:])


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_what_a_container_copies_is_enough_to_build_the_wheel(path: Path, tmp_path: Path) -> None:
    for line in of(path, "COPY"):
        *sources, target = line.split()
        if sources[0].startswith("--from="):
            continue
        for source in sources:
            place = tmp_path / target / Path(source).name if target == "./" else tmp_path / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert list((tmp_path / "dist").glob("lepton_fl-*.whl"))


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_a_container_is_healthy_where_its_metrics_answer(path: Path) -> None:
    (check,) = of(path, "HEALTHCHECK")
    command = yaml.safe_load(check.split("CMD ", 1)[1])
    port = free_port()
    assert command[-1].count("9412") == 1

    def check_once() -> int:
        program = command[-1].replace("9412", str(port))
        return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False).returncode

    assert check_once() != 0
    with served(port, list):
        assert check_once() == 0


def closure(extra: str) -> set[str]:
    """Every distribution that `pip install lepton-fl[extra]` brings."""
    waiting = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra])]
    found: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for chosen in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, chosen) in found:
                continue
            found.add((name, chosen))
            try:
                children = [Requirement(text) for text in requires(name) or ()]
            except PackageNotFoundError:
                continue  # for another platform
            waiting += [one for one in children if one.marker is None or one.marker.evaluate({"extra": chosen})]
    return {name for name, _ in found}


ONLY = """
import sys
from importlib.machinery import PathFinder

absent = set(sys.argv.pop(1).split(","))


class Present(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in absent else super().find_spec(name, path, target)


sys.meta_path = [Present if finder is PathFinder else finder for finder in sys.meta_path]
"""


def with_only(extra: str) -> list[str]:
    """A Python in which everything that is installed here, and does not come with the extra, is absent."""
    brought = closure(extra) | {"lepton-fl"}
    absent = [
        module
        for module, owners in packages_distributions().items()
        if not any(canonicalize_name(owner) in brought for owner in owners) and not module.startswith("_")
    ]
    assert "pytest" in absent
    assert "torch" not in absent
    start = f"from lepton_{extra}.main import main\nmain()"
    return ["python", "-c", ONLY + start, ",".join(absent)]


@pytest.mark.slow
def test_each_side_runs_with_its_own_extra_alone(federation: Federation) -> None:
    invitation = federation.invite("Cleveland")
    settings = ["--home", "server", "rounds=2", "quorum_s=60", "output=out", f"metrics_port={free_port()}", "log=json"]
    server = federation.start("server.log", *with_only("server"), "run", *settings)
    federation.wait_for("server.log", "waiting for 1 institution")
    assert federation.enroll("Cleveland", invitation).returncode == 0
    run = ["run", "--home", "client Cleveland", "data.path=Cleveland.csv", f"metrics_port={free_port()}"]
    federation.start("Cleveland.log", *with_only("client"), *run)
    assert server.wait(PATIENCE_S) == 0, (federation.folder / "server.log").read_text()
    assert (federation.folder / "out" / "learning_curve.png").stat().st_size > 0
