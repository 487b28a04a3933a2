"""On a GPU: needs a CUDA device."""

import pytest
import timm
import torch

from burn_timm.nn import binary_weight_names
from burn_timm.packing import pack_state_dict

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_agree_and_packing_does_not_change_logits():
    model = timm.create_model("test_reactnet", num_classes=10).eval()
    images = torch.randn(4, 3, 64, 64)
    expected = model(images)
    model = model.cuda()
    found = model(images.cuda())
    torch.testing.assert_close(found.cpu(), expected, atol=5e-2, rtol=5e-2)  # a value at a threshold flips its sign
    packed = pack_state_dict(model.state_dict(), binary_weight_names(model))
    reloaded = timm.create_model("test_reactnet", num_classes=10).eval()
    reloaded.load_state_dict(packed)
    assert torch.equal(reloaded.cuda()(images.cuda()), found)
