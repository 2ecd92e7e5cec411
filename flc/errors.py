"""Errors that are the user's to mend: one line, what was wrong, where, and the way out."""

import errno


class UserError(ValueError):
    """Shown as one line on stderr with exit code 2; a traceback only with `--debug`."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; the state is saved. Exit code 128 + `signal`.

    No `Exception`, as KeyboardInterrupt is none: what plugins and libraries raise is caught in places, this is not."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class NonFinite(UserError):
    """A loss or gradient norm was not finite; raised on all ranks before the optimizer steps."""


class Incomplete(UserError):
    """All is written, but for values that could not be had, and the table says which. Exit code 1."""


class UnknownOption(UserError):
    """An option that its section has not. `what` was asked for, by its `name`, in `section`; `way` is the way out as
    far as the section knows one: others may have it."""

    def __init__(self, what: str, way: str, section: str, name: str) -> None:
        super().__init__(f"{what}: {way}" if way else what)
        self.what, self.section, self.name = what, section, name


class PluginError(UserError):
    """A plugin that is unknown, broken, or provided twice."""


REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


def refused_path(error: BaseException) -> str:
    """What is wrong with a path that the system refuses as such (its name, its kind, or who may use it), or nothing."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in REFUSALS:
        return ""
    return f"{error.filename}: {error.strerror}: give another path, or mend this one"


def out_of_space(error: BaseException) -> bool:
    """safetensors' writer reports the system's error in words only."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "No space left" in str(error)


OF_MEMORY = (
    "take fewer clips at once (recover.accumulate, distill.accumulate, evaluate.batch), recompute activations "
    "(recover.checkpointing, distill.checkpointing), make smaller clips (--frames, --height, --width), or share the "
    "network among GPUs (--engine deepspeed --zero 3 --offload); --dry-run counts what that takes"
)


def out_of_memory(error: BaseException) -> bool:
    """Of a GPU, as torch says it, or of the machine. torch is not imported for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def check_text(text: str) -> None:
    """`ValueError` where a text, or a name of a file, could not be written down."""
    if "\0" in text:
        raise ValueError(f"{text[:40]!r} holds a NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[:40]!r} is not UTF-8") from error
