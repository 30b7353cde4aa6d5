"""Fine-tuning (train.py --init, --freeze): copy the weights of another network, freeze the streams.

Weights are matched by what they read or make. Those that read a joint or a body part are copied if both
layouts have one of this name, those of the classifiers if the classes are the same, all others always.
"""

import re
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from extensions import MODALITIES
from model import TwoStreamRNN
from skeletons.layout import Layout
from training.checkpoint import build_model

Freeze = Literal["none", "temporal", "spatial", "both"]

# What reads the input of a ResidualLSTMEncoder, of another LSTMEncoder, of a VisibleBatchNorm.
RESIDUAL_INPUT = ("input_proj.weight",)
LSTM_INPUT = ("layers.0.weight_ih_l0", "layers.0.weight_ih_l0_reverse")
NORM_INPUT = ("weight", "bias", "running_mean", "running_var")


@torch.no_grad()
def copy_weights(
    model: TwoStreamRNN, layout: Layout, classes: Sequence[str], checkpoint: dict[str, Any]
) -> dict[str, Any]:
    """Copy the weights of a checkpoint's network into `model`, which has the same settings.

    layout, classes  of the model's data

    Weights that read joints which the checkpoint's layout lacks are zero: the temporal RNN and view
    adaptation ignore these joints at first. (The spatial RNN reads all joints with the same weights.)

    Returns, for the record of the run, what the checkpoint was trained on (data, epoch), whether its
    "classifiers" were "copied" or are "new", and "joints", "new_joints": names of the joints whose
    weights were copied, and of the others. Raises ValueError where the networks do not fit.
    """
    source_layout, source = Layout.from_dict(checkpoint["layout"]), build_model(checkpoint)
    if source.channels != model.channels:
        raise ValueError(
            f"its network reads {source.channels} coordinates of a joint, the data has {model.channels}"
            "\nstart from a network that was trained on such data"
        )
    partner = source.joint_features.partner and model.joint_features.partner
    if partner and source.opposite_axes != model.opposite_axes:
        raise ValueError(
            "an earlier version of this code trained it, and read partners in other axes\n"
            "start from a network that was trained since"
        )
    joints, hierarchical = shared_joints(source_layout, layout), len(unwrap(model.temporal).parts)
    if not joints or (hierarchical and not source_layout.parts.keys() & layout.parts.keys()):
        raise ValueError(
            f"its layout {source_layout.name} and that of the data, {layout.name}, have no joints, or "
            "no body parts, of the same names\nstart from a network of a layout with these names"
        )
    same_classes = list(classes) == list(checkpoint["classes"])
    known = labelled_weights(source, source_layout, joints, "source")
    for name, (weights, labels) in labelled_weights(model, layout, joints, "target").items():
        if name not in known or ("_classifier." in name and not same_classes):
            continue
        values, source_labels = known[name]
        if labels is None:
            weights.copy_(values)
            continue
        if weights.ndim == 2:
            weights.zero_()
        column_of = {label: column for column, label in enumerate(source_labels)}
        shared = [i for i, label in enumerate(labels) if label in column_of]
        origin = [column_of[labels[i]] for i in shared]
        weights[..., shared] = values[..., origin].to(weights.device)
    return {
        "data": checkpoint["config"]["data"],
        "epoch": checkpoint["epoch"],
        "classifiers": "copied" if same_classes else "new",
        "joints": joints,
        "new_joints": [name for name in layout.joints if name not in joints],
    }


def describe_copy(copied: dict[str, Any], model: TwoStreamRNN) -> str:
    """What `copy_weights` returned, and the path of the checkpoint, in words."""
    joints = f"weights of {len(copied['joints'])} joints copied"
    if copied["new_joints"]:
        joints += f"; its layout lacks {', '.join(copied['new_joints'])}, whose weights are new"
    classifiers = "copied, since the classes are the same"
    if copied["classifiers"] == "new":
        classifiers = f"new, for {model.temporal_classifier.out_features} other classes"
    counts = [sum(w.numel() for w in model.parameters() if w.requires_grad is flag)
              for flag in (True, False)]  # fmt: skip
    frozen = f"; {counts[0]:,} parameters are trained, {counts[1]:,} are frozen" * bool(counts[1])
    return (
        f"start: {copied['checkpoint']} (epoch {copied['epoch']} on {copied['data']}); {joints}\n"
        f"classifiers: {classifiers}{frozen}"
    )


def shared_joints(source: Layout, target: Layout) -> list[str]:
    """Names of the target's joints that are the same in the source. Names with a number, as "joint 7",
    count only if all names are equal: elsewhere the same number may be another joint."""
    if source.joints == target.joints:
        return list(target.joints)
    return [name for name in target.joints if name in source.joints and not re.search(r"\d", name)]


def unwrap(stream: nn.Module) -> nn.Module:
    """The TemporalRNN or SpatialRNN of a stream, which a causal network wraps."""
    return getattr(stream, "stream", stream)


def labelled_weights(
    model: TwoStreamRNN, layout: Layout, shared: Sequence[str], owner: str
) -> dict[str, tuple[Tensor, list | None]]:
    """All weights and buffers by name, with body parts by theirs, and labels of the last axis, if that
    depends on the layout: what each column reads. Tensors are those of the model, not copies.

    shared  joints that both networks have; others are labelled as those of the `owner`
    """
    names, parts = {}, list(layout.parts)
    for name, weights in model.state_dict().items():
        name = name.replace(".stream.", ".")  # of a causal network
        name = re.sub(r"\.parts\.(\d+)\.", lambda part: f".parts.{parts[int(part[1])]}.", name)
        names[name] = weights
    columns = {}
    for module, labels in column_labels(model, layout, shared, owner).items():
        inputs = RESIDUAL_INPUT if f"{module}.{RESIDUAL_INPUT[0]}" in names else LSTM_INPUT
        inputs = NORM_INPUT if module.startswith("joint_features.") else inputs
        columns |= {f"{module}.{name}": labels for name in inputs}
    return {name: (weights, columns.get(name)) for name, weights in names.items()}


def column_labels(
    model: TwoStreamRNN, layout: Layout, shared: Sequence[str], owner: str
) -> dict[str, list[tuple]]:
    """What the inputs of each module that depends on the layout are, in their order."""
    joints = [name if name in shared else (owner, name) for name in layout.joints]
    coordinates, frames = range(model.channels), range(unwrap(model.spatial).window)
    partner = [("partner", index) for index in (*coordinates, *joints)]
    own = [
        (modality, index)
        for modality in MODALITIES
        if modality in model.joint_features.modalities and modality != "partner"
        for index in (joints if modality == "distance" else coordinates)
    ]
    features = own + partner * bool(model.joint_features.partner)
    labels = {
        "view_adaptation.encoder": product(coordinates, joints),
        "joint_features.norm": product(own, joints),
        "joint_features.partner.norm": product(partner, joints),
        "temporal.whole_body": product(joints, features),
        "spatial.rnn": product(features, frames),
    }
    if parts := unwrap(model.temporal).parts:
        labels["temporal.whole_body"] = product(layout.parts, range(parts[0].output_size))
        for name, members in layout.parts.items():
            labels[f"temporal.parts.{name}"] = product([joints[j] for j in members], features)
    return {module: list(each) for module, each in labels.items()}


def freeze(model: TwoStreamRNN, streams: Freeze) -> None:
    """Exclude streams from training. What both read, view adaptation and input normalisation, is then
    excluded, too: a frozen stream maps a clip to the same features as before."""
    if streams == "none":
        return
    frozen = ("temporal", "spatial") if streams == "both" else (streams,)
    for name in (*frozen, "view_adaptation", "joint_features"):
        getattr(model, name).requires_grad_(False)


def frozen_modules(model: TwoStreamRNN) -> list[nn.Module]:
    """The modules that `freeze` excluded from training. In training they stay in evaluation mode:
    without dropout, and with the statistics that they have."""
    trained = {module: [w.requires_grad for w in module.parameters()] for module in model.children()}
    return [module for module, flags in trained.items() if flags and not any(flags)]
