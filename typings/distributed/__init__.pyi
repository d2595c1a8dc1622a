# The part of distributed that lynx_engine uses; the package's own annotations are partial.
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

class KilledWorker(Exception): ...
class Scheduler: ...
class Nanny: ...

class Future(Generic[T]):
    def result(self, timeout: float | None = ...) -> T: ...
    def cancel(self) -> None: ...
    def release(self) -> None: ...

class SpecCluster:
    def __init__(
        self,
        *,
        scheduler: dict[str, object],
        workers: dict[int, dict[str, object]],
        silence_logs: int | bool = ...,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

class Client:
    def __init__(self, cluster: SpecCluster, *, set_as_default: bool = ...) -> None: ...
    def submit(
        self,
        func: Callable[..., T],
        *args: object,
        resources: dict[str, float] = ...,
        pure: bool = ...,
    ) -> Future[T]: ...
    def subscribe_topic(
        self, topic: str, handler: Callable[[tuple[float, dict[str, object]]], None]
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

class Worker:
    name: int | str
    def log_event(self, topic: str, msg: object) -> None: ...

def get_worker() -> Worker: ...
