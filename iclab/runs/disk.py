"""Errors of the disk, and their remedies.

A full disk, a quota, a limit on the size of files and a disk that became read-only are no faults of a run: it is
*interrupted* then, and the same command goes on once the disk takes files again.
"""

import errno

from iclab.errors import UsageError

AGAIN = "and give the same command again"
PASSING = {
    errno.ENOSPC: f"free some space {AGAIN}",
    errno.EDQUOT: f"the quota is used up: free some space {AGAIN}",
    errno.EFBIG: f"the limit on the size of files is reached: raise it (ulimit -f) {AGAIN}",
    errno.EROFS: f"make the disk writable {AGAIN}, or choose another folder with --out",
}
ELSEWHERE = "choose another folder with --out"
ADVICE = PASSING | {errno.EACCES: ELSEWHERE, errno.EPERM: ELSEWHERE, errno.EISDIR: f"remove it {AGAIN}"}


def passing(error: BaseException) -> bool:
    """Returns whether an error comes from the disk and is transient."""
    return isinstance(error, OSError) and error.errno in PASSING


def told(error: Exception) -> str:
    """Returns an error in one line, with the file and a remedy where the disk is at fault."""
    if isinstance(error, OSError):
        where = f"cannot use {error.filename}" if error.filename else "cannot use a file"
        advice = ADVICE.get(error.errno or 0, "")
        return f"{where}: {error.strerror or error}" + (f"; {advice}" if advice else "")
    text = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
    return text.strip().splitlines()[-1]
