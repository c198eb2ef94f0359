"""Locks of files, by which one process alone works on a run.

They end with the process that holds them, however that comes, and are those of the system (portalocker: `flock`).
"""

import time
from typing import IO

import portalocker
from portalocker import LockFlags


def locked(file: IO[bytes], shared: bool = False, patience: float = 0.0) -> bool:
    """Returns whether a file could be locked, trying for `patience` seconds: others take the lock for an instant when
    they look. Closing the file ends it. Raises ``OSError`` where the disk has no locks."""
    end = time.monotonic() + patience
    while True:
        try:
            portalocker.lock(file, (LockFlags.SHARED if shared else LockFlags.EXCLUSIVE) | LockFlags.NON_BLOCKING)
            return True
        except portalocker.AlreadyLocked:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        except portalocker.LockException as error:
            raise error.__cause__ or error from None
