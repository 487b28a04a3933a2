"""torch.hub: `torch.hub.load("OWNER/REPOSITORY", "reactnet_a_burn", pretrained=True)`; every model by its name."""

import timm

from burn_timm.models import MODULES

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors"]

globals().update({name: timm.model_entrypoint(name) for name in timm.list_models(module=MODULES)})
