"""What families of stock diffusers pipelines have in common: folders read whole and finite, one precision for each
component, texts encoded once, clips a few at a time, sizes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from flc.errors import UserError
from flc.family import EVERY, ModelAdapter, Part
from flc.models.config import check_types
from flc.models.folder import read_json
from flc.models.loaded import check_loaded
from flc.models.notes import read_notes
from flc.models.safe import components

#: Pixels of clips that the autoencoder is given at once, at the most, but one clip: it works in float32, and one of
#: full size takes gigabytes.
PIXELS = 2**22
#: Bytes of encoded texts that an adapter keeps: of the largest encoders, a thousand prompts of a hundred tokens.
KEPT = 2**30
TIME_SCALE = 1000.0  # these transformers count time in [0, 1000]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def are_numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def at_once(frames: int, height: int, width: int) -> int:
    """How many clips of this size the autoencoder is given at once."""
    return max(1, PIXELS // (frames * height * width))


class StockAdapter(ModelAdapter):
    """One loaded pipeline of a family whose transformer, autoencoder and text encoders are components by these names.

    The transformer stays a stock one, in the precision that was asked for; the autoencoder is in float32.
    """

    #: As messages name it.
    family: ClassVar[str]
    #: Stock classes of the pipeline (for text alone), of the transformer and of the autoencoder.
    classes: ClassVar[Mapping[str, Any]]
    encoders: ClassVar[Sequence[str]] = ("text_encoder",)
    #: Components that a pipeline of the family may do without.
    optional: ClassVar[Sequence[str]] = ()
    #: Frames, height, width of the family's own examples, and guidance there, in standard form.
    usual_size: ClassVar[tuple[int, int, int]]
    usual_guidance: ClassVar[float]

    pipe: Any
    notes: dict[str, Any]
    device: torch.device
    _texts: dict[str, tuple[Tensor, ...]]

    # -- of a family ----------------------------------------------------------------------------------------

    @abstractmethod
    def refuse(self, folder: Path, index: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """`UserError` for a kind of this family that is not supported, by index and transformer config."""

    @abstractmethod
    def check_numbers(self, pipe: Any, folder: Path) -> None:
        """`UserError` for what stock loaders take from configs as it comes, and only a later call would trip over."""

    def ready(self, pipe: Any, folder: Path) -> None:
        """Make a stock pipeline that was just read what its folder means it to be."""

    @abstractmethod
    def running_dtype(self, transformer: Any) -> torch.dtype:
        """The precision that a stock transformer of this family runs in."""

    @abstractmethod
    def patch(self, transformer: Any) -> tuple[int, int, int]:
        """Latent frames, rows and columns that are one token."""

    def positions(self, transformer: Any) -> int | None:
        """Tokens along an axis at the most; None where there is no such limit."""
        return None

    @abstractmethod
    def encode_texts(self, prompts: Sequence[str]) -> list[tuple[Tensor, ...]]:
        """Of each prompt the rows of its text (L, D) and what the family needs beside them, as the pipeline encodes."""

    @abstractmethod
    def normalised(self, latents: Tensor) -> Tensor:
        """Of the autoencoder's latents (B, C, F, H, W) those that the transformer works on."""

    @abstractmethod
    def raw(self, latents: Tensor) -> Tensor:
        """Its inverse."""

    # -- loading --------------------------------------------------------------------------------------------

    @property
    def weighted(self) -> tuple[str, ...]:
        return ("transformer", "vae", *self.encoders)

    def precisions(self, dtype: str) -> dict[str, torch.dtype]:
        """Of each component, as diffusers takes them. One that is rounded once stays so."""
        return dict.fromkeys(self.exact, torch.float32) | {"default": DTYPES[dtype]}

    def modules(self, pipe: Any) -> list[str]:
        """The components of a pipeline that have weights."""
        return [*self.weighted, *(n for n in self.optional if isinstance(getattr(pipe, n), nn.Module))]

    def check_kind(self, folder: Path) -> None:
        index, config = (read_json(folder / name) for name in ("model_index.json", "transformer/config.json"))
        try:
            self.refuse(folder, index, config)
        except (TypeError, ValueError, AttributeError) as error:  # numbers that are none, and the like
            raise UserError(self.unreadable(folder, error)) from error

    def check_classes(self, folder: Path) -> None:
        """`UserError` unless model_index.json names the family's transformer and autoencoder as such, and their configs
        and the scheduler's are of their constructors' types."""
        index = read_json(folder / "model_index.json")
        for name in ("transformer", "vae"):
            wanted = ["diffusers", self.classes[name].__name__]
            if index.get(name) != wanted:
                said = f"{name} is {index.get(name)!r:.80}, not {wanted}"
                raise UserError(f"{folder / 'model_index.json'}: {said}: mend that entry")
            check_types(self.classes[name], read_json(path := folder / name / "config.json"), path)
        scheduler = getattr(diffusers, components(index).get("scheduler", (None, ""))[1], None)
        if scheduler is not None and (path := folder / "scheduler" / "scheduler_config.json").exists():
            check_types(scheduler, read_json(path), path)
        own = {name: value for name, value in index.items() if not isinstance(value, list)}  # no components
        check_types(self.stock_class(False), own, folder / "model_index.json")

    def read(self, cls: Any, folder: Path, absent: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A stock pipeline of a folder, whole and finite; `absent`: what stands for components that are not read."""
        self.check_classes(folder)
        gone = absent or {}
        try:
            pipe = cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, **gone, **options)
        except Exception as error:  # a stranger's configs and headers may be wrong in any way
            raise UserError(self.unreadable(folder, error)) from error
        for name in self.weighted:
            if name not in gone and getattr(pipe, name) is None:
                raise UserError(
                    f"{folder / 'model_index.json'} names no {name}, which this pipeline needs: name it there"
                )
        for name in self.modules(pipe):
            if name not in gone:
                check_loaded(getattr(pipe, name), folder / name)
        if not self.encoders or self.encoders[0] not in gone:
            self.check_read(pipe, folder)
        for name in ("flow_shift", "shift"):
            if (value := pipe.scheduler.config.get(name)) is not None and not are_numbers([value]):
                raise UserError(f"{folder / 'scheduler' / 'scheduler_config.json'}: {name} must be a number")
        return pipe

    def check_read(self, pipe: Any, folder: Path) -> None:
        """What a whole pipeline's files say together."""
        try:
            self.ready(pipe, folder)
            self.check_tokens(pipe, folder)
            self.check_numbers(pipe, folder)
        except UserError:
            raise
        except Exception as error:  # its files were read once, but perhaps not all that they say
            raise UserError(self.unreadable(folder, error)) from error

    def check_tokens(self, pipe: Any, folder: Path) -> None:
        """`UserError` where a text would not become numbers that its encoder has rows for."""
        for name in self.encoders:
            encoder, tokenizer = getattr(pipe, name), getattr(pipe, name.replace("text_encoder", "tokenizer"))
            place = folder / name.replace("text_encoder", "tokenizer")
            tokenizer(["a text", ""], padding="max_length", max_length=16, truncation=True)
            last, rows = max(tokenizer.get_vocab().values()), encoder.get_input_embeddings().weight.shape[0]
            if last >= rows:
                raise UserError(f"{place} numbers its tokens 0 to {last}, and {folder / name} has rows for {rows} only")

    def unreadable(self, folder: Path, error: Exception) -> str:
        said = (str(error) or type(error).__name__).splitlines()[0]
        return f"{folder} does not load as a {self.family} pipeline: {said}"

    def load(self, folder: Path, device: str = "cpu", dtype: str = "float32", parts: frozenset[Part] = EVERY) -> Self:
        """Read a folder that `flc.models.folder.check` has passed."""
        self.device, self._texts, self.notes = torch.device(device if parts else "meta"), {}, read_notes(folder)
        self.check_kind(folder)
        absent = self.absent(folder, parts)
        self.pipe = self.read(self.stock_class(False), folder, absent, dtype=self.precisions(dtype))
        self.pipe.set_progress_bar_config(disable=True)
        for name in ("transformer", "vae"):
            if name not in absent:
                getattr(self.pipe, name).to(self.device)
        for name in self.modules(self.pipe):
            if (module := getattr(self.pipe, name)) is not None:
                module.requires_grad_(False).eval()
        if "transformer" in absent:
            self.pipe.transformer.to(DTYPES[dtype])
        self.prepare(self.pipe.transformer)
        return self

    def absent(self, folder: Path, parts: frozenset[Part]) -> dict[str, Any]:
        """What stands for the components of a pipeline that are not in `parts`."""
        gone: dict[str, Any] = {}
        try:
            self.check_classes(folder)
            for name in ("transformer", "vae"):
                if name not in parts:
                    with torch.device("meta"):
                        gone[name] = self.classes[name].from_config(read_json(folder / name / "config.json"))
        except UserError:
            raise
        except Exception as error:  # a stranger's configs may be wrong in any way
            raise UserError(self.unreadable(folder, error)) from error
        if "text" not in parts:
            for name in self.encoders:
                gone |= {name: None, name.replace("text_encoder", "tokenizer"): None}
            gone |= dict.fromkeys(self.optional)
        return gone

    @property
    def transformer(self) -> nn.Module:
        return self.pipe.transformer

    @property
    def dtype(self) -> torch.dtype:
        return self.running_dtype(self.pipe.transformer)

    @property
    def shift(self) -> float:
        """The timestep shift that the folder's scheduler was configured with."""
        config = self.pipe.scheduler.config
        if "shift" in self.notes:  # a student's scheduler may hold another number for the same schedule
            return float(self.notes["shift"])
        return float(config.get("flow_shift") or config.get("shift") or 1.0)

    # -- sizes ----------------------------------------------------------------------------------------------

    def size_of(self, folder: Path) -> tuple[int, int, int]:
        """What the folder's flc.json says, or the family's own."""
        said = read_notes(folder).get("size")
        return tuple(said) if said else self.usual_size

    def guidance_of(self, folder: Path) -> float:
        """What the folder's flc.json says, or the family's own."""
        return float(read_notes(folder).get("guidance", self.usual_guidance))

    def width(self, transformer: nn.Module) -> int:
        """Size D of a token's hidden state."""
        config: Any = transformer.config
        return config.num_attention_heads * config.attention_head_dim

    def by_frame(self, hidden: Tensor, frames: int) -> Tensor:
        """(B, F, N, D) of a block's hidden states (B, F N, D): tokens run over a frame's rows, then frames."""
        return hidden.unflatten(1, (frames, -1))

    def latent_shape(self, frames: int, height: int, width: int, pipe: Any = None) -> tuple[int, int, int, int]:
        pipe = pipe or self.pipe
        patch = self.patch(pipe.transformer)
        temporal, spatial = pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial
        for name, value, step in (("height", height, spatial * patch[1]), ("width", width, spatial * patch[2])):
            step = max(step, 16)  # stock pipelines refuse anything else
            if value < step or value % step:
                raise UserError(f"--{name} {value} must be a positive multiple of {step} for this model")
        if frames < 1 or frames % temporal != 1:
            raise UserError(f"--frames {frames} must be one more than a multiple of {temporal} for this model")
        config = pipe.transformer.config
        channels = config.out_channels or config.in_channels  # what comes in may have an image beside it
        shape = (channels, (frames - 1) // temporal + 1, height // spatial, width // spatial)
        most = self.positions(pipe.transformer) or math.inf
        pixels = (frames, height, width)
        for name, value, size, step in zip(("frames", "height", "width"), pixels, shape[1:], patch, strict=True):
            if size // step > most:
                raise UserError(f"--{name} {value} is beyond this model's {most} positions: give a smaller size")
        return shape

    # -- encoding -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> list[tuple[Tensor, ...]]:
        """What was encoded lately is kept, off the device: large encoders are there only while they encode, and so are
        the texts of all clips. `KEPT` bytes are kept at the most, and those of the last call."""
        found = {p: self._texts[p] for p in prompts if p in self._texts}
        missing = sorted({p for p in prompts if p not in found})
        with self.at_work(*(self.encoders if missing else ())):
            for begin in range(0, len(missing), 32):
                part = missing[begin : begin + 32]
                for prompt, encoded in zip(part, self.encode_texts(part), strict=True):
                    found[prompt] = tuple(x.cpu().clone() for x in encoded)
        self._texts = {p: rows for p, rows in self._texts.items() if p not in found} | found  # the latest come last
        held = sum(x.nbytes for rows in self._texts.values() for x in rows)
        for prompt in [p for p in self._texts if p not in found]:
            if held <= KEPT:
                break
            held -= sum(x.nbytes for x in self._texts.pop(prompt))
        return [found[p] for p in prompts]

    @contextmanager
    def at_work(self, *names: str) -> Iterator[None]:
        """With these components on the device, and off it afterwards."""
        try:
            for name in names:
                getattr(self.pipe, name).to(self.device)
            yield
        finally:
            for name in names:
                getattr(self.pipe, name).to("cpu")

    def text(self, prompts: Sequence[str]) -> Tensor:
        """(B, L, D) without the rows that are padding in all; zero after each prompt's end."""
        rows = [encoded[0] for encoded in self.texts(prompts)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)

    @torch.no_grad()
    def encode(self, video: np.ndarray) -> Tensor:
        """Normalised latents (B, C, F', H', W') of clips (B, F, H, W, 3) in [0, 1]."""
        latents = []
        for few in torch.from_numpy(video).split(at_once(*video.shape[1:4])):
            x = few.to(self.device).permute(0, 4, 1, 2, 3).float() * 2 - 1
            latents.append(self.normalised(self.pipe.vae.encode(x).latent_dist.mode()))
        return torch.cat(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Clips (B, F, H, W, 3) float32 in [0, 1] of normalised latents."""
        temporal, spatial = self.pipe.vae_scale_factor_temporal, self.pipe.vae_scale_factor_spatial
        frames, height, width = latents.shape[2:]
        videos = []
        for few in latents.split(at_once(frames * temporal, height * spatial, width * spatial)):
            video = self.pipe.vae.decode(self.raw(few.float()), return_dict=False)[0]
            videos.append(((video + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1).cpu().numpy())
        return np.concatenate(videos)

    # -- deployment -----------------------------------------------------------------------------------------

    def teacher_scheduler(self) -> Any:
        """A fresh scheduler as the folder configures it."""
        return type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)

    def stock_class(self, with_image: bool) -> Any:
        return self.classes["pipeline"]

    def stock_pipeline(self, folder: Path, with_image: bool, dtype: str | None = None) -> Any:
        options = {"dtype": self.precisions(dtype)} if dtype else {}
        return self.read(self.stock_class(with_image), folder, **options)
