"""The process behind `flows.server`: Prefect's API on an inherited socket until stdin closes."""

from __future__ import annotations

import os
import sys
import threading

import uvicorn

_GRACE_S = 1.0


def main() -> None:
    """Serve on the socket whose number is the only argument."""
    server = uvicorn.Server(
        uvicorn.Config(
            "prefect.server.api.server:create_app",
            factory=True,
            fd=int(sys.argv[1]),
            log_level="error",
        )
    )
    threading.Thread(target=_exit_with_parent, args=(server,), daemon=True).start()
    server.run()


def _exit_with_parent(server: uvicorn.Server) -> None:
    # The parent never writes: this returns when its end of the pipe closes, also on SIGKILL. Not
    # through sys.stdin, whose lock a waiting thread would hold when the interpreter ends.
    os.read(0, 1)
    server.should_exit = True
    threading.Timer(_GRACE_S, os._exit, args=(0,)).start()


if __name__ == "__main__":
    main()
