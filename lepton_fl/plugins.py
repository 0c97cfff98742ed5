"""Plug-ins: models, tasks and strategies of one's own, run only from the very bytes that were looked at.

A plug-in is a Python module or package that the site installed; nothing of it ever arrives from an operator. Its files
are read once, without importing it; their SHA-256 is compared with the approved one; and what is then imported is
compiled from those bytes, so that a file changed in between, or compiled code lying beside it, has no effect.

It says what it brings in a dict: `LEPTON_FL = {"model": {"name": "module:Class"}, "task": ..., "strategy": ...}`.
What a plug-in imports from elsewhere is the site's own installation, and no part of its hash.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from lepton_fl.errors import ConfigError
from lepton_fl.federation.terms import add_kinds
from lepton_fl.models.shape import Model
from lepton_fl.strategies.strategy import Strategy
from lepton_fl.tasks.task import Task

_ENTRY = "LEPTON_FL"
_MUST_BE: dict[str, type] = {"task": Task, "model": Model, "strategy": Strategy}
_MOST_FILES, _MOST_BYTES = 1000, 64 << 20
_admitted: dict[str, str] = {}  # module: the SHA-256 it was admitted with; a process admits each once


@dataclass(frozen=True)
class Snapshot:
    """A plug-in's files as they were when they were read."""

    module: str
    folder: Path  # that holds the package, or the one file
    files: Mapping[str, bytes]  # by path within the folder, with `/`

    @property
    def sha256(self) -> str:
        """Hex SHA-256 over path and content of each file, in the order of the paths, each after its length."""
        whole = hashlib.sha256()
        for path in sorted(self.files):
            for part in (path.encode(), self.files[path]):
                whole.update(len(part).to_bytes(8, "big"))
                whole.update(part)
        return whole.hexdigest()


def snapshot(module: str) -> Snapshot:
    """The files of an installed module, read without importing it.

    Raises:
        ConfigError: a dotted name (its parents would be imported), no such module, or one that is not plain files.
    """
    if not module.isidentifier():
        raise ConfigError(f"{module[:80]!r} is not the name of a module without a dot; nothing was loaded; correct it")
    spec = None if module in sys.modules else find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file() or not spec.origin.endswith(".py"):
        why = "is loaded already" if module in sys.modules else "is not installed here as Python files"
        raise ConfigError(f"module {module} {why}; nothing was loaded; install it, or correct its name")
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return Snapshot(module, origin.parent, dict(_read(origin.parent, [origin])))
    return Snapshot(module, origin.parent.parent, dict(_read(origin.parent.parent, _walk(origin.parent))))


def admit(module: str, approved_sha256: str) -> None:
    """The plug-in is imported, from the bytes that were approved, and what it brings can be named.

    Raises:
        ConfigError: other bytes than were approved, or no plug-in; nothing of it was run, but where it says so.
    """
    if _admitted.get(module) == approved_sha256:
        return
    found = snapshot(module)
    if found.sha256 != approved_sha256:
        raise ConfigError(
            f"plug-in {module} has sha256 {found.sha256}, and policy.plugins approves {approved_sha256}; nothing of it "
            "was run; look at what changed, then approve its new hash or put the old files back"
        )
    _run(found)


def admit_installed(modules: Sequence[str]) -> None:
    """As `admit`, whatever bytes are installed: for whoever decides alone about this machine."""
    for module in modules:
        if module not in _admitted:
            _run(snapshot(module))


def named_in(arguments: Sequence[str]) -> list[str]:
    """The modules of `plugins=[one,two]` among a command's arguments; needed before settings can be composed."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith("plugins=")]
    return [name.strip(" '\"") for value in values[-1:] for name in value.strip("[]").split(",") if name.strip()]


def admitted_sha256(module: str) -> str | None:
    """What the plug-in was admitted with in this process; None: it was not."""
    return _admitted.get(module)


def _walk(package: Path) -> Iterator[Path]:
    for path in sorted(package.iterdir()):
        if path.is_symlink():
            raise ConfigError(
                f"{path} is a link, and what it leads to is no part of the plug-in; nothing of it was run; copy it"
            )
        if path.is_dir():
            if path.name != "__pycache__":
                yield from _walk(path)
        else:
            yield path


def _read(folder: Path, paths: Iterator[Path] | Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    total = 0
    for count, path in enumerate(paths, start=1):
        if not path.is_file() or path.is_symlink():
            raise ConfigError(f"{path} is no plain file; nothing of the plug-in was run; remove it")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        total += len(content)
        if count > _MOST_FILES or total > _MOST_BYTES:
            raise ConfigError(
                f"a plug-in may have {_MOST_FILES} files of {_MOST_BYTES >> 20} MiB together, and this one has more; "
                "nothing of it was run; is it the right module?"
            )
        yield path.relative_to(folder).as_posix(), content


def _run(found: Snapshot) -> None:
    finder = _Finder(found)
    sys.meta_path.insert(0, finder)
    try:
        add_kinds(found.module, _brings(found.module, importlib.import_module(found.module)))
    except BaseException as error:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == found.module]:
            del sys.modules[name]
        if isinstance(error, ConfigError) or not isinstance(error, Exception):
            raise
        raise ConfigError(
            f"plug-in {found.module} cannot be used: {type(error).__name__}: {' '.join(str(error).split())[:200]}; "
            "nothing was trained; correct it, then approve its new hash"
        ) from error
    _admitted[found.module] = found.sha256


def _brings(module: str, loaded: ModuleType) -> Mapping[str, Mapping[str, str]]:
    """What the plug-in says it brings, every class of it looked at."""
    brings: Mapping[str, Mapping[str, str]] = getattr(loaded, _ENTRY)
    for group, kinds in brings.items():
        for name, place in kinds.items():
            where, _, attribute = place.partition(":")
            made = getattr(importlib.import_module(where), attribute)
            is_own = where.partition(".")[0] == module and made.__module__ == where and made.__name__ == attribute
            is_class = isinstance(made, type) and is_dataclass(made) and issubclass(made, _MUST_BE.get(group, object))
            if not (is_own and is_class):
                raise TypeError(f"{_ENTRY} {group} {name} is no dataclass of a {group} in {module}")
    return brings


class _Finder(MetaPathFinder):
    """Finds a plug-in's modules in its snapshot, and nowhere else."""

    def __init__(self, found: Snapshot) -> None:
        self._found = found

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self._found.module:
            return None
        stem = fullname.replace(".", "/")
        for file in (f"{stem}/__init__.py", f"{stem}.py"):
            if file in self._found.files:
                place = self._found.folder / file
                return spec_from_file_location(fullname, place, loader=_Loader(self._found, place))
        raise ModuleNotFoundError(f"{fullname} is not among the files of the plug-in that were read", name=fullname)


class _Loader(SourceLoader):
    """Compiles a module from the bytes in the snapshot; compiled files on the disk are not looked at."""

    def __init__(self, found: Snapshot, place: Path) -> None:
        self._found, self._place = found, place

    def get_filename(self, fullname: str) -> str:
        return str(self._place)

    def get_data(self, path: str | bytes) -> bytes:
        """A file of the plug-in, as `pkgutil.get_data` asks for it."""
        place = Path(str(path))
        inside = place.relative_to(self._found.folder).as_posix() if place.is_relative_to(self._found.folder) else ""
        if inside not in self._found.files:
            raise OSError(f"{place} is not among the files of the plug-in that were read")
        return self._found.files[inside]
