"""The networks of chapters/transfer.md, on both backbones, and what was recorded of them."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from utils import backbone, chapters, results
from utils.backbone import Backbone
from utils.batches import MEAN, STD, normalize
from utils.inspect import count_parameters

transfer = chapters.load("transfer")


def toy_backbone():
    """A small network with every kind of layer that matters."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 12, 1),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 16, 1, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 16),
    )
    return Backbone("toy", net.eval(), 16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 64, "nowhere")


@pytest.fixture
def toy(monkeypatch):
    made = toy_backbone()
    monkeypatch.setattr(transfer, "load_backbone", lambda: copy.deepcopy(made))
    return made


@pytest.fixture(params=backbone.NAMES)
def real(request, tmp_path, monkeypatch):
    """Each of the two backbones, MobileNet's with random weights in place of its own."""
    if request.param == "mobilenet_v3_small":
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        torch.manual_seed(0)
        net = torchvision.models.mobilenet_v3_small()
        torch.save(net.state_dict(), folder / weights.url.rsplit("/", 1)[-1])
    backbone._loaded.cache_clear()
    found = backbone.load_backbone(request.param)
    monkeypatch.setattr(transfer, "load_backbone", lambda: copy.deepcopy(found))
    yield found
    backbone._loaded.cache_clear()


def images(n=4):
    torch.manual_seed(1)
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize("side", [32, 48, 96])
def test_images_come_enlarged_and_normalised_as_in_the_pretraining(side):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = images()
    got = transfer.Enlarge(side, mean, std)(normalize(pixels))
    want = torchvision.transforms.functional.normalize(pixels / 255, mean, std)
    want = F.interpolate(want, size=(side, side), mode="bilinear")
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    same = transfer.Enlarge(32, tuple(MEAN), tuple(STD))(normalize(pixels))
    torch.testing.assert_close(same, normalize(pixels), rtol=0, atol=1e-6)


def test_what_is_still_keeps_its_statistics(toy):
    x = normalize(images())
    for still in (True, False):
        net = transfer.finetuned(side=32, still=still).train()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        want = net.eval()(x)
        net.train()
        got = net(x)
        same = all(torch.equal(before[k], v) for k, v in net.state_dict().items())
        assert same is still
        assert torch.allclose(got, want) is still
        assert net.head.training
        assert all(p.requires_grad for p in net.parameters())


def test_networks_of_both_backbones(real):
    head = 10 * real.features + 10
    size = count_parameters(real.model)
    assert (real.features, size) in {(576, 927_008), (1280, 3_371_008)}
    x = normalize(images(2))
    for make in (transfer.finetuned, transfer.untrained, transfer.lora):
        net = make(side=32).eval()
        assert net(x).shape == (2, 10)
        assert make(7, side=32)(x).shape == (2, 7)
        learn = {k: p.numel() for k, p in net.named_parameters() if p.requires_grad}
        if make is transfer.lora:
            assert all(k.startswith("head.") or ".down." in k or ".up." in k for k in learn)
            layers = [m for m in real.model.modules() if transfer.can_adapt(m)]
            adapters = sum(4 * sum(m.weight.shape[:2]) for m in layers)
            assert len(layers) > 20
            assert sum(learn.values()) == adapters + head
        else:
            assert sum(learn.values()) == size + head


def test_from_scratch_nothing_of_the_pretraining_is_left(real):
    real.model.apply(lambda m: m.running_mean.fill_(3.0) if isinstance(m, nn.BatchNorm2d) else None)
    net = transfer.untrained(side=32)
    assert net.train().backbone.training
    for key, value in net.backbone.state_dict().items():
        if value.ndim > 1:
            assert not torch.equal(value, real.model.state_dict()[key]), key
        elif key.endswith("running_mean"):
            assert not value.any(), key


def test_adapters_change_nothing_before_they_have_learned(toy):
    x = normalize(images())
    adapted, plain = transfer.lora(side=32, rank=2), transfer.finetuned(side=32)
    plain.head.load_state_dict(adapted.head.state_dict())
    torch.testing.assert_close(adapted.eval()(x), plain.eval()(x))
    adapted(x).square().sum().backward()
    loras = [m for m in adapted.modules() if isinstance(m, transfer.LoRA)]
    assert [type(m.layer) for m in loras] == [nn.Conv2d, nn.Linear]  # no stride, no groups
    for m in loras:
        assert m.layer.weight.grad is None
        assert m.up.weight.grad.any()
        assert not m.down.weight.grad.any()  # behind zeros


@pytest.mark.parametrize("rank", [1, 3])
def test_an_adapter_is_the_product_it_says(rank):
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    adapted = transfer.LoRA(layer, rank, alpha=2.0)
    nn.init.normal_(adapted.up.weight)
    matrix = layer.weight + 2.0 / rank * adapted.up.weight @ adapted.down.weight
    x = torch.randn(4, 6)
    torch.testing.assert_close(adapted(x), x @ matrix.T + layer.bias)


@pytest.mark.parametrize("make", ["finetuned", "untrained", "lora"])
def test_impossible_requests_are_one_sentence(toy, make):
    for classes in (0, 1):
        with pytest.raises(ValueError, match=rf"^num_classes is {classes}, but must be at least 2"):
            getattr(transfer, make)(classes, side=32)
    with pytest.raises(ValueError, match=r"^side is 16 pixels, .* at least 32\.$"):
        getattr(transfer, make)(side=16)


def recorded(experiment, key="val_accuracy", **where):
    runs = results.select(results.load("transfer"), experiment=experiment, **where)
    assert sorted(r["seed"] for r in runs) == [0, 1, 2]
    return [r[key] for r in runs]


def test_pretraining_is_worth_more_the_fewer_labels_there_are():
    gains = []
    for epochs in (30, 3, 2):
        tuned = (
            recorded("rates", lr=0.0005)
            if epochs == 3
            else recorded("labels", model="finetuned", epochs=epochs)
        )
        scratch = recorded("labels", model="untrained", epochs=epochs)
        spread = max(map(statistics.stdev, (tuned, scratch)))
        gains.append(statistics.mean(tuned) - statistics.mean(scratch))
        assert gains[-1] > 4 * spread
    assert gains[0] > gains[2]


def test_still_norms_are_worth_their_trouble():
    still, updated = recorded("rates", lr=0.0005), recorded("norms")
    assert min(still) > max(updated)


def test_the_promise_of_the_chapter_holds():
    accuracies = recorded("main", "test_accuracy")
    assert statistics.mean(accuracies) >= 0.90
