"""A program that becomes another: as a given user, and ended by a signal when its parent dies.

A program to be run by path (`python -I -S exec_as.py SIGNAL PARENT UID GID COMMAND…`), not a module to
import: it starts in 10 ms, and unlike `preexec_fn` it is safe in a parent that has threads.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
UNCHANGED = "-"


def main(signal_number: int, parent: int, uid: str, gid: str, command: list[str]) -> None:
    if uid != UNCHANGED:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After setuid: changing the user clears the parent-death signal.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # the parent died before the line above
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command is ours, given as a list


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
