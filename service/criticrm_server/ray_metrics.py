"""A replica's metrics, the service's and vLLM's, handed to Ray: each node shows those of all its replicas on one page.

`/metrics` behind Ray's proxy is that of whichever replica answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge

_EVERY_S = 5.0  # Ray forgets what it was not told within its own 10 s, and so a replica that is gone
_OURS = ("criticrm_", "vllm:")


async def hand_over(registries: Iterable[CollectorRegistry]) -> None:
    """Until cancelled. In a replica only: Ray adds `application`, `deployment` and `replica` to the labels.

    All are gauges to Ray, counters and buckets too: it counts by itself, and could not be told a count. PromQL's
    `rate` and `histogram_quantile` don't mind.
    """
    registries = list(registries)
    gauges: dict[str, Gauge] = {}
    while True:
        for family in [family for registry in registries for family in registry.collect()]:
            for sample in family.samples:
                if not sample.name.startswith(_OURS) or sample.name.endswith("_created"):
                    continue
                name = sample.name.replace(":", "_")  # which Ray takes no more
                if name not in gauges:
                    gauges[name] = Gauge(name, family.documentation, tuple(sample.labels))  # type: ignore[arg-type] # Ray says tuple[str]
                gauges[name].set(sample.value, sample.labels)
        await asyncio.sleep(_EVERY_S)
