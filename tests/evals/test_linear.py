import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from burn_timm.errors import BurnError
from burn_timm.evals.heads import LinearHeads, MLPHeads, fit, step_lrs
from burn_timm.evals.linear import Settings, linear_probe


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x, y = torch.from_numpy(data.data).float(), torch.from_numpy(data.target).long()
    return x[:1300], y[:1300], x[1300:], y[1300:]


def noise(n=120, d=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.randint(0, classes, (n,), generator=generator)


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_every_head_equals_torch_sgd(probe, weight_decay):
    x, y = noise()
    lrs, epochs, batch_size = [0.01, 0.3], 10, 32

    def batches(generator):
        for index in torch.randperm(len(x), generator=generator).split(batch_size):
            yield x[index], y[index]

    common = 6, 4, len(lrs), weight_decay, torch.device("cpu")
    heads = LinearHeads(*common) if probe == "linear" else MLPHeads(*common, seed=7)
    generator = torch.Generator().manual_seed(5)
    fit(heads, (batches(generator) for _ in range(epochs)), step_lrs(lrs, epochs, (0.6, 0.8)))
    test, _ = noise(seed=9)
    for logits, lr in zip(heads.logits(test), lrs, strict=True):
        generator = torch.Generator().manual_seed(5)
        torch.manual_seed(7)
        if probe == "mlp":
            head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
        else:
            head = nn.Linear(6, 4)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 8], gamma=0.1)
        for _ in range(epochs):
            for features, labels in batches(generator):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(features), labels).backward()
                optimizer.step()
            scheduler.step()
        assert max(p.abs().max() for p in head.parameters()) > 0.05
        torch.testing.assert_close(logits, head(test), rtol=1e-4, atol=1e-5)


def test_a_hidden_layer_learns_what_no_linear_classifier_can():
    x, _ = noise(n=600, d=2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    wide = torch.cat([x, x, x, x], 1)

    def settings(probe):
        return Settings(probe=probe, epochs=30, lrs=(0.3, 1.0), seed=1)

    values = {probe: linear_probe(wide[:500], y[:500], wide[500:], y[500:], settings(probe))["value"]
              for probe in ("linear", "mlp")}
    assert values["linear"] < 0.7 < 0.9 < values["mlp"]


def test_digits_pixels_agree_with_logistic_regression(digits):
    train_x, train_y, test_x, test_y = digits
    result = linear_probe(*digits)
    scaler = StandardScaler().fit(train_x)
    reference = LogisticRegression(max_iter=2000).fit(scaler.transform(train_x), train_y)
    expected = reference.score(scaler.transform(test_x), test_y)
    assert abs(result["value"] - expected) < 0.02
    assert 0.98 < result["top5"] <= 1 and result["top5"] > result["value"]
    assert [row["lr"] for row in result["sweep"]] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    best = max(row["accuracy"] for row in result["sweep"])
    assert {row["lr"]: row["accuracy"] for row in result["sweep"]}[result["lr"]] == best > 0.9


def test_scale_shift_and_constant_features_do_not_matter(digits):
    train_x, train_y, test_x, test_y = digits
    settings = Settings(epochs=20, lrs=(0.01, 0.1))
    plain = linear_probe(*digits, settings)
    scale = torch.logspace(-3, 3, 64)
    wide = [torch.cat([x * scale + 7 * scale, torch.full((len(x), 3), 0.1)], 1) for x in (train_x, test_x)]
    moved = linear_probe(wide[0], train_y, wide[1], test_y, settings)
    assert abs(plain["value"] - moved["value"]) < 0.01


def test_the_test_set_chooses_nothing(digits):
    train_x, train_y, test_x, test_y = digits
    settings = Settings(epochs=5, lrs=(0.001, 0.01, 0.1))
    first = linear_probe(*digits, settings)
    other = linear_probe(train_x, train_y, test_x.flip(1), test_y.roll(1), settings)
    assert (first["lr"], first["sweep"]) == (other["lr"], other["sweep"]) and first["value"] > other["value"] + 0.3


def test_a_diverging_rate_is_passed_over(digits):
    result = linear_probe(*digits, Settings(epochs=3, lrs=(1e38, 0.01)))
    assert result["lr"] == 0.01 and result["sweep"][1] == {"lr": 1e38, "accuracy": 0.0, "loss": None}
    with pytest.raises(BurnError, match="diverged at every learning rate"):
        linear_probe(*digits, Settings(epochs=3, lrs=(1e38,)))


def test_few_images_and_few_classes():
    x, y = noise(classes=3)
    assert linear_probe(x, y, x, y, Settings(epochs=2, lrs=(0.1,)))["top5"] == 1.0
    with pytest.raises(BurnError, match="at least 10 training images"):
        linear_probe(x[:9], y[:9], x, y)
