"""Write the metrics of a peer in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from peers.errors import ConfigError, install_command
from peers.metrics import catalog
from peers.metrics.counts import Counts
from peers.metrics.gauges import Gauges
from peers.metrics.histogram import BOUNDS, Histogram

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def require_library() -> None:
    """Raise ConfigError if the library that writes the metrics is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise ConfigError(
            "metrics_listen needs the library prometheus-client",
            f"Install the extra: {install_command('metrics')}",
        ) from None


class Exposition:
    """The metrics page: what this peer has counted, and what the database measures."""

    def __init__(self, counts: Counts, gauges: Gauges) -> None:
        from prometheus_client import CollectorRegistry

        self._counts = counts
        self._gauges = gauges
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type. `accept`: the types that the reader accepts."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its series. The registry calls this."""
        yield from self._counted()
        yield from self._measured()

    def _counted(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        kinds = self._counts.by_kind()
        for name, metric in catalog.OF_PEER.items():
            if metric.type == catalog.HISTOGRAM:
                histograms = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for key, counts in kinds:
                    histogram: Histogram = getattr(counts, name)
                    buckets = _cumulative(histogram)
                    if buckets[-1][1]:
                        histograms.add_metric(key, buckets, histogram.seconds)
                yield histograms
                continue
            counters = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            if metric.labels:
                for key, counts in kinds:
                    counters.add_metric(key, getattr(counts, name))
            else:
                counters.add_metric((), getattr(self._counts, name))
            yield counters

    def _measured(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        gauges = self._gauges.read()
        for metric in catalog.OF_DATABASE:
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for gauge in gauges:
                if gauge.name == metric.name:
                    labels = [gauge.labels.get(label, "") for label in metric.labels]
                    family.add_metric(labels, gauge.value)
            yield family


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Return how many durations are up to each bound. A snapshot, so that the total fits."""
    totals = accumulate(tuple(histogram.buckets))
    return list(zip((*map(str, BOUNDS), "+Inf"), map(float, totals), strict=True))
