# The part of dask that lynx_engine uses.
from . import config as config
