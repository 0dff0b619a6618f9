"""The peers of the pretraining: Hugging Face's ViTMAEForPreTraining and lightly's masked autoencoder.

Each is built as its documentation builds it, in the geometry that is asked for, and trained by a plain loop
with PyTorch's default AdamW. One of them there is tuned as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.common import cores
from benchmarks.turns import Baton
from facemae.config import SIZES

SIDE = 112  # pixels of an image
PATCH = 8
RATIO = 0.75
LEAST = 0.2  # of the area, in a random crop
RATE, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.05
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
READY = 6  # batches that are used over and over where data does not count
ENDLESS = 10**7  # images a loader is told that there are
# Width, depth and heads of the decoder that goes with each size of encoder.
DECODERS = {"nano": (64, 2, 4), "tiny": (128, 4, 4), "small": (256, 4, 8), "base": (512, 4, 16)}


@dataclass(frozen=True)
class Setup:
    """What all contestants have in common.

    Attributes:
        size: A key of `DECODERS`.
        device: "cpu" or "cuda".
        precision: "float32", or "bfloat16" for automatic mixed precision.
        threads: Of PyTorch.
        batch: Images per step.
        faces: File of the faces, (N, SIDE, SIDE, 3) uint8.
        jpegs: Folder of the same as JPEG files; None gives all of them batches that are ready in memory.
    """

    size: str
    device: str
    precision: str
    threads: int
    batch: int
    faces: Path
    jpegs: Path | None


def train(name: str, setup: Setup, baton: Baton) -> None:
    """Train a peer for as long as it gets turns."""
    torch.set_num_threads(setup.threads)
    torch.manual_seed(0)
    network = (PEERS | TUNED)[name](setup.size).to(setup.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY)
    batches = _jpegs(setup) if setup.jpegs else _ready(setup)
    baton.begin(network)
    for images in batches:
        images = images.to(setup.device, non_blocking=True)
        with torch.autocast(setup.device, torch.bfloat16, enabled=setup.precision == "bfloat16"):
            loss = network(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        baton.step_done(loss)


class HuggingFace(nn.Module):
    """`ViTMAEForPreTraining` with its own attention and masks."""

    def __init__(self, size: str) -> None:
        super().__init__()
        (width, depth, heads), (narrow, blocks, few) = SIZES[size], DECODERS[size]
        config = ViTMAEConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            decoder_hidden_size=narrow,
            decoder_num_hidden_layers=blocks,
            decoder_num_attention_heads=few,
            decoder_intermediate_size=4 * narrow,
            image_size=SIDE,
            patch_size=PATCH,
            mask_ratio=RATIO,
            norm_pix_loss=True,
        )
        self.network = ViTMAEForPreTraining(config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss."""
        return self.network(images).loss


class Lightly(nn.Module):
    """lightly's modules, put together as in its example of MAE."""

    def __init__(self, size: str) -> None:
        super().__init__()
        (width, depth, heads), (narrow, blocks, few) = SIZES[size], DECODERS[size]
        trunk = VisionTransformer(
            img_size=SIDE, patch_size=PATCH, embed_dim=width, depth=depth, num_heads=heads, num_classes=0
        )
        self.backbone = MaskedVisionTransformerTIMM(vit=trunk)
        self.length = self.backbone.sequence_length
        self.embed = nn.Linear(width, narrow)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=self.length - 1, embed_dim=narrow, depth=blocks, num_heads=few
        )
        self.predict = nn.Linear(narrow, PATCH**2 * 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss."""
        size = (len(images), self.length)
        kept, hidden = utils.random_token_mask(size=size, mask_ratio=RATIO, device=images.device)
        seen = self.embed(self.backbone.encode(images=images, idx_keep=kept))
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, kept, seen.type_as(tokens))
        predicted = self.predict(utils.get_at_index(self.decoder(tokens), hidden))
        target = utils.get_at_index(utils.patchify(images, PATCH), hidden - 1)  # places count the class token
        return F.mse_loss(predicted, target)


class PlainLightly(Lightly):
    """The same, told not to use PyTorch's fused attention, which is slow on a CPU in bfloat16."""

    def __init__(self, size: str) -> None:
        super().__init__(size)
        for module in self.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]


PEERS: dict[str, Callable[[str], nn.Module]] = {"huggingface": HuggingFace, "lightly": Lightly}
TUNED: dict[str, Callable[[str], nn.Module]] = {"lightly_plain": PlainLightly}


def _ready(setup: Setup) -> Iterator[Tensor]:
    """Yield the same few batches over and over, normalised already."""
    faces = np.load(setup.faces)
    places = np.resize(np.arange(len(faces)), READY * setup.batch)
    images = torch.from_numpy(faces[places]).permute(0, 3, 1, 2).float().div(255)
    batches = transforms.Normalize(MEAN, DEVIATION)(images).split(setup.batch)
    while True:
        yield from batches


def _jpegs(setup: Setup) -> Iterator[Tensor]:
    """Yield batches as the recipes of MAE read them: files, decoded and transformed by worker processes."""
    assert setup.jpegs is not None
    loader = DataLoader(
        _Files(setup.jpegs),
        batch_size=setup.batch,
        shuffle=True,
        num_workers=cores(),
        pin_memory=setup.device == "cuda",
        drop_last=True,
    )
    yield from loader


class _Files(Dataset[Tensor]):
    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    SIDE, scale=(LEAST, 1.0), interpolation=InterpolationMode.BICUBIC
                ),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, DEVIATION),
            ]
        )

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, place: int) -> Tensor:
        image = Image.open(self.paths[place % len(self.paths)])
        return self.transform(image.convert("RGB"))
