"""From a published checkpoint to a network in timm's names, with an account of every tensor."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch

from ..errors import BurnError, one_line
from ..identify import infer_model
from ..nn import binary_weight_names
from ..packing import STAGES, trained_bits
from . import moco
from .layouts import BINARY, detect
from .networks import Network, find_networks, identify
from .origins import ORIGINS, Origin
from .source import Ledger, Source

# Of several networks.
_PREFERRED = ("network", "encoder_q", "base_encoder", "encoder", "backbone", "online", "trunk", "teacher")
_INSIDE = re.compile(r"(^|\.)(layer\d|blocks|_blocks|feature|stages)\.")  # of a network: never a head
# What lies beside networks, or is their head: projections, predictions, classifiers, queues and losses.
_BESIDE = re.compile(
    r"(\w+\.){0,2}?(\w+_net\.1|fc|mlp|bn|heads?|\w+_head|proj\w*|(\w+_)?(projector|predictor|classifier|projection)\w*|"
    r"(\w+_)?projection_head\w*|prototypes|smog|queues?|queue_ptr|start_queue_at|memory_bank|local_memory\w*|criterion|"
    r"dino_loss\w*|whitening\w*|diff_branch_head|transformer_encoder|pos_enc)(?=\.|$)"
)
_UNUSED = re.compile(r".*feature\.\d+\.(binary_pw(_down[12])?|bn2(_[12])?)\.\w+")


@dataclass
class Converted:
    """A network in timm's names.

    Attributes:
        layout: The layout it came in; by_keys: whether the file's names told it, not the user.
        model_name, model_args, num_classes: What `timm.create_model` builds it with.
        state_dict: All of its tensors.
        ledger: Where the tensors of the file went.
        part: Which network of the file it is.
        stage: `w1a1` or `w32a1` of a binary network, None of another.
        origin: Who published it.
    """

    layout: str
    by_keys: bool
    model_name: str
    model_args: dict[str, Any]
    num_classes: int
    state_dict: dict[str, torch.Tensor]
    ledger: Ledger
    part: str
    stage: str | None
    origin: Origin


def convert_source(
    source: Source, layout: str | None = None, stage: str | None = None, part: str | None = None,
    keep_hidden: bool = False,
) -> Converted:
    """Convert the network `part` of `source`.

    Args:
        layout: Of `layouts.NAMES`; None: told by the names in the file.
        stage: Of a binary network; None: told by the file.
        part: A name from `find_networks`, or how one begins; None: the one that is used for features.
        keep_hidden: Keep BURN's Linear + ReLU, as the hidden layer of the head.

    Raises:
        BurnError: No or several layouts fit, an option does not, or a tensor is missing or unknown. It names the file.
    """
    networks = find_networks(source)
    if any(network.kind == "own" for network in networks.values()):
        raise BurnError(f"{source.path}: of this package, so it loads as it is; burn-timm pack packs it")
    asked, layout = layout, detect(source, layout)
    part = _choose(source, layout, networks, part)
    network = networks[part]
    _check_options(source, layout, network, part, stage, keep_hidden)
    identify(source, network, layout)
    ledger = Ledger(source)
    hidden = f"{network.root}fc.0" if layout == "burn" and network.is_binary else None
    if keep_hidden and f"{hidden}.weight" not in source.tensors:
        raise BurnError(f"{source.path}: --keep-hidden, but there is no hidden layer {hidden} in the file")
    classifier = _classifier(source, layout, network, keep_hidden)
    if layout == "burn" and network.is_binary:
        network.model_args["act_grad"] = "clip"
    state_dict, num_classes = fill(ledger, network, classifier, hidden if keep_hidden else None)
    if network.is_binary:
        stage = stage or _stage(source, network, state_dict)
        _name_binary(ledger, network, state_dict, stage)
    _account(ledger, layout, networks, part, hidden)
    variant = f"moco_v{len(moco.head_layers(source.tensors, f'{network.root}fc'))}" if layout == "moco" else layout
    return Converted(
        layout, asked is None, network.model_name, network.model_args, num_classes, state_dict, ledger, part, stage,
        ORIGINS.get(variant, ORIGINS[layout]),
    )


def _choose(source: Source, layout: str, networks: Mapping[str, Network], part: str | None) -> str:
    if not networks:
        some = ", ".join(list(source.tensors)[:3])
        raise BurnError(f"{source.path}: no network of a {layout} file in it; it has {some}, ...; is --from right?")
    if part is not None:
        fitting = [name for name in networks if name.startswith(part)]
        if part not in networks and len(fitting) != 1:
            raise BurnError(f"{source.path}: --part {part}: this {layout} file has {', '.join(networks)}")
        return part if part in networks else fitting[0]

    def rank(name: str) -> tuple[int, int]:
        return next((place for place, word in enumerate(_PREFERRED) if name.startswith(word)), 99), len(name)

    return min(networks, key=rank)


def _check_options(
    source: Source, layout: str, network: Network, part: str, stage: str | None, keep_hidden: bool,
) -> None:
    if network.is_binary != (layout in BINARY) and (layout, part) != ("burn", "teacher"):
        kind = "binary" if network.is_binary else "not binary"
        raise BurnError(f"{source.path}: --from {layout}, but its {part} is {kind}")
    if keep_hidden and (layout != "burn" or not network.is_binary):
        raise BurnError(f"{source.path}: --keep-hidden is for the hidden layer of BURN's student")
    if stage and not network.is_binary:
        raise BurnError(f"{source.path}: --stage is for binary networks, and its {part} is none")


def _classifier(source: Source, layout: str, network: Network, keep_hidden: bool) -> str | None:
    """Where the file has the classifier that belongs to the network, if it does: other heads are dropped."""
    root = network.root
    places = {"reactnet": "fc", "s2bnn": "fc" if not root else "", "encoder": "head" if network.kind == "vit" else "fc",
              "efficientnet_lite": "_fc", "burn": "head.fc_cls"}
    place = places.get(layout)
    behind_hidden = layout == "burn" and f"{root}fc.0.weight" in source.tensors and not keep_hidden
    found = place and getattr(source.tensors.get(f"{place}.weight"), "ndim", 0) == 2
    return place if layout == "reactnet" or (found and not behind_hidden) else None


def fill(
    ledger: Ledger, network: Network, classifier: str | None = None, hidden: str | None = None,
) -> tuple[dict[str, torch.Tensor], int]:
    """Every tensor of the model, from the file, and the number of its classes.

    Args:
        classifier, hidden: Where the file has the classifier and the hidden layer before it, if it does.

    Raises:
        BurnError: A tensor is missing or has another shape. It names it as the file does.
    """
    source, num_classes = ledger.source, 0
    if classifier:
        num_classes = len(source.tensor(f"{classifier}.weight"))
    if hidden:
        network.model_args["head_hidden_size"] = len(source.tensor(f"{hidden}.weight"))
    try:
        model = timm.create_model(network.model_name, num_classes=num_classes, device="meta", **network.model_args)
    except Exception as error:  # whatever a constructor says to widths that no network has
        raise BurnError(f"{source.path}: no {network.model_name} has its shapes: {one_line(error)}") from error
    heads = {model.pretrained_cfg["classifier"]: classifier, "head.pre_logits.fc": hidden}
    state_dict = {}
    for name, own in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        places = [heads[module]] if module in heads else [network.root + part for part in network.modules(module)]
        names = [place + leaf if place.endswith(".") or not place else f"{place}.{leaf}" for place in places]
        state_dict[name] = _take(ledger, names, tuple(own.shape), network.model_name)
    return state_dict, num_classes


def _take(ledger: Ledger, names: list[str], shape: tuple[int, ...], model_name: str) -> torch.Tensor:
    """The tensors `names` of the file, side by side, in the shape that the model has."""
    if names[0].endswith("num_batches_tracked"):  # older files have none; it matters to no forward pass
        return ([ledger.take(name) for name in names if name in ledger.left] or [torch.tensor(0)])[0]
    flat = f"{names[0]}s" in ledger.left  # a binary weight as `weights` [O*I*k*k, 1]
    tensors = [ledger.take(f"{name}s" if flat else name) for name in names]
    tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    same = tuple(tensor.squeeze().shape) == tuple(size for size in shape if size != 1)  # shifts are [1, C, 1, 1]
    if tensor.numel() != torch.Size(shape).numel() or not (same or flat):
        raise BurnError(
            f"{ledger.source.path}: {' and '.join(names)} is {list(tensor.shape)}, but {model_name}, the nearest of "
            f"timm's models, has {list(shape)} there; is the file complete?"
        )
    return tensor.reshape(shape)


def _stage(source: Source, network: Network, state_dict: Mapping[str, torch.Tensor]) -> str:
    """What the file tells: by its names, its settings, or scaled signs."""
    if any(name.endswith(".weights") for name in source.tensors):
        return "w1a1"
    if told := re.search(r"type\s*=\s*['\"]ReActnet(_Binact)?['\"]", " ".join(source.texts.values())):
        return "w32a1" if told[1] else "w1a1"
    if trained_bits(state_dict, _binary_names(network)) == 1:
        return "w1a1"
    raise BurnError(
        f"{source.path}: nothing in the file tells its stage; pass --stage w1a1 if its weights were trained with 1 bit "
        "(step 2), --stage w32a1 if only its activations were (step 1)"
    )


def _binary_names(network: Network) -> list[str]:
    return binary_weight_names(timm.create_model(network.model_name, device="meta", **network.model_args))


def _name_binary(ledger: Ledger, network: Network, state_dict: Mapping[str, torch.Tensor], stage: str) -> None:
    """Take the registered name of this shape, if there is one, and the bits of its stage."""
    zeros = sum(int((state_dict[name] == 0).sum()) for name in _binary_names(network))
    if zeros and stage == "w1a1":
        ledger.notes.append(f"{zeros} binary weights are exactly 0, whose sign is 0 in the original; here it is +1")
    args = dict(network.model_args)
    try:
        network.model_name = infer_model(state_dict)
        for name in ("stem_chs", "channels", "depths"):
            del args[name]
    except BurnError:
        pass  # a shape of its own, which the arguments tell
    network.model_args = {**args, **dict(zip(("weight_bits", "act_bits"), STAGES[stage], strict=True))}


def _account(ledger: Ledger, layout: str, networks: Mapping[str, Network], part: str, hidden: str | None) -> None:
    """Drop what is known not to belong to the network; what is left is an error."""
    source, root = ledger.source, networks[part].root
    ledger.drop((name for name in source.tensors if hidden and name.startswith(f"{hidden}.")),
                "hidden layer of the head; --keep-hidden keeps it")
    for name in list(ledger.left):
        if networks[part].kind == "pair" and name.startswith(root) and _UNUSED.fullmatch(name):
            ledger.drop([name], "branches that no block uses")
        elif not _INSIDE.search(name) and (beside := _BESIDE.match(name)):
            ledger.drop([name], f"{beside[0]}, beside the network")
    for other, network in networks.items():
        names = [name for name in ledger.left if other != part and name.startswith(network.root)]
        twin = names and all(_equal(source, name, root + name.removeprefix(network.root)) for name in names)
        ledger.drop(names, f"the same network as {part}" if twin else f"another network; --part {other} converts it")
    if method := source.texts.get("hyper_parameters.method"):
        ledger.notes.append(f"method, as its settings say: {method}")
    if (layout, part) == ("burn", "teacher"):
        ledger.notes.append("BURN's teacher was trained by others, and has their terms too; the paper's is MoCo v2's "
                            "ResNet-50")
    ledger.close(layout)


def _equal(source: Source, one: str, other: str) -> bool:
    return other in source.tensors and torch.equal(source.tensors[one], source.tensors[other])
