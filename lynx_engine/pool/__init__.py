"""Devices to worker processes: one process a device, watched, ended when it hangs, and replaced.

The pool hands a job to a device and waits. It does not know what a campaign is, what a clip is
called, which row comes next, or whether a failed one runs again.

`devices.py` finds devices; `dask_pool.py` sends work and watches it, `seats.py` keeps the order of
calls on each device and says which of them a death is charged to; `local.py` starts processes on
this machine, `cluster.py` uses those of a running Dask cluster; `remote.py` is what runs there;
`in_process.py` does without any of it. `deadlines.py` says when silence means a hang, and
`reaper.py` ends what outlives a killed orchestrator.
"""

from __future__ import annotations

from lynx_engine.pool.dask_pool import open_cluster_pool, open_pool
from lynx_engine.pool.devices import find_devices
from lynx_engine.pool.in_process import InProcessPool
from lynx_engine.pool.protocol import Pool

__all__ = ["InProcessPool", "Pool", "find_devices", "open_cluster_pool", "open_pool"]
