"""Networks that run with real 1-bit kernels: `burn-timm export` writes them, `load` runs them, `burn-timm bench` times.

    model = burn_timm.deploy.load("reactnet_a_openvino", threads=1)
    logits = model(images)  # [B, 3, H, W], torch or numpy, normalised as model.pretrained_cfg says
"""

from .runtime import OneBitModel, load

__all__ = ["OneBitModel", "load"]
