"""Settings: Hydra composes the YAML, dataclasses type it, and nothing reaches the program unchecked.

A field lives in one dataclass and its value in one YAML; there are no defaults in code, so that a
forgotten privacy setting stops the program. OmegaConf and Hydra enter the project only here.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from lepton_fl.errors import ConfigError, LeptonError, exit_on_error

T = TypeVar("T")

_NEED_A_VALUE = {
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
}
_OPTIONS = _NEED_A_VALUE | {"--multirun", "-m", "--resolve", "--info", "-i", "--hydra-help"}

Table = Mapping[str, str]
"""A name as it is typed (`strategy=fedprox`) to the place of its dataclass (`module:Class`)."""


def config_dir() -> Path:
    """The folder of the shipped YAML: inside an installed package, else the checkout's `conf/`."""
    package = Path(__file__).resolve().parent
    for place in (package / "conf", package.parent / "conf"):
        if place.is_dir():
            return place
    raise ConfigError("the configuration folder is missing from this installation; install lepton-fl again")


def look_up(table: Table, name: str) -> type[Any]:
    """The dataclass a table names; its module is imported only now."""
    module, _, attribute = table[name].partition(":")
    return cast(type[Any], getattr(importlib.import_module(module), attribute))


def register(name: str, schema: type[Any], group: str | None = None) -> None:
    """Store a dataclass as `<name>_schema`, the type that a YAML of the group starts from."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(group=group, name=f"{name}_schema", node=schema)


def register_table(group: str, table: Table) -> None:
    """Register every dataclass of a table; a schema is shared where several YAML files start from it."""
    for name in table:
        register(name, look_up(table, name), group)


def load(schema: type[T], composed: Any) -> T:
    """The settings as dataclasses: types, ranges and missing values fail here, before any work.

    Raises:
        ConfigError: naming the key and what it must be.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        settings = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(_in_one_line(error)) from error
    if not isinstance(settings, schema):
        raise ConfigError(f"the configuration is not a {schema.__name__}; start its YAML from the shipped schema")
    return settings


def choices(group: str, arguments: list[str]) -> list[str]:
    """The names a group takes, `--config-dir` among the arguments included; for `--help`, without composing."""
    folders = [config_dir()]
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            folders += [Path(value or next(iter(arguments[position + 1 :]), ""))]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


@dataclass(frozen=True)
class App(Generic[T]):
    """A Hydra application: its primary YAML, its settings, and what it does with them."""

    config_name: str  # say `sim`, for conf/sim.yaml
    schema: Callable[[], type[T]]  # imported when it is needed
    run: Callable[[T], None]  # gets finished settings, never a `DictConfig`
    register_schemas: Callable[[], None]  # stores every dataclass; called only when something is composed
    help: str  # with {group} wherever that group's names belong


def run_app(app: App[T], groups: tuple[str, ...]) -> None:
    """Run a Hydra application whose every mistake ends in one line and an exit code."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        # Hydra's own page composes the configuration first, which loads everything to print a text.
        sys.stdout.write(app.help.format(**{group: " ".join(choices(group, arguments)) for group in groups}))
        return
    with exit_on_error():
        _refuse_unknown_options(arguments)
        _compose_and_run(app)


def _compose_and_run(app: App[T]) -> None:
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Hydra prints its own many-line report and exits unless told to let exceptions through.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def job(composed: Any) -> None:
        # Handled inside the job: Hydra would print the overrides above an exception that leaves it.
        with exit_on_error():
            app.run(load(app.schema(), composed))

    try:
        app.register_schemas()
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=app.config_name)(job)()
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_in_one_line(error)) from error


def _refuse_unknown_options(arguments: list[str]) -> None:
    """Hydra's own parser would answer with its whole usage, most of which is not for people."""
    last = ""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("-") and name not in _OPTIONS:
            raise ConfigError(f"there is no option {name}; nothing was run; settings are written SETTING=VALUE")
        last = argument
    if last in _NEED_A_VALUE:
        raise ConfigError(f"{last} needs a value; nothing was run; see {Path(sys.argv[0].split()[0]).name} --help")


def job_number() -> int | None:
    """Which job of a `--multirun` this is, from 0; None outside of one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return int(HydraConfig.get().job.num)


def _in_one_line(error: BaseException) -> str:
    """What Hydra or OmegaConf meant, as one sentence a person can act on."""
    command = Path(sys.argv[0].split()[0]).name
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    # An error raised inside a dataclass's __post_init__ is the plain one; OmegaConf wraps it.
    for link in chain:
        if isinstance(link, LeptonError):
            return str(link)
    missing = getattr(error, "missing_cfg_file", None)
    if missing is not None:
        group, _, name = str(missing).rpartition("/")
        options = [option for option in getattr(error, "options", None) or () if not option.endswith("_schema")]
        near = difflib.get_close_matches(name, options, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{group}= takes {', '.join(options)}"
        return f"there is no {group or 'configuration'} {name}; nothing was run; {hint}"
    # The last link is the cause; the first says which override it was.
    texts = [" ".join(_without_type_names(str(link)).split()) for link in (error, chain[-1])]
    if texts[0].startswith("Could not override"):
        key = texts[0].split("'")[1]
        return f"there is no setting {key}; nothing was run; {command} --cfg job prints every setting"
    said = f"{texts[0]}: {texts[1]}" if texts[1] not in texts[0] else texts[0]
    return f"{said}; nothing was run; see {command} --help"


def _without_type_names(text: str) -> str:
    """OmegaConf's message without the lines that name Python types."""
    return "\n".join(
        line for line in text.splitlines() if not line.strip().startswith(("object_type=", "reference_type="))
    )


def name_of(group: str) -> str:
    """Which YAML of a group was chosen, say `fedprox` for `strategy`."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices[group])
