"""What training puts around networks: normalisation and input size, a freeze, a moving average."""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Backbone(nn.Module):
    """A timm model without classifier behind its own normalisation: uint8 `[B, 3, H, W]` -> pooled features `[B, D]`.

    Args:
        model: Its forward gives pooled features (timm: num_classes=0).
        mean, std: Of the model's data configuration, for images in [0, 1].
        size: (H, W) that the images are resized to (bicubic, antialiased), None to take them as they come.
    """

    def __init__(self, model: nn.Module, mean, std, size: tuple[int, int] | None = None):
        super().__init__()
        self.model = model
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor, resize: bool = True) -> torch.Tensor:
        """`resize=False` takes the images at their own size, as small views and patches are meant."""
        x = images.to(self.mean.dtype) / 255
        if resize and self.size is not None and x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.model((x - self.mean) / self.std)


class Frozen(nn.Module):
    """A module that is never trained: no gradients, eval mode that survives `.train()`, BatchNorm buffers untouched.

    With `by_batch` its BatchNorms normalise by the batch where the rest of a network trains.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.requires_grad_(False)
        self.by_batch = False
        self.eval()

    def train(self, mode: bool = True):
        super().train(False)
        for module in self.modules() if self.by_batch else ():
            if isinstance(module, _BatchNorm):
                module.training, module.track_running_stats = mode, not mode  # the latter keeps the buffers
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            x = self.module(x)
        return x.clone()  # a loss may keep it for the backward pass, which it may not keep of inference mode's tensors


class MomentumCopy(nn.Module):
    """A copy of `module` that is not trained, but moved: target = m * target + (1 - m) * online (MoCo, BYOL).

    Its BatchNorms normalise by the batch in training mode and keep statistics of their own, as in the published
    methods; only parameters are averaged (latent ones of binary convolutions too: BURN, Eq. 5, on what that does).

    Args:
        module: What is copied; parameters of the copy have requires_grad False.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, online: nn.Module, momentum: float) -> None:
        """One step towards `online`, a module with the same parameters; `momentum` in [0, 1], 1 stays."""
        mine = list(self.module.parameters())
        theirs = [parameter.detach() for parameter in online.parameters()]
        get_ema_multi_avg_fn(momentum)(mine, theirs, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.module(x)
