"""On a GPU: synchronised BatchNorm over two processes is BatchNorm of the whole batch. Needs two CUDA devices."""

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import burn_timm  # noqa: F401

pytestmark = pytest.mark.gpu


def _gradients(model, images):
    model(images).square().mean().backward()
    return {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}


def _worker(rank, images, state, address, results):
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=address, rank=rank, world_size=2)
    model = timm.create_model("test_reactnet", num_classes=0).double().cuda()
    model.load_state_dict(state)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
    gradients = _gradients(model, images.chunk(2)[rank].cuda())
    if rank == 0:
        torch.save(gradients, results)
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_synchronised_batchnorm_is_that_of_the_whole_batch(tmp_path):
    model = timm.create_model("test_reactnet", num_classes=0).double()
    images = torch.randn(16, 3, 48, 48, dtype=torch.float64)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = _gradients(model.cuda(), images.cuda())
    mp.spawn(_worker, (images, state, f"file://{tmp_path}/rendezvous", tmp_path / "grads.pt"), nprocs=2)
    for name, gradient in torch.load(tmp_path / "grads.pt", weights_only=True).items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("module.")], atol=1e-8, rtol=0, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_agree_and_packing_does_not_change_logits(tmp_path):
    from burn_timm.nn import binary_weight_names
    from burn_timm.packing import pack_state_dict

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
