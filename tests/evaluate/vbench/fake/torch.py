"""As much of torch as VBench's caller needs: a second torch would take seconds to import."""

import os

# what torch looks at, from 2.6 on, before it reads a checkpoint that holds more than tensors, as AMT's
assert os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") == "1"


def device(name):
    return name
