"""burn-timm: 1-bit vision backbones as timm models. `import burn_timm` registers them; nothing else happens."""

from . import models as models
from .version import __version__ as __version__
