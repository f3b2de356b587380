"""Many machines for a sweep, through dask.distributed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def connect(scheduler: str) -> Iterator[Any]:
    """A client of a dask scheduler, for :func:`ufm.sweep.run`.

    Args:
        scheduler: its address, such as ``tcp://host:8786``, or ``local:N`` for N processes of this machine. Workers
            need ufm installed.

    Raises:
        ValueError: dask.distributed is missing, or the scheduler does not answer.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("scheduler: dask.distributed is not installed; pip install 'ufm[cluster]'") from None
    if not scheduler.startswith("local"):
        try:
            client = Client(scheduler, timeout=20)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"scheduler: {scheduler!r} does not answer ({error}); start one, or give local:2"
            ) from None
        with client:
            yield client
        return
    number = scheduler.partition(":")[2]
    if not number.isdigit() or int(number) < 1:
        raise ValueError(f"scheduler: {scheduler!r} is not local:N; give a number of processes, such as local:2")
    with (
        LocalCluster(n_workers=int(number), threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client
