"""The card that an export carries, and an upload that cannot be made."""

import subprocess
import sys

import yaml

from burn_timm.hub import render_card

DETAILS = {
    "model": "reactnet_a", "img_size": 224, "method": "burn", "teacher": "resnet50.a1_in1k",
    "stages": ["w32a1", "w1a1"], "dataset": "photos [train], 10 images",
    "val_dataset": "photos [test], 5 images", "knn_student": 0.5,
    "command": "train_burn.py --model reactnet_a", "commit": "abc", "versions": {"torch": "2.6"},
}


def test_the_card_has_front_matter_usage_figures_and_the_command():
    card = render_card(DETAILS)
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "timm" and "burn-timm" in front["tags"]
    body = card.split("---", 2)[2]
    assert body.index("import burn_timm") < body.index("pretrained=True")
    assert "| this network | 50.00 % |" in body and "train_burn.py --model reactnet_a" in body
    assert "raw pixels" not in body  # a figure that was not measured has no row


def test_the_card_says_whether_labels_were_used():
    assert "10 images, without labels." in render_card(DETAILS)
    assert "10 images, without labels." in render_card({**DETAILS, "method": "supervised_kl"})
    supervised = render_card({**DETAILS, "method": "supervised", "teacher": None})
    assert "10 images, with its labels." in supervised and "without labels" not in supervised


def test_an_unlabelled_run_has_no_table():
    details = {name: value for name, value in DETAILS.items() if not name.startswith(("knn", "val"))}
    assert "top-1" not in render_card(details)


def test_a_hub_that_cannot_be_reached_is_one_line_and_the_export_stays(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    code = (
        "import sys\nfrom burn_timm.errors import BurnError\nfrom burn_timm.hub import push_folder\n"
        "from pathlib import Path\n"
        "try:\n    push_folder(Path(sys.argv[1]), 'somebody/something')\n"
        "except BurnError as error:\n    print(error)\n"
    )
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x", "PATH": "", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("--push-to-hub somebody/something:") and "push it again" in lines[0]
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
