"""What a campaign asks of a pool, whatever stands behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.orders import ClipDraft, FaceRequest, RenderTask
    from lynx_engine.rendering import OnStage


FINISHING = "encode"
"""From this stage on a row needs its device no longer: the next one renders meanwhile."""


class Pool(Protocol):
    """Something that renders jobs; its calls block and may come from several threads.

    At most two calls at a time are made for each device, the second one when the first has told of
    the stage `FINISHING`: so no more than two rows' frames are ever held.

    Every call raises `RowError` when the work failed (code `worker_died` when its process did, and
    no other call can be why), `DeviceLostError` when the device cannot be had any more, and
    `AbandonedError` after `abandon`.
    """

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices by name, one job at a time on each."""
        ...

    def load(self, device: str, variant: str, precision: str) -> None:
        """Load a model on `device` before it is needed."""
        ...

    def embed_face(self, device: str, request: FaceRequest) -> SubjectFace:
        """Embed one face on `device`."""
        ...

    def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render one job on `device` to a checked temp clip."""
        ...

    def abandon(self) -> None:
        """Give up every call in flight, now and from now on."""
        ...
