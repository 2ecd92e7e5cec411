"""The interface of a model family: all that the rest of flc asks of a checkpoint. `flc.models.wan` is an example.

Shapes: B samples, C latent channels, F latent frames, H and W latent height and width; videos are float32 arrays
(B, frames, height, width, 3) in [0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from flc.api import Configured, TeacherComposer
from flc.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor, nn

    from flc.models.condition import Condition
    from flc.schedule import FewStepSchedule, Sampler


Part = Literal["transformer", "vae", "text"]
"""Of a model, what has weights: the network, the autoencoder, and what encodes texts (and images)."""
EVERY: frozenset[Part] = frozenset(("transformer", "vae", "text"))


class ModelAdapter(Configured, ABC):
    """A family of checkpoints: how to recognise, load, call, prune and deploy it. One instance holds one model."""

    #: Attributes of the transformer that are lists of blocks, in the order in which they run, each with the config
    #: entry that counts them. A block is called as `block(hidden, *others)`, by position or by name, and returns the
    #: next hidden states (B, tokens, width), alone or, as a tuple, with the next ones of the arguments that follow (a
    #: text's): the first parameters of its `forward`, all of this shape.
    stacks: ClassVar[Mapping[str, str]]
    #: Of each stack whose feed-forward layers can be narrowed, the config entry that counts their channels.
    ffn: ClassVar[Mapping[str, str]]
    #: How the names of those linear layers of a block end that a LoRA adapter goes on.
    lora: ClassVar[Sequence[str]]
    #: What the stock pipeline's call names guidance by the text, in standard form.
    guidance_argument: ClassVar[str] = "guidance_scale"
    #: Components that are in float32 whatever precision is asked for.
    exact: ClassVar[Sequence[str]] = ("vae",)
    #: Where components of its folders may come from, as `model_index.json` names them.
    libraries: ClassVar[Collection[str]] = ("diffusers", "transformers")
    #: Lines of Python, for a model card, that a stock pipeline `pipe` is made ready with after it is loaded.
    setup: ClassVar[Sequence[str]] = ()
    device: torch.device
    #: The folder's `flc.json`, empty without one.
    notes: Mapping[str, Any]

    # -- loading ------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def recognises(cls, index: Mapping[str, Any], transformer: Mapping[str, Any]) -> bool:
        """From the contents of `model_index.json` and of `transformer/config.json`. Two families that recognise one
        folder are an error, unless one is a subclass of the other: it is taken in the other's place."""

    @abstractmethod
    def load(self, folder: Path, device: str = "cpu", dtype: str = "float32", parts: frozenset[Part] = EVERY) -> Self:
        """Read a folder that `flc.models.folder.check` has passed; `UserError` for a kind that is not supported. Of
        what is not in `parts` the configs alone are read: transformer and autoencoder have no numbers then (device
        meta), encoders are None. Without any part it is what counts parameters and makes schedules."""

    @abstractmethod
    def prepare(self, transformer: nn.Module) -> nn.Module:
        """Make a stock transformer of this family ready for `velocity`. Returns it."""

    @property
    @abstractmethod
    def transformer(self) -> nn.Module:
        """The stock transformer, frozen."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision that it runs in."""

    # -- sizes and settings -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def image_to_video(self) -> bool:
        """Whether a first frame may be given."""

    @property
    def needs_first_frame(self) -> bool:
        """Whether one must be given, to every clip."""
        return False

    @property
    @abstractmethod
    def shift(self) -> float:
        """The timestep shift of the folder's own schedule."""

    @abstractmethod
    def size_of(self, folder: Path) -> tuple[int, int, int]:
        """Frames, height, width of a folder's clips when nobody asks for others, without loading it."""

    @abstractmethod
    def guidance_of(self, folder: Path) -> float:
        """Guidance scale of a folder's model when nobody asks for another, standard form, without loading it."""

    @abstractmethod
    def fps_of(self, folder: Path) -> int:
        """Frames a second of a folder's clips, without loading it."""

    @abstractmethod
    def takes_first_frame(self, folder: Path) -> bool:
        """Whether a folder's pipeline may be given a first frame, without loading it."""

    @abstractmethod
    def latent_shape(self, frames: int, height: int, width: int, pipe: Any = None) -> tuple[int, int, int, int]:
        """(C, F, H, W) of a clip's latents; `UserError` when the size does not fit the model, or the stock `pipe`."""

    # -- encoding -----------------------------------------------------------------------------------------

    @abstractmethod
    def condition(
        self, prompts: Sequence[str], negative: str = "", first: Tensor | None = None, given: Tensor | None = None
    ) -> Condition:
        """Of B prompts; first: clean first latent frames (B, C, 1, H, W), used where given (B,)."""

    @abstractmethod
    def encode(self, video: np.ndarray) -> Tensor:
        """Normalised latents (B, C, F, H, W)."""

    def first_frames(self, images: np.ndarray, frames: int, prompts: Sequence[str] = ()) -> Mapping[str, Tensor]:
        """Of first frames (B, height, width, 3) of clips of so many frames and their prompts what a condition holds by
        its field: where a first frame must be given. Where it may be, it is the first of a clip's latents."""
        raise UserError("this family has no clips that need a first frame")

    @abstractmethod
    def decode(self, latents: Tensor) -> np.ndarray:
        """Videos of normalised latents."""

    # -- velocity -----------------------------------------------------------------------------------------

    @abstractmethod
    def velocity(self, call: Any, module: nn.Module, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """v (B, C, F, H, W) in float32; given frames enter clean at t = 0 and leave as 0.

        `call` is what is called (an engine's wrapper, or `module` itself); `module` tells dtype and config.
        """

    @abstractmethod
    def width(self, transformer: nn.Module) -> int:
        """Size D of a token's hidden state."""

    def feed_forward(self, block: nn.Module) -> nn.Module:
        """A block's feed-forward layer, of stacks in `ffn`: its first linear layer makes the channels, its last takes
        them, with nothing but an activation (one channel at a time) between them."""
        raise UserError("feed-forward layers of this family cannot be narrowed: take a pruner of blocks")

    @abstractmethod
    def by_frame(self, hidden: Tensor, frames: int) -> Tensor:
        """(B, F, N, D) of a block's hidden states (B, tokens, D)."""

    @abstractmethod
    def recording_attention(self, frames: int, queries: int) -> AbstractContextManager[Any]:
        """A context in which one forward pass records each block's cross-frame share of attention."""

    # -- deployment ---------------------------------------------------------------------------------------

    def grid(self, steps: int) -> Sequence[float] | None:
        """Sigmas that the stock pipeline hands to its scheduler; None where it only says how many steps."""
        return None

    @abstractmethod
    def schedule(self, steps: int, shift: float, sampler: Sampler) -> FewStepSchedule:
        """The few-step schedule that the stock pipeline walks when it is asked for so many steps."""

    def call_settings(self, folder: Path, guidance: float, negative: str = "") -> dict[str, Any]:
        """Arguments of the stock pipeline's call for this guidance by the text, in standard form, away from the
        negative prompt."""
        settings: dict[str, Any] = {self.guidance_argument: guidance}
        return settings | ({"negative_prompt": negative} if negative and guidance > 1 else {})

    def advice(self, teacher: TeacherComposer, asked: Collection[str]) -> str | None:
        """A warning about this teacher of the loaded model, whose options `asked` the user gave; None where there is
        nothing to say."""
        return None

    def declaration(self) -> dict[str, Any]:
        """Entries of `flc.json` that a student takes over from the loaded model."""
        return {}

    @abstractmethod
    def teacher_scheduler(self) -> Any:
        """A fresh scheduler as the folder configures it."""

    def mend(self, folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
        """Mend a student's folder, whose parts beside the network and the scheduler are copies of the model's, where
        stock loaders would not read these as the model's own pipeline does. Returns entries of model_index.json that
        take the place of those in `index`."""
        return {}

    @abstractmethod
    def stock_class(self, with_image: bool) -> type:
        """The class of such a pipeline."""

    @abstractmethod
    def stock_pipeline(self, folder: Path, with_image: bool, dtype: str | None = None) -> Any:
        """The stock pipeline of a folder, for text-to-video or with a given first frame, in this precision, its
        autoencoder in float32 as `load` has it; in what diffusers reads without being told when None."""
