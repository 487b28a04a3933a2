"""Files of self-supervised teachers in the layouts of the code bases that publish them, around ResNets made by timm."""

import argparse
import functools

import timm
import torch

from .originals import linear, under

MLP = {**linear(512, 32, "0"), **linear(32, 16, "2")}


@functools.cache
def network(name="resnet18", seed=1, **kwargs):
    """A timm model whose BatchNorm statistics and affine parameters are not the initial ones."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=0, **kwargs).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            positive = key.endswith(("weight", "var"))
            tensor.copy_(0.5 + torch.rand_like(tensor) if positive else torch.randn_like(tensor) / 3)
    return model


def children(weights):
    """Names of an `nn.Sequential` of torchvision's children."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {".".join([numbers[key.split(".")[0]], *key.split(".")[1:]]): tensor for key, tensor in weights.items()}


def moco_v1(one, other):
    weights = under("module.encoder_q.", one | linear(512, 16, "fc")) | under("module.encoder_k.", other)
    weights |= under("module.encoder_k.", linear(512, 16, "fc")) | {"module.queue": torch.randn(16, 64)}
    weights["module.queue_ptr"] = torch.tensor([0])
    return {"epoch": 200, "arch": "resnet50", "state_dict": weights, "optimizer": {"state": {}}}


def moco_v2(one, other):
    weights = under("module.encoder_q.", one) | under("module.encoder_q.fc.", MLP)
    return {"epoch": 800, "arch": "resnet50", "state_dict": weights}


def simsiam(one, other):
    weights = under("module.encoder.", one) | under("module.encoder.fc.", MLP) | under("module.predictor.", MLP)
    return {"epoch": 100, "arch": "resnet50", "state_dict": weights, "optimizer": {}}


def swav(one, other):
    weights = under("module.", one) | under("module.projection_head.", MLP)
    return weights | {"module.prototypes.weight": torch.randn(30, 16)}


def byol_openselfsup(one, other):
    weights = under("backbone.", one) | under("online_net.0.", one) | under("target_net.0.", other)
    for name in ("online_net.1.mlp.", "target_net.1.mlp.", "head.predictor.mlp."):
        weights |= under(name, MLP)
    return {"meta": {"epoch": 300}, "state_dict": weights, "optimizer": {"state": {}}}


def byol_sequential(one, other):
    return {
        "online_network_state_dict": under("encoder.", children(one)) | under("projetion.net.", MLP),
        "target_network_state_dict": under("encoder.", children(other)) | under("projetion.net.", MLP),
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(2)}}},
    }


def byol_lightning(one, other):
    weights = under("online_network.encoder.", one) | under("online_network.projector.model.", MLP)
    weights |= under("online_network.predictor.model.", MLP) | under("target_network.encoder.", other)
    weights |= under("target_network.projector.model.", MLP) | under("target_network.predictor.model.", MLP)
    return {"state_dict": weights, "pytorch-lightning_version": "1.1", "global_step": 5}


def byol_lucidrains(one, other):
    weights = under("online_encoder.net.", one | linear(512, 1000, "fc")) | under("online_encoder.projector.", MLP)
    weights |= under("target_encoder.net.", other | linear(512, 1000, "fc")) | under("target_encoder.projector.", MLP)
    return weights | under("online_predictor.", MLP)


def barlow(one, other):
    weights = under("module.backbone.", one) | under("module.projector.", MLP)
    weights |= {"module.bn.running_mean": torch.zeros(16), "module.bn.running_var": torch.ones(16),
                "module.bn.num_batches_tracked": torch.tensor(3)}
    return {"epoch": 1000, "model": weights, "optimizer": {"state": {}}}


def vicreg(one, other):
    return {"epoch": 1000, "model": under("module.backbone.", one) | under("module.projector.", MLP), "optimizer": {}}


def dino(one, other):
    head = {"head.mlp.0.weight": torch.randn(8, 8), "head.last_layer.weight_g": torch.randn(8, 1),
            "head.last_layer.weight_v": torch.randn(8, 8)}
    return {
        "teacher": under("module.", under("backbone.", one) | head),
        "student": under("module.", under("backbone.", other) | head), "epoch": 800,
        "args": argparse.Namespace(arch="resnet50"), "dino_loss": {"center": torch.zeros(1, 8)},
    }


def vissl(one, other):
    model = {"trunk": under("_feature_blocks.", one), "heads": under("0.clf.", MLP)}
    return {"phase_idx": 3, "loss": 1.0, "iteration": 9, "config": Settings({"LOG": 1}),
            "classy_state_dict": {"base_model": {"model": model, "meta": {}}, "optimizer": {"iter": torch.zeros(3)}}}


def vissl_converted(one, other):
    return {"model_state_dict": under("_feature_blocks.", one)}


def solo(one, other):
    weights = under("backbone.", one) | under("momentum_backbone.", other) | linear(512, 100, "classifier")
    for name in ("projector.", "momentum_projector.", "predictor."):
        weights |= under(name, MLP)
    weights |= linear(512, 100, "momentum_classifier") | {"queue": torch.randn(2, 16, 64), "queue_ptr": torch.zeros(1)}
    return {
        "epoch": 400, "global_step": 7, "pytorch-lightning_version": "1.5.1", "state_dict": weights,
        "hyper_parameters": Settings({"method": "mocov2plus"}), "optimizer_states": [{"state": {0: torch.zeros(2)}}],
    }


def solo_old(one, other):
    weights = under("encoder.", one) | under("projector.", MLP) | linear(512, 100, "classifier")
    return {"epoch": 400, "state_dict": weights}


def lightly(one, other):
    weights = under("backbone.", children(one)) | under("backbone_momentum.", children(other))
    for name in ("projection_head.", "projection_head_momentum.", "prediction_head."):
        weights |= under(f"{name}layers.", MLP)
    return {"state_dict": weights, "pytorch-lightning_version": "2.0"}


def lightly_dino(one, other):
    weights = under("teacher_backbone.", one) | under("student_backbone.", other)
    weights |= under("student_head.layers.", MLP) | under("teacher_head.layers.", MLP)
    return {"state_dict": weights | {"criterion.center": torch.zeros(1, 1, 16)}}


def alone(one, other):
    return one


def moco_cut(one, other):
    """Without the head that tells v1 from v2."""
    return {"state_dict": under("module.encoder_q.", one)}


def solo_simclr(one, other):
    """What Barlow Twins and VICReg leave too: a projector, but also the classifier that solo-learn trains beside it."""
    weights = under("backbone.", one) | under("projector.", MLP) | linear(512, 100, "classifier")
    return {"epoch": 400, "pytorch-lightning_version": "1.5.1", "state_dict": weights,
            "hyper_parameters": {"method": "simclr", "lr": 0.1}}


def solo_deepcluster(one, other):
    weights = under("backbone.", one) | under("projector.", MLP) | linear(512, 100, "classifier")
    weights |= {"prototypes.0.weight": torch.randn(9, 16), "local_memory_index": torch.zeros(8),
                "local_memory_embeddings": torch.zeros(2, 8, 16)}
    return {"state_dict": weights}


def lightly_moco(one, other):
    weights = under("backbone.", one) | under("key_backbone.", other) | linear(512, 100, "online_classifier.linear")
    weights |= under("projection_head.layers.", MLP) | under("key_projection_head.layers.", MLP)
    return {"state_dict": weights | {"criterion.memory_bank.bank": torch.zeros(16, 8)}, "hyper_parameters": {}}


def lightly_densecl(one, other):
    weights = under("backbone.", children(one)) | under("backbone_momentum.", children(other))
    for name in ("projection_head_global.", "projection_head_local.", "projection_head_global_momentum."):
        weights |= under(f"{name}layers.", MLP)
    return {"state_dict": weights}


def lightly_swav(one, other):
    weights = under("backbone.", children(one)) | under("projection_head.layers.", MLP)
    return {"state_dict": weights | {"prototypes.heads.0.weight": torch.randn(30, 16)}}


class Settings(dict):
    """Settings of a foreign class, as Lightning, VISSL and OmegaConf leave them in a checkpoint."""
