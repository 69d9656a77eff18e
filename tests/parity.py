"""Our networks against torchvision's of the same name: outputs, order of parameters, counts."""

import pytest
import torch
import torchvision
from torch import nn

from utils.inspect import count_macs, count_parameters


def shuffled(model):
    """As after training: nothing is 0 or 1 or tiny, so that a mistake shows."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.0)
            nn.init.normal_(m.bias, std=0.1)
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.8, 1.2)
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.1)
    return model


def agree(got, want):
    """Equal to 1e-5 of the largest value."""
    scale = want.abs().max()
    assert scale > 0.1  # two networks that answer nothing would agree too
    torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=1e-5)


def same_outputs(build):
    """In evaluation, with torchvision's weights moved over in order."""
    torch.manual_seed(0)
    theirs = shuffled(getattr(torchvision.models, build.__name__)()).eval()
    with torch.device("meta"):  # no second initialisation of up to 127 million weights
        ours = build().eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        agree(ours(x), theirs(x))


def same_order(build):
    """The same shapes in the same order."""
    with torch.device("meta"):
        ours, theirs = build(), getattr(torchvision.models, build.__name__)()
    shapes = [v.shape for v in ours.state_dict().values()]
    assert shapes == [v.shape for v in theirs.state_dict().values()]
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


def published_counts(build):
    """The parameters and MACs that torchvision publishes with its weights."""
    meta = torchvision.models.get_model_weights(build.__name__).DEFAULT.meta
    with torch.device("meta"):
        model = build()
    assert count_parameters(model) == meta["num_params"]
    assert count_macs(model) / 1e9 == pytest.approx(meta["_ops"], rel=0.01)


def number_of_classes(build):
    with torch.device("meta"):
        assert build(num_classes=7)(torch.empty(3, 3, 64, 64)).shape == (3, 7)


CHECKS = (same_outputs, same_order, published_counts, number_of_classes)
