"""Model card and upload of an export folder."""

import json
import logging
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from .errors import BurnError
from .methods import METHODS

_logger = logging.getLogger(__name__)

FIGURES = {
    "knn_pixels": "raw pixels", "knn_untrained": "same network untrained, BatchNorm calibrated",
    "knn_teacher": "teacher", "knn_student": "this network",
}
HERE = "local-dir:PATH_OF_THIS_FOLDER"


def render_card(details: dict) -> str:
    """README.md of an export folder from the run's summary."""
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
model = timm.create_model("{HERE}", pretrained=True)
features = model(images)  # [B, 3, {details['img_size']}, {details['img_size']}] -> pooled features
```

Method `{details['method']}`{teacher}, stages {' -> '.join(details['stages'])}, on {details['dataset']}, {labels}.
{table}
```
{details['command']}
```
Commit {details['commit']}; {json.dumps(details['versions'])}.
"""


def push_folder(folder: Path, repo: str, private: bool = False) -> str:
    """Upload an export folder in one commit to the Hub repository `repo`; returns its address.

    Byte for byte, except that the card says how to load the model from the Hub.

    Raises:
        BurnError: The Hub refuses or cannot be reached; the folder stays, and a second push completes it.
    """
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        name = address.repo_id  # with the user's name, which REPO may leave out
        files["README.md"] = files["README.md"].replace(HERE.encode(), f"hf-hub:{name}".encode())
        operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=data) for file, data in files.items()]
        api.create_commit(name, operations, commit_message="Upload packed weights")
    except Exception as error:  # the hub's own errors, and those of whichever HTTP library it uses
        reason = str(error).strip().splitlines()[0]
        raise BurnError(f"--push-to-hub {repo}: {reason}; the export stays in {folder}, push it again later") from error
    _logger.info(f"pushed {folder} to {address}")
    return str(address)
