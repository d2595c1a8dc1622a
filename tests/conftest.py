"""Settings every test shares."""

from __future__ import annotations

import torch

# Two threads on two contended cores are slower than one, and rows of a matrix product are then
# summed in another order.
torch.set_num_threads(1)
