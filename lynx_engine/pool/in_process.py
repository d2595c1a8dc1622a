"""One device in this process, for debugging: no Dask, no second process, no deadlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lynx_engine.errors import AbandonedError
from lynx_engine.orders import setup_for
from lynx_engine.worker import DeviceWorker

if TYPE_CHECKING:
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.orders import ClipDraft, FaceRequest, RenderTask
    from lynx_engine.rendering import OnStage
    from lynx_engine.settings import Settings


class InProcessPool:
    """See `Pool`."""

    def __init__(self, settings: Settings, device: str) -> None:
        """Use `device` of this process."""
        self.devices = (device,)
        torch_device = "cpu" if device.startswith("cpu") else device
        self._worker = DeviceWorker(setup_for(settings, device, torch_device, expendable=False))
        self._abandoned = False

    def load(self, device: str, variant: str, precision: str) -> None:
        """Load a model; raises RowError."""
        del device
        self._worker.load(variant, precision)

    def embed_face(self, device: str, request: FaceRequest) -> SubjectFace:
        """Embed one face; raises RowError."""
        del device
        return self._worker.embed_face(request)

    def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render one job here; raises RowError or AbandonedError."""
        del device

        def tell(stage: str, done: int, total: int) -> None:
            # The only place where a row of this very thread can be given up.
            if self._abandoned:
                raise AbandonedError
            on_stage(stage, done, total)

        return self._worker.render(task, tell)

    def abandon(self) -> None:
        """Give up the row in flight at its next step."""
        self._abandoned = True
