"""Batches: right to the bit, every image once, and the same again for the same seed and epoch."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from utils.batches import _all_crops, _start_of
from utils.data import MEAN, STD, Batches, Split, denormalize, normalize


def make(n=60, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=random)
    return Split(images, torch.arange(n) % 10)


def numbered(n):
    """A split whose images say which they are: image i is of the constant colour i."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 32, 32)
    return Split(images.contiguous(), torch.arange(n) % 10)


def drawn(batches):
    """The numbers of the images of one epoch of a `numbered` split, in the order they come."""
    numbers = [(denormalize(x)[:, 0, 0, 0] * 255).round().int().tolist() for x, _ in batches]
    return list(chain.from_iterable(numbers))


def test_normalize_is_the_formula_and_denormalize_its_inverse():
    images = make(4).images
    x = normalize(images)
    assert x.dtype == torch.float32
    for c in range(3):
        expected = (images[:, c].double() / 255 - MEAN[c]) / STD[c]
        assert torch.allclose(x[:, c].double(), expected, atol=1e-6)
    assert torch.equal((denormalize(x) * 255).round().to(torch.uint8), images)
    assert denormalize(x[0]).shape == (3, 32, 32)
    assert denormalize(torch.full((1, 3, 2, 2), 100.0)).max() == 1
    assert normalize(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_crop_and_flip_equals_pad_and_slice(dtype):
    split = make(3)
    crops = _all_crops(split.images, dtype)
    padded = F.pad(normalize(split.images), (4, 4, 4, 4), mode="reflect").to(dtype)
    for flip in (0, 1):
        for dy in range(9):
            for dx in range(9):
                source = padded.flip(3) if flip else padded
                expected = source[:, :, dy : dy + 32, dx : dx + 32]
                starts = _start_of(flip, torch.arange(3), dy, dx, 3)
                assert torch.equal(crops[starts].permute(0, 3, 1, 2), expected)
    assert torch.equal(crops[-1], crops[_start_of(1, torch.tensor(2), 8, 8, 3)])  # none beyond


def test_augmented_batches_are_crops_and_flips_of_the_right_images():
    split = make(24)
    padded = F.pad(normalize(split.images), (4, 4, 4, 4), mode="reflect")
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1).permute(0, 2, 3, 1, 4, 5)
    windows = windows.reshape(24, 81, 3, 32, 32)
    both = torch.stack([windows, windows.flip(-1)], dim=1).flatten(1, 2)  # (24, 162, 3, 32, 32)
    rows = both[:, :, 1, 16]  # one row of pixels finds an image, the rest is then compared
    seen = []
    for x, y in Batches(split, 10, augment=True, seed=3):
        for image, label in zip(x, y, strict=True):
            (hit,) = (rows == image[1, 16]).all(2).nonzero().tolist()
            assert torch.equal(both[hit[0], hit[1]], image)
            assert label == split.labels[hit[0]]
            seen.append(hit)
    assert sorted(index for index, _ in seen) == list(range(24))
    assert 4 < sum(which >= 81 for _, which in seen) < 20  # about half are flipped
    assert len({which % 81 for _, which in seen}) > 12  # and the crops are spread


def test_crops_and_flips_are_uniform():
    batches = Batches(numbered(250), 250, augment=True)
    index = torch.arange(40.0)
    # An image that holds its own coordinates says which crop was taken.
    both = torch.stack([index, index.flip(0)])[:, None, None, :, None].expand(2, 250, 40, 40, 3)
    starts = len(batches._crops)
    batches._crops = both.contiguous().as_strided((starts, 32, 32, 3), (3, 120, 3, 1))
    corners, flips = [], []
    for _ in range(8):
        ((x, _),) = batches
        flipped = x[:, 0, 0, 1] < x[:, 0, 0, 0]
        flips += flipped.tolist()
        corners += torch.where(flipped, 39 - x[:, 0, 0, 0], x[:, 0, 0, 0]).int().tolist()
    counts = torch.bincount(torch.tensor(corners), minlength=9)
    assert len(counts) == 9
    assert counts.min() > 2000 / 9 * 0.75
    assert counts.max() < 2000 / 9 * 1.25
    assert 0.45 < sum(flips) / 2000 < 0.55


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_type_and_memory_order(augment, dtype):
    for x, y in Batches(make(), 20, augment=augment, dtype=dtype):
        assert x.shape == (20, 3, 32, 32)
        assert x.dtype == dtype
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert y.dtype == torch.int64


def test_unaugmented_is_normalize_and_in_order_without_shuffle():
    split = make(50)
    batches = Batches(split, 16, shuffle=False)
    for _ in range(2):
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert torch.equal(x, normalize(split.images))
        assert torch.equal(y, split.labels)


def test_augmented_in_order_without_shuffle():
    labels = torch.cat([y for _, y in Batches(make(50), 16, augment=True, shuffle=False)])
    assert torch.equal(labels, make(50).labels)


def test_epochs_are_reshuffled_and_hold_every_image_once():
    batches = Batches(numbered(100), 16)
    assert len(batches) == 7
    epochs = [drawn(batches) for _ in range(3)]
    assert batches.epoch == 3
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(range(100))
    batches.epoch = 1
    assert drawn(batches) == epochs[1]


@pytest.mark.parametrize("augment", [False, True])
def test_a_pure_function_of_seed_and_epoch(augment):
    def pixels(seed, epoch):
        batches = Batches(make(), 16, augment=augment, seed=seed)
        batches.epoch = epoch
        torch.manual_seed(torch.randint(1000, ()).item())  # the global state does not matter
        return torch.cat([x for x, _ in batches])

    before = torch.get_rng_state()
    assert torch.equal(pixels(1, 2), pixels(1, 2))
    others = [pixels(1, 2), pixels(2, 1), pixels(1, 3), pixels(0, 2), pixels(2**32 + 1, 2)]
    assert not any(torch.equal(others[0], other) for other in others[1:])
    torch.set_rng_state(before)
    list(Batches(make(), 16, augment=augment))
    assert torch.equal(torch.get_rng_state(), before)  # and it is not used up either


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("skip", [0, 1, 3, 4])
def test_skip_leaves_the_tail(augment, skip):
    whole = list(Batches(make(), 16, augment=augment, seed=5))
    batches = Batches(make(), 16, augment=augment, seed=5)
    batches.skip = skip
    tail = list(batches)
    assert len(tail) == len(whole) - skip
    for (x, y), (u, v) in zip(tail, whole[skip:], strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert (batches.epoch, batches.skip) == (1, 0)
    assert len(list(batches)) == len(batches) == 4  # the next epoch is whole again


def test_a_broken_off_epoch_is_repeated():
    batches = Batches(numbered(64), 16)
    first = next(iter(batches))[0]
    assert batches.epoch == 0
    assert torch.equal(next(iter(batches))[0], first)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("augment", [False, True])
def test_ranks_share_every_batch(world, augment):
    split, options = make(100), {"batch_size": 24, "augment": augment, "seed": 7}
    whole = list(Batches(split, **options))
    ranks = [list(Batches(split, **options, rank=r, world=world)) for r in range(world)]
    assert {len(rank) for rank in ranks} == {len(whole)}
    for k, (x, y) in enumerate(whole):
        assert sum(len(rank[k][1]) for rank in ranks) == len(y)
        for r in range(world):
            assert torch.equal(ranks[r][k][0], x[r::world])
            assert torch.equal(ranks[r][k][1], y[r::world])


def test_drop_last():
    batches = Batches(numbered(50), 16, drop_last=True)
    assert len(batches) == 3
    assert [len(y) for _, y in batches] == [16, 16, 16]
    assert [batches.size_of(k) for k in range(3)] == [16, 16, 16]
    batches = Batches(numbered(50), 16)
    assert [batches.size_of(k) for k in range(4)] == [len(y) for _, y in batches] == [16, 16, 16, 2]
    assert len(Batches(numbered(48), 16)) == len(Batches(numbered(48), 16, drop_last=True)) == 3


def test_a_batch_owns_its_memory():
    split = make(16)
    for augment in (False, True):
        batches = Batches(split, 16, augment=augment, shuffle=False)
        ((x, y),) = batches
        x.zero_(), y.zero_()
        assert torch.equal(split.images, make(16).images)
        assert torch.equal(split.labels, make(16).labels)
        batches.epoch = 0
        assert next(iter(batches))[0].abs().max() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("augment", [False, True])
def test_cuda_gives_the_same_batches(augment):
    here = Batches(make(), 16, augment=augment)
    there = Batches(make(), 16, augment=augment, device="cuda")
    for (x, y), (u, v) in zip(here, there, strict=True):
        assert u.device.type == v.device.type == "cuda"
        assert u.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(x, u.cpu(), atol=1e-6)
        assert torch.equal(y, v.cpu())


# Subsets, and what is refused


def test_subset_is_balanced_in_order_and_repeatable():
    split = numbered(200)
    part = split.subset(50)
    assert torch.bincount(part.labels).tolist() == [5] * 10
    numbers = part.images[:, 0, 0, 0].int()
    assert torch.equal(numbers, numbers.sort().values)
    assert torch.equal(split.subset(50).images, part.images)
    assert not torch.equal(split.subset(50, seed=1).images, part.images)
    assert torch.bincount(split.subset(23).labels).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert torch.equal(split.subset(200).images, split.images)
    assert (len(split), repr(split)) == (200, "Split(200 images)")


def test_subset_refuses_what_it_cannot_give():
    for n in (0, -1, 61):
        with pytest.raises(ValueError, match=f"needs 1 to as many, not {n}"):
            make(60).subset(n)
    uneven = Split(make(60).images, torch.arange(60) % 9)
    with pytest.raises(ValueError, match="needs 2 images of truck, and there are 0"):
        uneven.subset(20)


IMAGES, LABELS = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, r"images must be uint8 \(N, 3, 32, 32\), not float32 \(4, 3"),
        (IMAGES[:, :1], LABELS, r"not uint8 \(4, 1, 32, 32\)"),
        (IMAGES[0], LABELS, r"not uint8 \(3, 32, 32\)"),
        (IMAGES.permute(0, 2, 3, 1), LABELS, r"not uint8 \(4, 32, 32, 3\)"),
        (IMAGES, LABELS.int(), r"labels must be int64 \(4,\), one an image, not int32 \(4,\)"),
        (IMAGES, LABELS[:3], r"not int64 \(3,\)"),
        (IMAGES, LABELS[:, None], r"not int64 \(4, 1\)"),
        (IMAGES, LABELS + 10, r"labels must lie in 0..9, not 10..10"),
        (IMAGES, LABELS - 1, r"labels must lie in 0..9, not -1..-1"),
        (IMAGES[:0], LABELS[:0], "this one is empty"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 to 60, the size of the split, not 0"),
        ({"batch_size": 61}, "not 61"),
        ({"batch_size": 8, "rank": 2, "world": 2}, "rank 2 of 2 is impossible"),
        ({"batch_size": 8, "rank": -1}, "rank -1 of 1 is impossible"),
        ({"batch_size": 2, "world": 4}, "with batches of 2"),
        ({"batch_size": 59, "world": 2}, "The last batch has 1 images for 2 ranks"),
        ({"batch_size": 8, "seed": -1}, "seed must be 0 or more, not -1"),
        ({"batch_size": 8, "dtype": torch.uint8}, "dtype must be a floating-point type"),
    ],
)
def test_batches_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(make(60), **options)


def test_skip_beyond_the_epoch_is_refused():
    batches = Batches(make(60), 16)
    batches.skip = 5
    with pytest.raises(ValueError, match="skip must be 0 to 4, not 5"):
        next(iter(batches))


def test_normalize_refuses():
    with pytest.raises(ValueError, match=r"normalize takes uint8 \(N, 3, H, W\), not float32"):
        normalize(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"not uint8 \(2, 8, 8, 3\)"):
        normalize(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"denormalize takes float .*, not uint8 \(2, 3, 8, 8\)"):
        denormalize(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
