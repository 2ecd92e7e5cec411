"""Silence for the libraries underneath: a run shows its own bars, and an error is one line.

diffusers and transformers draw progress bars and log advice to stderr while they load and save; deepspeed,
which accelerate imports on the way when it is installed, logs to stdout. Errors still come through, and
`python -W default` brings the Python warnings back.
"""

from __future__ import annotations

import logging
import sys
import warnings

NOISY = r"(diffusers|transformers|huggingface_hub|accelerate|peft|torch|deepspeed)(\..*)?$"


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def hush() -> None:
    """Errors only from here on; called before the first family of models is imported."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()
    logging.getLogger("DeepSpeed").addFilter(_errors_only)  # a level would be set again at its import
    if not sys.warnoptions:
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=NOISY)
