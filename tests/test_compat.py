"""The private corners of timm, torch and accelerate that we touch still do what we need; each test names the remedy."""

import pytest
import timm
import torch
import torch.nn.functional as F

from burn_timm import compat

# timm: models and their registry ------------------------------------------------------------------------------------


def test_feature_take_indices():
    """If timm moves it: write it into compat.py (an int counts from the end, negative numbers too; None is all)."""
    assert compat.feature_take_indices(4, [1, -1]) == ([1, 3], 3)
    assert compat.feature_take_indices(4, 2) == ([2, 3], 3)
    assert compat.feature_take_indices(4, None) == ([0, 1, 2, 3], 3)


def test_binary_functions_are_leaves_of_a_trace():
    """If `register_notrace_function` leaves timm.models: `torch.fx.wrap` alone does for tracers of torch."""
    names = {function.__name__ for function in timm.models.get_notrace_functions()}
    assert {"binary_sign", "binary_weight"} <= names


# torch: optimisers and operators ------------------------------------------------------------------------------------


def test_convolution_backward():
    """If ATen's operator changes: call `torch.nn.grad.conv2d_input` and `conv2d_weight`, one after the other."""
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    out = F.conv2d(x, weight, None, 2, 1)
    grad = torch.randn_like(out)
    for got, expected in zip(
        compat.convolution_backward(grad, x, weight, 2, 1), torch.autograd.grad(out, (x, weight), grad), strict=True,
    ):
        torch.testing.assert_close(got, expected)


# torch: reading and exporting files ---------------------------------------------------------------------------------


def test_export_onnx(tmp_path):
    """If torch drops `dynamo=False`: use its other exporter, which needs onnxscript (in the extra `onnx`, then)."""
    onnx = pytest.importorskip("onnx")
    compat.export_onnx(torch.nn.Conv2d(3, 4, 3).eval(), tmp_path / "m.onnx", torch.zeros(1, 3, 8, 8), ["y"], 17)
    written = onnx.load(tmp_path / "m.onnx")
    assert [entry.version for entry in written.opset_import] == [17]
    assert [value.name for value in (*written.graph.input, *written.graph.output)] == ["images", "y"]
