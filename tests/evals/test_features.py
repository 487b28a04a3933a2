import functools

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from burn_timm.errors import BurnError
from burn_timm.evals.features import (
    calibrate_batchnorm,
    check_features,
    data_config,
    eval_transform,
    extract_features,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=0)


def batches(*sizes, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(n, 3, side, side, generator=generator) for n in sizes]
    return [(x, torch.randint(0, 9, (len(x),), generator=generator)) for x in images]


def test_features_are_the_eval_mode_forward_in_order(model):
    loader = batches(4, 4, 3)
    model.train()
    model.layer1.eval()  # a mixed state has to come back as it was
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    done = []
    features, labels = extract_features(model, loader, progress=done.append)

    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # BatchNorm buffers too
    assert done == [4, 4, 3]
    assert features.dtype == torch.float32 and labels.dtype == torch.int64 and not features.requires_grad
    assert torch.equal(labels, torch.cat([y for _, y in loader]))
    model.eval()
    for i, image in enumerate(torch.cat([x for x, _ in loader])):
        torch.testing.assert_close(features[i], model(image[None])[0], rtol=1e-4, atol=1e-5)
    assert extract_features(model.double(), loader)[0].dtype == torch.float32


def test_eval_transform_follows_the_models_config(model):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (100, 240, 3), dtype=np.uint8))
    # Independent of timm: shorter side to floor(160 / 0.95) = 168, bilinear, centre crop of 160, mean and std 0.5.
    resized = image.resize((int(168 * 240 / 100), 168), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 160) / 2), round((168 - 160) / 2)
    pixels = np.asarray(resized.crop((left, top, left + 160, top + 160)), dtype=np.float32) / 255
    expected = torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)
    torch.testing.assert_close(eval_transform(model)(image), expected, rtol=0, atol=1e-5)


def test_img_size_replaces_only_the_size(model):
    config, full = data_config(model, 24), data_config(model)
    assert (config.pop("input_size"), full.pop("input_size")) == ((3, 24, 24), (3, 160, 160)) and full == config
    cfg = {"mean": (0.0, 0.0, 0.0), "std": (0.5, 0.5, 0.5), "crop_pct": 1.0}
    pixels = eval_transform(cfg, 8)(Image.new("RGB", (50, 40), (255, 0, 0)))
    assert pixels.shape == (3, 8, 8) and pixels[:, 0, 0].tolist() == [2.0, 0.0, 0.0]
    with pytest.raises(BurnError, match="1 input channels"):
        data_config({"input_size": (1, 28, 28)})


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])  # BatchNorm2d, timm's BatchNormAct2d
def test_calibration_is_the_average_of_the_batch_statistics(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, drop_rate=0.5, drop_path_rate=0.5).train()
    inputs = [x * 3 + 1 for x, _ in batches(6, 4, 5, side=64)]
    norms = {k: m for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    model(inputs[0] + 7)  # statistics that are to be forgotten
    seen = {k: [] for k in norms}

    def record(key, _, args):
        x = args[0].double().transpose(0, 1).flatten(1)
        mean = x.mean(1)
        seen[key].append((mean, ((x - mean[:, None]) ** 2).sum(1) / (x.shape[1] - 1)))

    hooks = [m.register_forward_pre_hook(functools.partial(record, k)) for k, m in norms.items()]
    weights = {k: v.clone() for k, v in model.named_parameters()}
    next(iter(norms.values())).momentum = 0.01
    momenta = [m.momentum for m in norms.values()]
    assert calibrate_batchnorm(model, iter(inputs)) == len(norms) > 5
    for hook in hooks:
        hook.remove()

    for key, norm in norms.items():
        assert len(seen[key]) == 3
        means, variances = (torch.stack(values).mean(0).float() for values in zip(*seen[key], strict=True))
        torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)
    assert [m.momentum for m in norms.values()] == momenta
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, weights[k]) for k, v in model.named_parameters())


def test_wrong_input_and_a_network_without_batchnorm(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(BurnError, match="no batch"):
        calibrate_batchnorm(model, [])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(BurnError, match="two images"):
        calibrate_batchnorm(model, [torch.zeros(1, 3, 32, 32)])
    assert model.bn1.momentum == 0.1  # it comes back after an error
    with pytest.raises(BurnError, match="no batch"):
        extract_features(model, [])
    with pytest.raises(BurnError, match="num_classes=0"):
        extract_features(timm.create_model("test_resnet", num_classes=0, global_pool=""), batches(2))
    assert calibrate_batchnorm(nn.Linear(3, 3), [torch.zeros(2, 3)]) == 0


def test_check_features_names_the_set():
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    check_features(x, y, x[:2], y[:2])
    for args, message in [
        ((x, y - 1, x, y), "training set: 4 of 4 images have no label"),
        ((x, y, x / 0, y), "test set: the features of 4 of 4 images are not finite"),
        ((x, y[:3], x, y), "training set: expected"),
        ((x, y, x[:0], y[:0]), "test set: expected"),
        ((x, y, x[:, :2], y), "differ in size"),
    ]:
        with pytest.raises(BurnError, match=message):
            check_features(*args)
