"""One of several processes of a run says what is wrong: the leader, or the one that fails alone."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

PATIENCE = 10.0
"""Seconds that a rank waits for the launcher to end it: the leader may not have come as far."""


def other_rank() -> int:
    """This process's rank where it is not the leader, else 0, by what launchers set."""
    rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return int(rank) if rank.isdecimal() and world.isdecimal() and int(world) > 1 else 0


def ended() -> bool:
    """Whether the launcher ends this process, as it does when another one, which has said why, has failed."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    return told.wait(PATIENCE)


def note_for_launcher(message: str) -> None:
    """torchrun ends with a traceback of its own and a summary, which holds what is in this file."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        try:
            with open(path, "w") as file:
                json.dump({"message": message, "timestamp": int(time.time())}, file)
        except OSError:
            return  # it is said on stderr, too
