# The part of distributed that lynx_engine uses; the package's own annotations are partial.
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

class KilledWorker(Exception): ...
class Scheduler: ...
class Nanny: ...

class Future(Generic[T]):
    key: str
    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None: ...
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

class SchedulerAddress:
    address: str

class Client:
    scheduler: SchedulerAddress
    def __init__(
        self,
        address: SpecCluster | str,
        *,
        set_as_default: bool = ...,
        timeout: float = ...,
    ) -> None: ...
    def submit(
        self,
        func: Callable[..., T],
        *args: object,
        workers: list[str] = ...,
        allow_other_workers: bool = ...,
        pure: bool = ...,
    ) -> Future[T]: ...
    def scheduler_info(
        self, *, n_workers: int = ...
    ) -> dict[str, dict[str, dict[str, object]]]: ...
    def processing(self) -> dict[str, tuple[str, ...]]: ...
    def run(
        self,
        function: Callable[..., T],
        *args: object,
        workers: list[str] = ...,
        nanny: bool = ...,
        on_error: str = ...,
    ) -> dict[str, object]: ...
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
