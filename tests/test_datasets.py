"""The chapter on datasets: what its two networks cost, and what they return."""

import pytest
import torch

from utils import chapters
from utils.inspect import count_macs, count_parameters


@pytest.fixture(scope="module")
def datasets():
    return chapters.load("datasets")


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("softmax_regression", 3072 * 10 + 10, 3072 * 10), ("lenet", 62_006, 651_720)],
)
def test_cost_of_the_two_floors(datasets, name, parameters, macs):
    net = getattr(datasets, name)()
    assert count_parameters(net) == parameters
    assert count_macs(net, (3, 32, 32)) == macs
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_number_of_classes_is_an_argument(datasets):
    assert datasets.lenet(num_classes=7)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert datasets.softmax_regression(7)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
