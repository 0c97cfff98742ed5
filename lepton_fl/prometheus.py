"""Figures of a daemon for Prometheus, on loopback; read when they are asked for, never pushed.

Names follow Prometheus' conventions: base units end a name, and a name that ends in `_total` only ever grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

from lepton_fl.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Figure:
    """One number now."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def check_port(port: int | None) -> None:
    """Raise `ConfigError` for what is no port; null, no metrics, is fine."""
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"metrics_port lies between 1 and 65535, or is null, got {port}")


@contextmanager
def served(port: int | None, read: Callable[[], Iterable[Figure]]) -> Iterator[None]:
    """Answer `http://127.0.0.1:PORT/metrics` inside the block; with null, do nothing.

    Args:
        read: called at each request, in another thread; it may only look.

    Raises:
        ConfigError: the port cannot be had; nothing was started.
    """
    if port is None:
        yield
        return
    from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

    registry = CollectorRegistry()
    registry.register(_Collector(read))
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, addr=ADDRESS, registry=registry)
    except OSError as error:
        raise ConfigError(
            f"cannot serve metrics on {ADDRESS}:{port}: {error.strerror}; nothing was started; choose another "
            "metrics_port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Collector:
    """prometheus_client's interface around `read`."""

    def __init__(self, read: Callable[[], Iterable[Figure]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing is read before it is asked for."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every figure as it is now."""
        release = Figure("lepton_info", "the release of Lepton FL", 1, {"version": version("lepton-fl")})
        for figure in (release, *self._read()):
            yield _family(figure)


def _family(figure: Figure) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if figure.name.endswith("_total") else GaugeMetricFamily
    family = kind(figure.name, figure.help, labels=list(figure.labels))
    family.add_metric(list(figure.labels.values()), figure.value)
    return family
