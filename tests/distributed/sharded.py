"""`flc` with every tensor in shards under ZeRO-3, as a large model's are: those below 100,000 numbers deepspeed keeps
whole on each rank, and the embedded model has no larger ones.

    torchrun ... -m tests.distributed.sharded compress ...
"""

from __future__ import annotations

from typing import Any

from flc.cli import main
from flc.train import deepspeed

settings = deepspeed.settings


def sharded(*args: Any) -> dict[str, Any]:
    config = settings(*args)
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


if __name__ == "__main__":
    deepspeed.settings = sharded
    main()
