"""The card that an export carries."""

import yaml

from burn_timm.hub.card import render_card

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
