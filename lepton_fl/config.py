"""Settings: Hydra composes the YAML, dataclasses type it, and nothing reaches the program unchecked.

A field lives in one dataclass and its value in one YAML; there are no defaults in code, so that a
forgotten privacy setting stops the program. OmegaConf and Hydra enter the project only here.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from lepton_fl.errors import ConfigError, LeptonError, exit_on_error
from lepton_fl.garbage import collect_again

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
    _refuse_unknown_keys(settings, "")
    return settings


def build(schema: type[T], values: Mapping[str, Any]) -> T:
    """One dataclass from plain values that someone else sent: typed, complete, and with no field it does not have.

    Raises:
        ConfigError: naming the field.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _refuse_interpolations(values, "")
    try:
        return load(schema, OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(dict(values))))
    except OmegaConfBaseException as error:
        raise ConfigError(_in_one_line(error)) from error


def _refuse_interpolations(value: Any, path: str) -> None:
    """OmegaConf would put this machine's environment in the place of `${oc.env:NAME}`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_interpolations(name, path)
            _refuse_interpolations(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for inner in value:
            _refuse_interpolations(inner, path)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{path} has ${{, which would stand for another text; nothing was run; write the text itself")


def _refuse_unknown_keys(settings: Any, path: str) -> None:
    """Hydra's `+key=value` adds what no dataclass has; a setting without effect must not pass for one."""
    known = {field.name for field in fields(settings)}
    for name, value in vars(settings).items():
        if name not in known:
            raise ConfigError(
                f"there is no setting {path}{name}; nothing was run; {_command()} --cfg job prints them all"
            )
        if is_dataclass(value):
            _refuse_unknown_keys(value, f"{path}{name}.")


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
    if "--version" in arguments:
        sys.stdout.write(f"{_command()} {version('lepton-fl')}\n")
        return
    with exit_on_error():
        sys.argv[1:] = _options_first(arguments)
        _compose_and_run(app)


def _options_first(arguments: list[str]) -> list[str]:
    """Options before settings, since Hydra's parser takes no setting after an option; unknown ones are refused."""
    options, settings = [], []
    waiting = iter(arguments)
    for argument in waiting:
        name, has_value, _ = argument.partition("=")
        if not name.startswith("-"):
            settings.append(argument)
            continue
        if name not in _OPTIONS:
            raise ConfigError(f"there is no option {name}; nothing was run; settings are written SETTING=VALUE")
        options.append(argument)
        if name in _NEED_A_VALUE and not has_value:
            value = next(waiting, None)
            if value is None:
                raise ConfigError(f"{name} needs a value; nothing was run; see {_command()} --help")
            options.append(value)
    return [*options, *settings]


def _compose_and_run(app: App[T]) -> None:
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Hydra prints its own many-line report and exits unless told to let exceptions through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    composed_once: list[bool] = []

    def job(composed: Any) -> None:
        if not composed_once:
            collect_again()
        composed_once.append(True)
        # Handled inside the job: Hydra would print the overrides above an exception that leaves it.
        with exit_on_error():
            app.run(load(app.schema(), composed))

    app.register_schemas()
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=app.config_name)(job)()
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        if composed_once:
            raise  # a mistake of the program, not of the configuration
        if not isinstance(error, (HydraException, OmegaConfBaseException, yaml.YAMLError)):
            raise ConfigError(_what_hydra_choked_on(sys.argv[1:], str(error))) from error
        raise ConfigError(_in_one_line(error)) from error


@dataclass(frozen=True)
class Composed(Generic[T]):
    """Settings, and which YAML of each group they were made from."""

    settings: T
    choices: Mapping[str, str]


def compose(schema: type[T], config_name: str, overrides: Sequence[str]) -> Composed[T]:
    """The settings that a command with these arguments would have, for a program that is no command.

    Raises:
        ConfigError: as `load`, and for an override that Hydra cannot read.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = hydra.compose(config_name, overrides=list(overrides))
            chosen = hydra.compose(config_name, overrides=list(overrides), return_hydra_config=True)
        choices = {str(group): str(name) for group, name in chosen.hydra.runtime.choices.items()}
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_in_one_line(error)) from error
    return Composed(load(schema, composed), choices)


def job_number() -> int | None:
    """Which job of a `--multirun` this is, from 0; None outside of one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return int(HydraConfig.get().job.num)


def _in_one_line(error: BaseException) -> str:
    """What Hydra or OmegaConf meant, as one sentence a person can act on."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    place = next((str(key) for link in chain if (key := getattr(link, "full_key", None))), "")
    # An error raised inside a dataclass's __post_init__ is the plain one; OmegaConf wraps it.
    for link in chain:
        if isinstance(link, LeptonError):
            said = str(link) if place in str(link) else f"{place}: {link}"
            return said if ";" in said else f"{said}; nothing was run; {_command()} --cfg job prints every setting"
    missing = getattr(error, "missing_cfg_file", None)
    if missing is not None:
        return _no_such_choice(str(missing), getattr(error, "options", None) or ())
    # The last link is the cause; the first says which override it was.
    first, last = (" ".join(_for_people(str(link)).split()) for link in (error, chain[-1]))
    unknown = re.search(r"Could not (?:override|append|delete).*? '([^']+)'", first)
    if unknown and not first.startswith("Could not append"):
        return f"there is no setting {unknown[1]}; nothing was run; {_command()} --cfg job prints every setting"
    foreign = re.search(r"Key '([^']+)' not in", last)
    if foreign:
        hint = "does its YAML begin with `defaults: [tabular_schema]`?" if "'Task'" in last else "correct its name"
        return f"there is no setting {place or foreign[1]}; nothing was run; {hint}"
    absent = re.search(r"missing \d+ required positional arguments?: (.+)", last)
    if absent or "missing mandatory value" in last:
        name = absent[1].split(" full_key")[0] if absent else place
        return f"setting {name} has no value; nothing was run; give it one"
    said = re.sub(r"\s*full_key: \S+", "", f"{first}: {last}" if last not in first else first).rstrip(".")
    if place not in said:
        said = f"{place}: {said}"
    return f"{said}; nothing was run; see {_command()} --help"


def _what_hydra_choked_on(arguments: list[str], detail: str) -> str:
    """Hydra lets some mistakes through as a bare ValueError, without saying where."""
    typed = " ".join(argument for argument in arguments if "=" in argument)
    return f"{detail.rstrip('.')}; nothing was run; look at what {typed} names"


def _no_such_choice(missing: str, options: Iterable[str]) -> str:
    group, _, name = missing.rpartition("/")
    takes = [option for option in options if not option.endswith("_schema")]
    near = difflib.get_close_matches(name, takes, n=1)
    hint = f"did you mean {near[0]}?" if near else f"{group}= takes {', '.join(takes)}"
    return f"there is no {group or 'configuration'} {name}; nothing was run; {hint}"


def _for_people(text: str) -> str:
    """OmegaConf's message without Python's type names, Hydra's without its links."""
    kept = [
        line
        for line in text.splitlines()
        if not line.strip().startswith(("object_type=", "reference_type=", "See http"))
    ]
    return "\n".join(kept).replace("Structured config of type", "the settings of")


def _command() -> str:
    return " ".join([Path(sys.argv[0].split()[0]).name, *sys.argv[0].split()[1:]])


def name_of(group: str) -> str:
    """Which YAML of a group was chosen, say `fedprox` for `strategy`."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices[group])
