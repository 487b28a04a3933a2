"""Files of self-supervised teachers in the layouts of the code bases that publish them, around ResNets made by timm."""

import argparse
import functools

import timm
import torch

from .originals import Weights, linear, under

N = 120  # tensors of a ResNet-18 without classifier
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


def classifier(classes: int = 100) -> Weights:
    return linear(512, classes, "fc")


def another(part: str, count: int = N) -> dict[str, int]:
    return {f"another encoder; --part {part} converts it": count}


HEAD, PREDICTOR, TRAINING = "projection head", "prediction head", {"optimiser and training state": 1}
DINO_HEAD = {"mlp.0.weight": torch.randn(8, 8), "last_layer.weight_g": torch.randn(8, 1),
             "last_layer.weight_v": torch.randn(8, 8)}
# Layout, part, count of dropped tensors by reason, and the file around the encoder `one` and, if it has two, `other`.
TEACHERS = {
    "moco_v1": ("moco", "encoder_q", another("encoder_k", N + 2) | {"queue of negatives": 2, HEAD: 2},
                lambda one, other: {"epoch": 200, "arch": "resnet50", "optimizer": {"state": {}}, "state_dict": put({
                    "module.encoder_q.": one | classifier(16), "module.encoder_k.": other | classifier(16),
                    "module.queue": torch.randn(16, 64), "module.queue_ptr": torch.tensor([0])})}),
    "moco_v2": ("moco", "encoder_q", {HEAD: 4}, lambda one, other: {
        "epoch": 800, "state_dict": put({"module.encoder_q.": one, "module.encoder_q.fc.": MLP})}),
    # Without the head that tells v1 from v2.
    "moco_cut": ("moco", "encoder_q", {}, lambda one, other: {"state_dict": put({"module.encoder_q.": one})}),
    "simsiam": ("simsiam", "encoder", {PREDICTOR: 4, HEAD: 4}, lambda one, other: {"epoch": 100, "state_dict": put({
        "module.encoder.": one, "module.encoder.fc.": MLP, "module.predictor.": MLP}), "optimizer": {}}),
    "swav": ("swav", "network", {HEAD: 4, "prototypes": 1}, lambda one, other: put({
        "module.": one, "module.projection_head.": MLP, "module.prototypes.weight": torch.randn(30, 16)})),
    "barlow": ("barlow", "backbone", {HEAD: 4, "normalisation of the projections": 3}, lambda one, other: {
        "epoch": 1000, "optimizer": {"state": {}}, "model": put({
            "module.backbone.": one, "module.projector.": MLP, "module.bn.running_mean": torch.zeros(16),
            "module.bn.running_var": torch.ones(16), "module.bn.num_batches_tracked": torch.tensor(3)})}),
    "vicreg": ("vicreg", "backbone", {HEAD: 4}, lambda one, other: {
        "epoch": 1000, "model": put({"module.backbone.": one, "module.projector.": MLP}), "optimizer": {}}),
    "byol_openselfsup": (
        "byol", "online", another("target") | {"the same network as backbone": N, HEAD: 8, PREDICTOR: 4},
        lambda one, other: {"meta": {"epoch": 300}, "optimizer": {"state": {}}, "state_dict": put({
            "backbone.": one, "online_net.0.": one, "target_net.0.": other, "online_net.1.mlp.": MLP,
            "target_net.1.mlp.": MLP, "head.predictor.mlp.": MLP})}),
    "byol_sequential": ("byol", "online", TRAINING | another("target") | {HEAD: 8}, lambda one, other: {
        "online_network_state_dict": put({"encoder.": children(one), "projetion.net.": MLP}),
        "target_network_state_dict": put({"encoder.": children(other), "projetion.net.": MLP}),
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(2)}}}}),
    "byol_lightning": ("byol", "online", another("target") | {HEAD: 8, PREDICTOR: 8}, lambda one, other: {
        "pytorch-lightning_version": "1.1", "global_step": 5, "state_dict": put({
            f"{network}.{name}.": weights for network, encoder in (("online_network", one), ("target_network", other))
            for name, weights in (("encoder", encoder), ("projector.model", MLP), ("predictor.model", MLP))})}),
    "byol_lucidrains": ("byol", "online", another("target", N + 2) | {HEAD: 10, PREDICTOR: 4}, lambda one, other: put({
        "online_encoder.net.": one | classifier(1000), "online_encoder.projector.": MLP, "online_predictor.": MLP,
        "target_encoder.net.": other | classifier(1000), "target_encoder.projector.": MLP})),
    "dino": ("dino", "teacher", TRAINING | another("student") | {HEAD: 6}, lambda one, other: {
        "teacher": put({"module.backbone.": one, "module.head.": DINO_HEAD}),
        "student": put({"module.backbone.": other, "module.head.": DINO_HEAD}), "epoch": 800,
        "args": argparse.Namespace(arch="resnet50"), "dino_loss": {"center": torch.zeros(1, 8)}}),
    "vissl": ("vissl", "trunk", TRAINING | {"heads": 4}, lambda one, other: {
        "phase_idx": 3, "loss": 1.0, "config": Settings({"LOG": 1}), "classy_state_dict": {
            "base_model": {"model": {"trunk": put({"_feature_blocks.": one}), "heads": put({"0.clf.": MLP})}},
            "optimizer": {"iter": torch.zeros(3)}}}),
    "vissl_converted": ("vissl", "trunk", {}, lambda one, other: {
        "model_state_dict": put({"_feature_blocks.": one})}),
    "solo": (
        "solo", "backbone", TRAINING | another("momentum_backbone") | {
            "linear classifier": 4, HEAD: 8, PREDICTOR: 4, "queue": 2},
        lambda one, other: {
            "epoch": 400, "pytorch-lightning_version": "1.5.1", "hyper_parameters": Settings({"method": "mocov2plus"}),
            "optimizer_states": [{"state": {0: torch.zeros(2)}}], "state_dict": put({
                "backbone.": one, "momentum_backbone.": other,
                "": linear(512, 100, "classifier") | linear(512, 100, "momentum_classifier"),
                "projector.": MLP, "momentum_projector.": MLP, "predictor.": MLP,
                "queue": torch.randn(2, 16, 64), "queue_ptr": torch.zeros(1)})}),
    "solo_old": ("solo", "encoder", {"linear classifier": 2, HEAD: 4}, lambda one, other: {
        "epoch": 400, "state_dict": put({"encoder.": one, "projector.": MLP, "": linear(512, 100, "classifier")})}),
    # What Barlow Twins and VICReg leave too: a projector, but also the classifier that solo-learn trains beside it.
    "solo_simclr": ("solo", "backbone", {"linear classifier": 2, HEAD: 4}, lambda one, other: {
        "epoch": 400, "hyper_parameters": {"method": "simclr", "lr": 0.1},
        "state_dict": put({"backbone.": one, "projector.": MLP, "": linear(512, 100, "classifier")})}),
    "solo_deepcluster": (
        "solo", "backbone", {"linear classifier": 2, HEAD: 4, "prototypes": 1, "memory of features": 2},
        lambda one, other: {"state_dict": put({
            "backbone.": one, "projector.": MLP, "": linear(512, 100, "classifier"),
            "prototypes.0.weight": torch.randn(9, 16),
            "local_memory_index": torch.zeros(8), "local_memory_embeddings": torch.zeros(2, 8, 16)})}),
    "lightly": ("lightly", "backbone", another("backbone_momentum") | {HEAD: 8, PREDICTOR: 4}, lambda one, other: {
        "pytorch-lightning_version": "2.0", "state_dict": put({
            "backbone.": children(one), "backbone_momentum.": children(other), "projection_head.layers.": MLP,
            "projection_head_momentum.layers.": MLP, "prediction_head.layers.": MLP})}),
    "lightly_dino": ("lightly", "teacher_backbone", another("student_backbone") | {HEAD: 8, "loss": 1},
                     lambda one, other: {"state_dict": put({
                         "teacher_backbone.": one, "student_backbone.": other, "student_head.layers.": MLP,
                         "teacher_head.layers.": MLP, "criterion.center": torch.zeros(1, 1, 16)})}),
    "lightly_moco": (
        "lightly", "backbone", another("key_backbone") | {HEAD: 8, "linear classifier": 2, "loss": 1},
        lambda one, other: {"hyper_parameters": {}, "state_dict": put({
            "backbone.": one, "key_backbone.": other, "": linear(512, 100, "online_classifier.linear"),
            "projection_head.layers.": MLP, "key_projection_head.layers.": MLP,
            "criterion.memory_bank.bank": torch.zeros(16, 8)})}),
    "lightly_densecl": ("lightly", "backbone", another("backbone_momentum") | {HEAD: 12}, lambda one, other: {
        "state_dict": put({
            "backbone.": children(one), "backbone_momentum.": children(other), "projection_head_global.layers.": MLP,
            "projection_head_local.layers.": MLP, "projection_head_global_momentum.layers.": MLP})}),
    "lightly_swav": ("lightly", "backbone", {HEAD: 4, "prototypes": 1}, lambda one, other: {"state_dict": put({
        "backbone.": children(one), "projection_head.layers.": MLP,
        "prototypes.heads.0.weight": torch.randn(30, 16)})}),
    "alone": ("encoder", "network", {}, lambda one, other: one),
}


def teacher_file(name: str) -> object:
    """The file of that name, around network(seed=1) and network(seed=2)."""
    return TEACHERS[name][-1](*(network(seed=seed).state_dict() for seed in (1, 2)))
