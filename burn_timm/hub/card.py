"""The model card of an export folder."""

import json

from ..methods import METHODS

FIGURES = {
    "knn_pixels": "raw pixels", "knn_untrained": "same network untrained, BatchNorm calibrated",
    "knn_teacher": "teacher", "knn_student": "this network",
}
HERE = "local-dir:PATH_OF_THIS_FOLDER"


def render_card(details: dict, repo: str | None = None) -> str:
    """README.md of an export folder from the run's summary, for the Hub repository `repo` if it is to lie there."""
    rows = [f"| {label} | {100 * details[name]:.2f} % |" for name, label in FIGURES.items() if name in details]
    table = "\n".join(["", f"kNN (k 20, T 0.07) on {details.get('val_dataset')}:", "", "| features of | top-1 |",
                       "|---|---|", *rows, ""]) if rows else ""
    teacher = f", teacher `{details['teacher']}`" if details.get("teacher") else ""
    labels = "with its labels" if METHODS[details["method"]].needs_labels else "without labels"
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
tags: [timm, burn-timm, binary-neural-network]
---
# {details['model']} trained by burn-timm

```python
import burn_timm, timm
model = timm.create_model("{f"hf-hub:{repo}" if repo else HERE}", pretrained=True)
features = model(images)  # [B, 3, {details['img_size']}, {details['img_size']}] -> pooled features
```

Method `{details['method']}`{teacher}, stages {' -> '.join(details['stages'])}, on {details['dataset']}, {labels}.
{table}
```
{details['command']}
```
Commit {details['commit']}; {json.dumps(details['versions'])}.
"""
