"Augmentations of pictures with known pixels, against NumPy, Pillow and torchvision"
import numpy as np
import pytest, torch
from PIL import Image, ImageEnhance, ImageOps
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorImage
from torchvision.transforms import InterpolationMode, functional as TF
from cifar_fastai.base.randomness import BatchRandom
from cifar_fastai.data.augment import CropFlip, Cutout, Jitter, Policy, Rotate, augmentation_transforms
from cifar_fastai.data.operations import auto_contrast, brightness, contrast, equalize, posterize, saturation, sharpness, solarize
from cifar_fastai.data.operations import affine, crop_flip, cut_out, rotate, shear, translate
from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.augment import cutmix, mixup
from cifar_fastai.data.policies import OPERATIONS, RAND, TRIVIAL, apply_operations, rand_augment, trivial_augment
from cifar_fastai.base.randomness import hash_positions
from cifar_fastai.recipes.choices import AUGMENTATIONS

OURS = [name for name, chosen in AUGMENTATIONS.items() if not chosen.fastai] + ['crop_flip_cutout16', 'crop_alternating_cutout8', 'crop_rotate_cutout5']


def photos(count=24, size=32, seed=0):
    "Smooth coloured pictures with some noise, uint8 (N, H, W, 3)"
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(picture).resize((size, size), Image.BICUBIC)) for picture in small])
    return np.clip(smooth.astype(int) + generator.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def batch_of(pixels): return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255  # channels-last, as from the loader
def pixels_of(images): return (images.permute(0, 2, 3, 1)*255).round().to(torch.uint8).numpy()
def is_channels_last(images): return images.is_contiguous(memory_format=torch.channels_last)


def coordinates(count=200, size=32):
    "Each pixel tells its image, row and column, (N, 3, H, W)"
    grid = np.indices((count, size, size)).astype(np.float32)
    return torch.from_numpy(np.moveaxis(grid, 0, -1).copy()).permute(0, 3, 1, 2)


# ---- crop and flip

@pytest.mark.parametrize('mode', ['reflect', 'constant'])
@pytest.mark.parametrize('size,padding', [(32, 4), (8, 7), (33, 5)])
def test_crop_flip_is_numpy_pad_and_slice(mode, size, padding):
    generator = np.random.default_rng(0)
    pixels = generator.random((60, size, size, 3), dtype=np.float32)
    top, left = generator.integers(-padding, padding+1, (2, 60))
    flip = generator.random(60) < 0.5
    result = crop_flip(torch.from_numpy(pixels).permute(0, 3, 1, 2), *map(torch.from_numpy, (top, left, flip)), pad_mode=mode)
    assert is_channels_last(result)
    for picture, t, l, f, shown in zip(pixels, top, left, flip, result.permute(0, 2, 3, 1).numpy()):
        padded = np.pad(picture, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        expected = padded[padding+t:padding+t+size, padding+l:padding+l+size]
        assert np.array_equal(shown, expected[:, ::-1] if f else expected)


def test_crops_and_flips_are_drawn_evenly_and_independently():
    images, random = coordinates(), BatchRandom(0)
    transform, seen = CropFlip(random, padding=4), []
    for batch in range(40):
        random.start(0, batch)
        shown = transform(TensorImage(images), split_idx=0)
        assert torch.equal(shown[:, 0, 0, 0].long(), torch.arange(200))
        row, column = shown[:, 1, 16, 16] - 16, shown[:, 2, 16, 15:17]
        flip = column[:, 0] > column[:, 1]
        seen.append(torch.stack([row, torch.where(flip, column[:, 1] - 15, column[:, 0] - 15), flip.float()], 1))
    row, column, flip = torch.cat(seen).T
    for shift in (row, column):
        assert set(shift.tolist()) == set(range(-4, 5))
        assert torch.bincount((shift + 4).long()).min() > 8000/9*0.85
    assert abs(flip.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef([row, column, flip])[np.triu_indices(3, 1)]).max() < 0.04


def test_no_flip_and_no_padding():
    images = TensorImage(coordinates(50))
    assert torch.equal(CropFlip(BatchRandom(), padding=0, flip='')(images, split_idx=0), images)
    shown = CropFlip(BatchRandom(), padding=3, flip='')(images, split_idx=0)
    assert (shown[:, 2, 16, 16] > shown[:, 2, 16, 15]).all()


def test_alternating_flip_shows_each_image_both_ways():
    images, random = coordinates(300), BatchRandom(5)
    transform, shown = CropFlip(random, flip='alternating'), []
    order = torch.from_numpy(np.random.default_rng(1).permutation(300))
    for epoch in range(4):
        flipped = torch.zeros(300, dtype=torch.bool)
        for batch, positions in enumerate(order.roll(epoch*37).split(64)):
            random.start(epoch, batch, positions)
            result = transform(TensorImage(images[positions]), split_idx=0)
            flipped[positions] = (result[:, 2, 0, 0] == 31).as_subclass(torch.Tensor)
        shown.append(flipped)
    assert torch.equal(shown[0], ~shown[1]) and torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3])
    assert 110 < shown[0].sum() < 190
    random = BatchRandom(6)
    random.start(0, 0, torch.arange(300))
    other = CropFlip(random, flip='alternating')(TensorImage(images), split_idx=0)[:, 2, 0, 0] == 31
    assert 100 < (other != shown[0]).sum() < 200


def test_position_hash_is_splitmix():
    "The reference of Steele, Lea and Flood: state 0 gives e220a8397b1dcdaf, then 6e789e6aa1b965f4"
    hashes = [h.item() % 2**64 for h in hash_positions(torch.arange(2), seed=0)]
    assert hashes == [0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4]


# ---- cutout

@pytest.mark.parametrize('side', [1, 7, 8, 16])
def test_cut_out_squares(side):
    generator = np.random.default_rng(side)
    images, fill = coordinates(100) + 1, torch.tensor([0.25, 0.5, -0.75])
    rows, columns = generator.integers(0, 32, (2, 100))
    result = cut_out(images, torch.from_numpy(rows), torch.from_numpy(columns), side, fill)
    assert is_channels_last(result)
    for before, after, row, column in zip(images.numpy(), result.numpy(), rows, columns):
        expected, top, left = before.copy(), row - side//2, column - side//2
        expected[:, max(top, 0):top+side, max(left, 0):left+side] = fill.numpy()[:, None, None]
        assert np.array_equal(after, expected)


def test_cutout_area_is_that_of_clipped_squares():
    random, images = BatchRandom(0), TensorImage(torch.ones(5000, 3, 32, 32))
    before = images.clone()
    result = Cutout(random, side=8, fill=torch.zeros(3))(images, split_idx=0)
    assert torch.equal(images, before)
    lengths = [len(set(range(c-4, c+4)) & set(range(32))) for c in range(32)]
    area = (result == 0)[:, 0].sum((1, 2)).float()
    assert abs(area.mean() - np.mean(lengths)**2) < 0.5
    assert area.max() == 64 and area.min() == 16


# ---- affine maps

@pytest.mark.parametrize('size', [8, 31, 32])
def test_right_angles_are_rot90(size):
    images = torch.rand(4, 3, size, size)
    turned = rotate(images, torch.tensor([0., 90., 180., -90.]))
    for quarter, before, after in zip((0, 1, 2, -1), images, turned):
        torch.testing.assert_close(after, torch.rot90(before, quarter, (1, 2)), atol=2e-5, rtol=0)


def share_equal(ours, theirs): return (ours == theirs).all(-1).mean()


@pytest.mark.parametrize('angle', [5., -17., 135.])
def test_rotation_is_torchvisions(angle):
    pixels = photos()
    ours = rotate(batch_of(pixels), torch.full((24,), angle), smooth=False)
    theirs = TF.rotate(torch.from_numpy(pixels).permute(0, 3, 1, 2), angle).permute(0, 2, 3, 1).numpy()
    assert is_channels_last(ours) and share_equal(pixels_of(ours), theirs) > 0.995
    smooth = rotate(batch_of(pixels), torch.full((24,), angle))
    theirs = TF.rotate(batch_of(pixels), angle, InterpolationMode.BILINEAR)
    torch.testing.assert_close(smooth[..., 8:24, 8:24], theirs[..., 8:24, 8:24], atol=1e-4, rtol=0)


@pytest.mark.parametrize('slope', [0.21, -0.47, 0.99])
def test_shear_is_pillows(slope):
    pixels = photos()
    for axis, coefficients in enumerate([(1, slope, 0, 0, 1, 0), (1, 0, 0, slope, 1, 0)]):
        ours = shear(batch_of(pixels), torch.full((24,), slope), axis, smooth=False)
        theirs = np.stack([Image.fromarray(p).transform((32, 32), Image.AFFINE, coefficients) for p in pixels])
        assert share_equal(pixels_of(ours), theirs) > 0.99


@pytest.mark.parametrize('axis', [0, 1])
def test_translation_moves_whole_pixels(axis):
    pixels = photos(7)
    moves = np.array([-32, -9, -1, 0, 2, 14, 32])
    ours = pixels_of(translate(batch_of(pixels), torch.tensor(moves).float(), axis, smooth=False))
    for picture, shown, move in zip(pixels, ours, moves):
        expected = np.zeros_like(picture)
        to, of = slice(max(move, 0), 32 + min(move, 0)), slice(max(-move, 0), 32 + min(-move, 0))
        if axis == 0: expected[:, to] = picture[:, of]
        else: expected[to] = picture[of]
        assert np.array_equal(shown, expected)


def test_affine_on_oblong_images():
    images = torch.rand(2, 3, 8, 16)
    turned = affine(images, torch.tensor([[[-1., 0], [0, -1]]]).repeat(2, 1, 1), torch.zeros(2, 2))
    torch.testing.assert_close(turned, images.flip(2, 3), atol=1e-5, rtol=0)
    slanted = shear(images, torch.full((2,), 0.9), 0, smooth=False)
    for row in range(8):  # by 0.9*(row + 0.5), rounded
        move = int(0.9*(row + 0.5) + 0.5)
        assert torch.equal(slanted[:, :, row, :16-move], images[:, :, row, move:])
        assert not slanted[:, :, row, 16-move:].any()


# ---- tones and colours, on 255 levels

FACTORS = [0.01, 0.4, 1.0, 1.6, 1.99]

@pytest.mark.parametrize('ours,pillow', [
    (brightness, ImageEnhance.Brightness), (saturation, ImageEnhance.Color), (contrast, ImageEnhance.Contrast),
    (sharpness, ImageEnhance.Sharpness)])
def test_blends_are_pillows(ours, pillow):
    pixels = photos(25)
    factors = torch.tensor(FACTORS).repeat(5)
    mine = ours(batch_of(pixels), factors)
    theirs = np.stack([pillow(Image.fromarray(p)).enhance(f) for p, f in zip(pixels, factors.tolist())])
    difference = np.abs((mine.permute(0, 2, 3, 1)*255).numpy() - theirs.astype(float))
    assert difference.max() <= 2.01 and difference.mean() < 0.8  # Pillow drops fractions
    torch.testing.assert_close(mine[2::5], batch_of(pixels)[2::5], atol=1e-6, rtol=0)


@pytest.mark.parametrize('ours,theirs', [
    (brightness, TF.adjust_brightness), (saturation, TF.adjust_saturation), (contrast, TF.adjust_contrast),
    (sharpness, TF.adjust_sharpness)])
def test_blends_are_torchvisions(ours, theirs):
    images = batch_of(photos(5))
    expected = torch.stack([theirs(image, factor) for image, factor in zip(images, FACTORS)])
    torch.testing.assert_close(ours(images, torch.tensor(FACTORS)), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize('bits', range(1, 9))
def test_posterize_is_pillows(bits):
    pixels = photos()
    theirs = np.stack([ImageOps.posterize(Image.fromarray(p), bits) for p in pixels])
    assert np.array_equal(pixels_of(posterize(batch_of(pixels), torch.full((24,), bits))), theirs)


@pytest.mark.parametrize('threshold', [0, 100, 127.5, 255, 256])
def test_solarize_is_pillows(threshold):
    pixels = photos()
    theirs = np.stack([ImageOps.solarize(Image.fromarray(p), threshold) for p in pixels])
    assert np.array_equal(pixels_of(solarize(batch_of(pixels), torch.full((24,), float(threshold)))), theirs)


def hard_pictures():
    "Photos, and pictures that are flat, two-valued, dark, or flat in one channel"
    pixels = photos(30)
    pixels[0], pixels[1], pixels[2] = 77, 0, 255
    pixels[3] = np.where(pixels[3] > 128, 200, 30)
    pixels[4] = pixels[4] // 8
    pixels[5, ..., 1] = 9
    pixels[6, 1:] = 3
    return pixels


def test_auto_contrast_is_pillows():
    pixels = hard_pictures()
    theirs = np.stack([ImageOps.autocontrast(Image.fromarray(p)) for p in pixels]).astype(int)
    assert np.abs(pixels_of(auto_contrast(batch_of(pixels))) - theirs).max() <= 1


def test_equalize_is_pillows():
    for pixels in (hard_pictures(), photos(5, size=8), photos(5, size=64)):
        theirs = np.stack([ImageOps.equalize(Image.fromarray(p)) for p in pixels])
        assert np.array_equal(pixels_of(equalize(batch_of(pixels))), theirs)


# ---- policies

def test_operations_reach_their_images_and_no_others():
    images = batch_of(photos(28)//2 + 40)
    for number, name in enumerate(TRIVIAL):
        chosen = torch.zeros(28, dtype=torch.int64)
        chosen[3::5] = number
        changed = apply_operations(images, TRIVIAL, chosen, torch.full((28,), 0.5))
        assert torch.equal(changed[chosen == 0], images[chosen == 0]) and is_channels_last(changed)
        if name != 'identity':
            expected = OPERATIONS[name](images[chosen == number], torch.full((5,), 0.5*TRIVIAL[name]))
            assert torch.equal(changed[chosen == number], expected)
            assert not torch.equal(expected, images[chosen == number])


@pytest.mark.parametrize('space,theirs', [(TRIVIAL, 'TrivialAugmentWide'), (RAND, 'RandAugment')])
def test_full_strengths_are_torchvisions(space, theirs):
    import torchvision.transforms as T
    augment = getattr(T, theirs)()
    if theirs == 'RandAugment': published = augment._augmentation_space(31, (32, 32))
    else: published = augment._augmentation_space(31)
    names = {'identity': 'Identity', 'shear_x': 'ShearX', 'shear_y': 'ShearY', 'translate_x': 'TranslateX',
        'translate_y': 'TranslateY', 'rotate': 'Rotate', 'brightness': 'Brightness', 'colour': 'Color', 'contrast': 'Contrast',
        'sharpness': 'Sharpness', 'posterize': 'Posterize', 'solarize': 'Solarize', 'auto_contrast': 'AutoContrast',
        'equalize': 'Equalize'}
    assert {names[name] for name in space} == set(published)
    for name, full in space.items():
        levels, _ = published[names[name]]
        ours = full * torch.arange(31)/30
        if name == 'posterize': ours = 8 - ours.round()
        if name == 'solarize': ours, levels = 1 - ours/255, levels/levels.max()
        if name.startswith('translate'): ours = ours*32
        if levels.ndim: torch.testing.assert_close(ours, levels.to(ours.dtype), atol=1e-3, rtol=0)
        else: assert full == 0


@pytest.mark.parametrize('policy,rounds', [(trivial_augment, 1), (rand_augment, 2)])
def test_policies_draw_every_operation_evenly(policy, rounds, monkeypatch):
    import cifar_fastai.data.policies as module
    counts, signs = torch.zeros(14), []
    def spy(images, space, chosen, strengths):
        counts.add_(torch.bincount(chosen, minlength=14))
        signs.append(strengths)
        return images
    monkeypatch.setattr(module, 'apply_operations', spy)
    policy(torch.zeros(14_000, 3, 1, 1), BatchRandom(0))
    assert counts.sum() == rounds*14_000 and counts.min() > rounds*1000*0.88
    strengths = torch.cat(signs)
    assert abs((strengths > 0).float().mean() - 0.5) < 0.03
    assert len(strengths.abs().unique()) == (31 if rounds == 1 else 1)


# ---- mixing

@pytest.mark.parametrize('alpha', [0.2, 1.])
def test_mixup_blends_pictures_as_targets(alpha):
    "Images that are their class: the share of each class can be read off the pixels"
    images = torch.eye(64)[:, :, None, None].expand(64, 64, 4, 4).contiguous(memory_format=torch.channels_last)
    mixed, targets = mixup(images, torch.eye(64), alpha, BatchRandom(1))
    torch.testing.assert_close(mixed, targets[:, :, None, None].expand_as(mixed), atol=1e-6, rtol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    shares = targets.diagonal()
    assert len(shares.unique()) > 50 and is_channels_last(mixed)


def test_mixup_shares_are_beta():
    from scipy import stats
    shares = BatchRandom(3).beta(0.4, 5000).numpy()
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_cutmix_share_is_the_pasted_area():
    images = torch.arange(128.)[:, None, None, None].expand(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    mixed, targets = cutmix(images, torch.eye(128), 1., BatchRandom(1))
    assert is_channels_last(mixed)
    for number, (picture, target) in enumerate(zip(mixed[:, 0].numpy(), targets.numpy())):
        values, counts = np.unique(picture, return_counts=True)
        expected = np.zeros(128)
        expected[values.astype(int)] = counts/1024
        assert np.allclose(target, expected, atol=1e-6)
        foreign = np.argwhere(picture != number)
        if len(foreign):  # one full box
            (top, left), (bottom, right) = foreign.min(0), foreign.max(0)
            assert len(foreign) == (bottom-top+1)*(right-left+1)
    assert 0.5 < targets.diagonal().mean() < 0.8  # half in the middle, more where the border cuts


# ---- as fastai's transforms

@pytest.mark.parametrize('name', OURS)
@pytest.mark.parametrize('size', [32, 8, 48])
def test_sets_keep_kind_and_come_again(name, size):
    images = TensorImage(batch_of(photos(16, size)))
    before, state = images.clone(), torch.get_rng_state()
    random = BatchRandom(11)
    transforms = augmentation_transforms(name, size, random, fill=np.array([.4, .5, .6], dtype=np.float32))
    assert [t.order for t in transforms] == sorted(t.order for t in transforms)
    assert all(t.order < Normalize.order and (t.order < IntToFloatTensor.order) == isinstance(t, CropFlip) for t in transforms)
    def run(epoch, batch, split_idx=0):
        random.start(epoch, batch, torch.arange(16))
        result = images
        for transform in transforms: result = transform(result, split_idx=split_idx)
        return result
    first, other, later = run(2, 3), run(2, 4), run(3, 3)
    assert torch.equal(run(2, 3), first) and torch.equal(images, before)
    assert torch.equal(run(2, 3, split_idx=1), images)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(first) is TensorImage and first.dtype == torch.float32 and first.shape == images.shape
    assert is_channels_last(first) and first.min() >= 0 and first.max() <= 1
    if name != 'none': assert not torch.equal(first, other) and not torch.equal(first, later)
    random.seed = 12
    if name != 'none': assert not torch.equal(run(2, 3), first)


@pytest.mark.parametrize('name', ['crop_flip', 'crop_flip_zeros'])
def test_crops_of_bytes_are_crops_of_floats(name):
    (crop,), to_floats = augmentation_transforms(name, 32, BatchRandom(3), fill=np.zeros(3, dtype=np.float32)), IntToFloatTensor()
    images = TensorImage((batch_of(photos(16, 32))*255).round().byte())
    def run(*transforms):
        crop.random.start(0, 0)
        result = images
        for transform in transforms: result = transform(result, split_idx=0)
        return result
    assert torch.equal(run(crop, to_floats), run(to_floats, crop)) and is_channels_last(run(crop))


def test_mixing_leaves_the_global_generator_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    random = BatchRandom(0)
    for mix in (mixup, cutmix):
        results = []
        for _ in range(2):
            random.start(1, 1)
            results.append(mix(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(8), 1., random))
        assert all(torch.equal(a, b) for a, b in zip(*results))
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], numpy_state)


def test_each_set_is_wired_as_its_line_says():
    kinds = {}
    for name in OURS:
        kinds[name] = [(type(t), {part: getattr(t, part) for part in ('padding', 'pad_mode', 'flip', 'degrees', 'strength', 'side') if hasattr(t, part)})
                       for t in augmentation_transforms(name, 32, BatchRandom(), torch.tensor([.1, .2, .3]))]
    def crops(padding=4, mode='reflect', flip='random'): return CropFlip, dict(padding=padding, pad_mode=mode, flip=flip)
    def cut(side): return Cutout, dict(side=side)
    both = 'alternating'
    assert kinds == {
        'none': [], 'crop_flip': [crops()], 'shapes': [crops()], 'crop_flip_zeros': [crops(mode='constant')], 'alternating': [crops(2, flip=both)],
        'crop_alternating': [crops(flip=both)], 'crop_alternating_cutout8': [crops(flip=both), cut(8)], 'crop_flip_cutout16': [crops(), cut(16)],
        'crop_rotate': [crops(flip=''), (Rotate, dict(degrees=5))], 'crop_rotate_cutout5': [crops(flip=''), (Rotate, dict(degrees=5)), cut(5)], 'jitter': [crops(), (Jitter, dict(strength=0.3))],
        'trivial': [crops(), (Policy, {})], 'rand': [crops(), (Policy, {})]}
    for name, policy in (('trivial', trivial_augment), ('rand', rand_augment)):
        assert augmentation_transforms(name, 32, BatchRandom(), torch.zeros(3))[1].policy is policy
    assert augmentation_transforms('crop_flip_cutout8', 32, BatchRandom(), torch.tensor([.1, .2, .3]))[1].fill.tolist() == pytest.approx([.1, .2, .3])


def test_pixels_scale_with_the_image():
    random, fill = BatchRandom(), torch.zeros(3)
    crop, cutout = augmentation_transforms('crop_flip_cutout8', 64, random, fill)
    assert (crop.padding, cutout.side) == (8, 16)
    crop, cutout = augmentation_transforms('crop_flip_cutout8', 8, random, fill)
    assert (crop.padding, cutout.side) == (1, 2)


def test_rotation_and_jitter_stay_within_bounds():
    ramp = (torch.arange(32.)/64 + 0.2).expand(200, 3, 32, 32)
    turned = Rotate(BatchRandom(0), degrees=5)(TensorImage(ramp), split_idx=0)
    slope = turned[:, 0, 24, 16] - turned[:, 0, 8, 16]
    angles = torch.rad2deg(torch.asin(slope*64/16))
    assert angles.abs().max() < 5.01 and angles.max() > 4 and angles.min() < -4
    flat = Jitter(BatchRandom(0), strength=0.3)(TensorImage(torch.full((500, 3, 4, 4), 0.5)), split_idx=0).mean((1, 2, 3))
    assert flat.min() > 0.349 and flat.max() < 0.651 and flat.max() > 0.6 and flat.min() < 0.4


def test_fastai_set_is_fastais():
    from fastai.vision.augment import aug_transforms
    ours = augmentation_transforms('fastai', 32, BatchRandom(), torch.zeros(3))
    assert [type(t) for t in ours] == [type(t) for t in aug_transforms()]


def test_unknown_name_is_refused():
    with pytest.raises(BadInput, match="did you mean 'crop_flip'"): augmentation_transforms('crop-flip', 32, BatchRandom(), None)
