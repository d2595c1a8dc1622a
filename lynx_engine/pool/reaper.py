"""Ends what outlives a killed orchestrator: a small process that waits for its pipe to close.

Device processes and their ffmpegs carry a mark in their environment. A process that hangs with the
interpreter's lock held, or an ffmpeg that is stuck, would not notice that nobody waits for it any
more; the system closes the pipe however the orchestrator dies. Run as a script: only psutil is
loaded.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Generator

MARK = "LYNX_RUN_MARK"
_SEARCH_S = 2.0
_STOP_S = 5.0


@contextlib.contextmanager
def reaper(mark: str) -> Generator[None]:
    """Watch over every process whose environment holds `MARK`=`mark` until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-S", __file__, mark, *_psutil_folder()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _psutil_folder() -> list[str]:
    import psutil

    return [os.path.dirname(os.path.dirname(psutil.__file__))]  # noqa: PTH120  # pathlib is slow here


def end_marked(mark: str) -> int:
    """Kill every process that carries `mark`, and return how many there were."""
    import psutil

    ended: set[int] = set()
    deadline = time.monotonic() + _SEARCH_S
    while time.monotonic() < deadline:
        found = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                    process.kill()
                    ended.add(process.pid)
                    found += 1
        if not found:
            break
        time.sleep(0.05)
    return len(ended)


if __name__ == "__main__":
    sys.path += sys.argv[2:]
    os.read(0, 1)  # the orchestrator never writes
    end_marked(sys.argv[1])
