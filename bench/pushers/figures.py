"""What a client of the bench measures of itself: its CPU, its rate, how long answers take."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping, Sequence

WARM = 2_000
TOKENS = [f"{number:064x}" for number in range(5_000)]
BODY = (
    b'{"aps":{"alert":{"body":"ana and 2 others liked your photo"},"badge":3,"sound":"default","thread-id":"like-99"},'
    b'"nid":"01JD8YK3V9","epoch":"12.ab","seq":7,"kind":"like","object_type":"photo","object_id":"99"}'
)
TOPIC = "com.example.photos"
FCM_PATH = "/v1/projects/example/messages:send"
FCM_TOKENS = [f"bench:{number:0140d}" for number in range(5_000)]
FCM_BODY = (
    b'{"message":{"token":"%b","data":{"nid":"01JD8YK3V9","epoch":"12.ab","seq":"7","kind":"like","unread":"3",'
    b'"object_type":"photo","object_id":"99"},"notification":{"body":"ana and 2 others liked your photo"},"android":'
    b'{"priority":"HIGH","ttl":"21600s","collapse_key":"like","notification":{"tag":"like-99","notification_count":3,'
    b'"sound":"default"}}}}'
)


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Figures:
    """Begin, tell each answer, print. Times in seconds of time.perf_counter."""

    def __init__(self) -> None:
        self._cpu, self._at = cpu(), time.perf_counter()
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}

    def answered(self, status: str, latency: float) -> None:
        self.latencies.append(latency)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def answered_all(self, statuses: Mapping[object, int], latencies: Sequence[float]) -> None:
        """The same for many, by status."""
        self.latencies += latencies
        for status, count in statuses.items():
            self.statuses[str(status)] = self.statuses.get(str(status), 0) + count

    def print(self) -> None:
        used, took = cpu() - self._cpu, time.perf_counter() - self._at
        ordered, count = sorted(self.latencies), len(self.latencies)
        print(
            json.dumps(
                {
                    "cpu_us_per_push": used / count * 1e6,
                    "pushes_per_s": count / took,
                    "p50_ms": ordered[count // 2] * 1e3,
                    "p99_ms": ordered[count * 99 // 100] * 1e3,
                    "answered": count,
                    "statuses": self.statuses,
                }
            )
        )
