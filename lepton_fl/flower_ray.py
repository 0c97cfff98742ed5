"""The only door to Ray: Flower's simulation backend on it, which listens on this machine alone and ends with the run.

Ray moves objects between its processes as Python pickles. They never leave this machine: every port is bound to the
loopback address, every call carries a token that is made for this process, no other cluster is joined, and Ray's
dashboard and its usage reports stay off.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from lepton_fl.errors import ConfigError, WorkerLost
from lepton_fl.flower import Context, Message, MetricRecord, RecordDict

NUMBER = "partition-id"  # Flower's backend wants one in every node's settings
_WORKER, _CPU = "worker", "cpu-seconds"
_ENDING_S = 3.0  # that a worker has to end by itself
_LOOPBACK = ("127.0.0.1", "::1")


@dataclass
class Resources:
    """What Ray sets apart for one institution while it computes, so that no more of them compute at once than fit."""

    num_cpus: float
    num_gpus: float

    def __post_init__(self) -> None:
        if self.num_cpus <= 0 or self.num_gpus < 0:
            raise ConfigError(
                f"ray.num_cpus must be above 0 and ray.num_gpus at least 0, got {self.num_cpus:g} and "
                f"{self.num_gpus:g}; nothing was trained; correct them"
            )


class Answers(Protocol):
    """What a worker process runs; it must be small, since it travels with each message."""

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer of the institution that `context` names."""


@dataclass(frozen=True)
class _Answering:
    """Flower calls `make` in the worker, and what it returns with the message."""

    answers: Answers

    def __call__(self) -> Callable[..., Message]:
        def app(message: Message, context: Context) -> Message:
            began = time.process_time()
            reply = self.answers(message, context)
            context.state[_WORKER] = MetricRecord({_CPU: time.process_time() - began})
            return reply

        return app


def _own_process() -> Callable[..., int]:
    return lambda message, context: os.getpid()


def _processes(actors: Iterable[Any]) -> list[int]:
    """The process of each worker, by asking it."""
    import ray

    return [process for _, process, _ in ray.get([actor.run.remote(_own_process, None, "", None) for actor in actors])]


class RayWorkers:
    """Worker processes, each of which answers for one institution at a time."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._answers: _Answering | None = None
        self._cpu_s, self._lost = 0.0, ""
        backend.build(lambda: self._answers)
        self.count: int = backend.num_workers
        self._processes = _processes(backend.pool.pool)
        # One thread waits for each process: Flower's pool has no queue of its own.
        self._threads = ThreadPoolExecutor(self.count)

    def keep(self, value: object) -> Any:
        """Put a value where every worker can fetch it; returns what `fetch` takes."""
        import ray

        return ray.put(value)

    def serve(self, answers: Answers) -> None:
        """From now on the workers answer with this."""
        self._answers = _Answering(answers)
        self._backend.app_fn = self._answers

    def begin(self, institution: str, message: Message) -> Callable[[], Message]:
        """Hand the message to the next free worker; the result waits for its answer.

        Raises:
            WorkerLost: a worker ended before; what it was doing is not known.
        """
        if self._lost:
            raise WorkerLost(
                f"a worker process of Ray ended ({self._lost}); the models of the rounds that are over are whole; give "
                "each more memory, say by a larger ray.num_cpus, or choose engine=local"
            )
        future = self._threads.submit(self._answer, institution, message)

        def wait() -> Message:
            reply, cpu_s = future.result()
            # Noted when the answer is taken, in the turn of whose answer it is.
            self._cpu_s += cpu_s
            return reply

        return wait

    def cpu_s(self) -> float:
        """Seconds that the workers' processors were busy with the answers that were taken so far."""
        return self._cpu_s

    def close(self) -> None:
        """Nothing more is handed out, and every worker has ended, one in the middle of something by force."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._backend.pool.terminate_all_actors()
        until = time.monotonic() + _ENDING_S
        while any(_is_alive(process) for process in self._processes) and time.monotonic() < until:
            time.sleep(0.01)
        for process in filter(_is_alive, self._processes):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        # Only now does whoever waits for an answer learn that there is none.
        self._threads.shutdown(wait=True)

    def _answer(self, institution: str, message: Message) -> tuple[Message, float]:
        metadata = message.metadata
        node: dict[str, bool | float | int | str] = {"institution": institution, NUMBER: 0}
        context = Context(metadata.run_id, metadata.dst_node_id, node, RecordDict(), {})
        try:
            reply, after = self._backend.process_message(message, context)
        except Exception as error:
            self._lost = type(error).__name__
            raise
        return reply, float(str(after.state.metric_records[_WORKER][_CPU]))


def fetch(kept: Any) -> Any:
    """In a worker: the value that `RayWorkers.keep` was given."""
    import ray

    return ray.get(kept)


def is_a_worker() -> bool:
    """Whether this process is one of Ray's, and so of a simulation; what a node's settings say is no evidence."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


def refuse_without_ray() -> None:
    """Return if Ray is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            "engine=ray needs Ray, which is not installed here; nothing was trained; install it with pip install "
            "'lepton-fl[ray]', or choose engine=local"
        )


@contextmanager
def ray_workers(resources: Resources) -> Iterator[RayWorkers]:
    """Workers for as long as the block lasts; afterwards none of Ray's processes or files is left.

    Raises:
        ConfigError: Ray is not installed, not one institution fits into this machine, or another port than one of
            this machine alone would have been opened.
    """
    refuse_without_ray()
    paths = os.environ.get("PYTHONPATH")
    folder = tempfile.mkdtemp(prefix="lepton-")  # mode 0700; short, since sockets in it have short names
    backend = workers = None
    try:
        backend = _backend(resources, folder)
        workers = RayWorkers(backend)
        yield workers
    finally:
        if workers is not None:
            workers.close()
        if backend is not None:
            _shut_down()
        _put_back("PYTHONPATH", paths)
        shutil.rmtree(folder, ignore_errors=True)


def _backend(resources: Resources, folder: str) -> Any:
    _close_doors()
    import ray
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend

    if ray.is_initialized():
        raise ConfigError("Ray runs in this process already; nothing was trained; end it, or choose engine=local")
    started: Any = {
        "address": "local",  # never a cluster that RAY_ADDRESS names
        "include_dashboard": False,
        "configure_logging": False,
        "log_to_driver": False,
        "_temp_dir": folder,
    }
    share: Any = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
    made = RayBackend({"init_args": started, "client_resources": share})
    if ray.util.get_node_ip_address() not in _LOOPBACK:
        _shut_down()
        raise ConfigError(
            "Ray was loaded before it could be told to listen on this machine alone; nothing was trained; start "
            "lepton-sim as a process of its own"
        )
    _refuse_too_large(resources, ray.cluster_resources())
    return made


def _shut_down() -> None:
    """Ray ends what it started, by the ids of its processes."""
    import ray

    ray.shutdown()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _refuse_too_large(resources: Resources, there: dict[str, float]) -> None:
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    if resources.num_cpus <= cpus and resources.num_gpus <= gpus:
        return
    _shut_down()
    raise ConfigError(
        f"one institution is to have {resources.num_cpus:g} CPUs and {resources.num_gpus:g} GPUs, and Ray sees "
        f"{cpus:g} and {gpus:g}; nothing was trained; lower ray.num_cpus or ray.num_gpus"
    )


def _close_doors() -> None:
    """Set what Ray reads when it is imported and when it starts; a token once, since Ray keeps the first."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # its own way, on every system, to bind to loopback
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # as it will be by default, and no warning
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
