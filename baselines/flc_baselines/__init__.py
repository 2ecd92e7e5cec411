"""Baselines and controls, registered as plugins."""

from collections.abc import Iterator

from flc import hookimpl
from flc.api import Algorithm

HERE = "flc_baselines"


@hookimpl
def flc_pruners() -> Iterator[Algorithm]:
    yield Algorithm("uniform", f"{HERE}.uniform:UniformPruner", "Control: blocks evenly spaced over the depth go")
    yield Algorithm("random", f"{HERE}.random:RandomPruner", "Control: blocks drawn by lot go")
    yield Algorithm("magnitude", f"{HERE}.magnitude:MagnitudePruner", "Control: blocks of small weights go")
    yield Algorithm(
        "shortgpt", f"{HERE}.shortgpt:ShortGptPruner", "Blocks that turn the hidden state least go", "arXiv:2403.03853"
    )
    yield Algorithm("taylor", f"{HERE}.taylor:TaylorPruner", "First-order change of the loss", "arXiv:1906.10771")
    yield Algorithm(
        "f3", f"{HERE}.f3:F3Pruner", "Blocks that attend least across frames go, without training", "arXiv:2312.03459"
    )
    yield Algorithm(
        "icmd", f"{HERE}.icmd:IcmdPruner", "Error in content and in motion, motion kept", "arXiv:2411.18375"
    )
    yield Algorithm(
        "width", f"{HERE}.width:WidthPruner", "Narrower feed-forward layers, then blocks", "arXiv:2301.12900"
    )


@hookimpl
def flc_recovery_trainers() -> Iterator[Algorithm]:
    yield Algorithm("none", f"{HERE}.none:NoRecovery", "Control: no stage II, weights go on as they are")
    yield Algorithm("sft", f"{HERE}.sft:PlainRecovery", "Control: flow matching of the pruned network on the clips")
    yield Algorithm(
        "icmd", f"{HERE}.icmd:IcmdRecovery", "Per-frame feature distillation and a two-headed GAN", "arXiv:2411.18375"
    )


@hookimpl
def flc_distillers() -> Iterator[Algorithm]:
    yield Algorithm("euler", f"{HERE}.euler:EulerSampling", "No distillation: guided Euler steps, as the teacher")
    yield Algorithm(
        "dmd2", f"{HERE}.dmd2:Dmd2Distiller", "Distribution matching with a GAN on teacher features", "arXiv:2405.14867"
    )
    yield Algorithm("lcm", f"{HERE}.lcm:LcmDistiller", "Consistency along the teacher's guided ODE", "arXiv:2310.04378")
    yield Algorithm(
        "magic", f"{HERE}.magic:MagicDistiller", "Distribution matching with a LoRA fake", "arXiv:2503.13319"
    )
    yield Algorithm(
        "codmd", f"{HERE}.codmd:CodmdDistiller", "Distribution matching and relations of samples", "arXiv:2606.21982"
    )


@hookimpl
def flc_teachers() -> Iterator[Algorithm]:
    yield Algorithm(
        "magic", f"{HERE}.magic:MagicTeacher", "Guidance of the teacher, leaning to the fake", "arXiv:2503.13319"
    )
