"""Runs the official VBench package on one row's videos.

`flc.evaluate.vbench` starts this file with the python of VBench's own environment, which has no flc: only the standard
library, torch and vbench may be imported here.

    python vbench_driver.py SUITE VIDEOS FULL_INFO RESULTS DEVICE DIMENSION...

Each dimension gets a result file of its own, so that one whose weights are missing does not take the others with it.
"""

import os
import sys

# Started as a script, python puts this folder first, and its vbench.py and lpips.py before the packages of those names.
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(os.path.abspath(__file__))]


#: From torch 2.6 on `torch.load` takes tensors only, unless told: release 0.1.5 reads AMT's checkpoint, which holds a
#: number of numpy's, as torch did before. To be set before torch is imported.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"


def main(suite: str, videos: str, info: str, results: str, device: str, *dimensions: str) -> int:
    import torch

    if suite == "vbench-i2v":
        from vbench2_beta_i2v import VBenchI2V as Bench
    else:
        from vbench import VBench as Bench

    failed = []
    for dimension in dimensions:
        try:
            Bench(torch.device(device), info, results).evaluate(
                videos_path=videos,
                name=dimension,
                dimension_list=[dimension],
                imaging_quality_preprocessing_mode="longer",  # the default of VBench's own scripts
            )
        except Exception as error:  # whatever a dimension's model raises, the next one is another model
            failed.append(f"{dimension}: {type(error).__name__}: {error}")
    for line in failed:
        print(" ".join(line.split()), file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
