import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_fastai.data.loaders import cifar_dataloaders, image_dataloaders
from cifar_fastai.base.messages import BadInput


def loaders_of(data, recipe, **fields): return image_dataloaders(data, dataclasses.replace(recipe, **fields))


def test_a_batch_is_what_the_items_are_one_at_a_time(tiny_data, tiny_recipe):
    loaders = loaders_of(tiny_data, tiny_recipe)
    images, labels = loaders.test.one_batch()
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in loaders.statistics)
    for i in range(len(images)):
        picture, label = loaders.test.dataset[i]
        expected = (torch.from_numpy(np.array(picture)).permute(2, 0, 1)/255 - mean)/deviation
        torch.testing.assert_close(torch.Tensor(images[i]), expected, rtol=1e-5, atol=1e-5)
        assert int(label) == int(labels[i]) == tiny_data.labels[120 + i]
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_statistics_are_those_of_the_training_images(tiny_data, tiny_recipe):
    loaders = loaders_of(tiny_data, tiny_recipe, holdout=30)
    pixels = tiny_data.images[loaders.positions['train']]/255
    np.testing.assert_allclose(loaders.statistics[0], pixels.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(loaders.statistics[1], pixels.std((0, 1, 2)), rtol=1e-5)


def test_cutout_fills_with_the_mean_of_the_training_images(tiny_data, tiny_recipe):
    "Which is zero once the images are normalised; noise holds no other pixel like it"
    loaders = loaders_of(tiny_data, tiny_recipe, augment='crop_flip_cutout16', holdout=30)
    for images, _ in loaders.train:
        cut = (torch.Tensor(images).abs() < 1e-4).all(1).sum((1, 2))
        assert cut.min() >= 16 and cut.max() <= 64  # squares of 8 at this size, a quarter of one in a corner
    plain = loaders_of(tiny_data, tiny_recipe, augment='crop_flip')
    assert not (torch.Tensor(plain.train.one_batch()[0]).abs() < 1e-4).all(1).any()


def test_holdout_is_balanced_and_apart(tiny_data, tiny_recipe):
    loaders = loaders_of(tiny_data, tiny_recipe, holdout=30, limit=90)
    train, valid, test = (set(loaders.positions[name].tolist()) for name in ('train', 'valid', 'test'))
    assert (len(train), len(valid), len(test)) == (60, 30, 30) and not train & valid and test == set(range(120, 150))
    assert np.bincount(tiny_data.labels[sorted(valid)]).tolist() == [10, 10, 10]
    assert loaders.valid_is == 'holdout' and loaders_of(tiny_data, tiny_recipe).valid_is == 'test'
    assert len(loaders_of(tiny_data, tiny_recipe, early_stopping=2).positions['valid']) == 12
    assert len(loaders_of(tiny_data, tiny_recipe, until_accuracy=0.9).positions['valid']) == 12


def orders(loaders, epoch):
    loaders.train.epoch = epoch
    return torch.cat([labels for _, labels in loaders.train]).tolist(), torch.cat([images for images, _ in loaders.train])


def test_order_and_pixels_follow_from_seed_and_epoch_alone(tiny_data, tiny_recipe):
    first = orders(loaders_of(tiny_data, tiny_recipe), 3)
    other = loaders_of(tiny_data, tiny_recipe)
    other.train.one_batch(); orders(other, 1); torch.rand(7); np.random.rand()
    again = orders(other, 3)
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    assert orders(other, 4)[0] != first[0]
    assert orders(loaders_of(tiny_data, tiny_recipe, seed=1), 3)[0] != first[0]


def test_loading_draws_nothing_from_the_global_generators(tiny_data, tiny_recipe):
    loaders = loaders_of(tiny_data, tiny_recipe, augment='trivial')
    before = torch.get_rng_state()
    for _ in loaders.train: pass
    assert torch.equal(before, torch.get_rng_state())


def test_a_worker_process_gives_the_same_batches(tiny_data, tiny_recipe):
    loaders = loaders_of(tiny_data, tiny_recipe)
    loaders.train.epoch = 0
    alone = [images for images, _ in loaders.train]
    worker = loaders.train.new(num_workers=1)
    worker.epoch = 0
    for here, there in zip(alone, worker): assert torch.equal(here, there[0])


def test_new_files_and_pictures_go_through_test_dl(tiny_data, tiny_recipe, tmp_path):
    loaders = loaders_of(tiny_data, tiny_recipe)
    Image.fromarray(tiny_data.images[120]).save(tmp_path/'same.png')
    Image.fromarray(tiny_data.images[121]).convert('L').resize((40, 30)).save(tmp_path/'grey.png')
    batch, = loaders.test_dl([tmp_path/'same.png', str(tmp_path/'grey.png')]).one_batch()
    known = loaders.test.one_batch()[0]
    torch.testing.assert_close(torch.Tensor(batch[0]), torch.Tensor(known[0]))
    assert batch.shape == (2, 3, 16, 16)
    picture, = loaders.test_dl([Image.fromarray(tiny_data.images[120])]).one_batch()
    torch.testing.assert_close(torch.Tensor(picture[0]), torch.Tensor(known[0]))


def test_decoding_gives_the_pixels_back(tiny_data, tiny_recipe):
    loaders = loaders_of(tiny_data, tiny_recipe)
    images, _ = loaders.test.decode(loaders.test.one_batch())
    expected = tiny_data.images[120:120 + len(images)].transpose(0, 3, 1, 2)
    assert np.abs(np.asarray(images).astype(int) - expected).max() <= 1


def test_fastai_s_own_calls(tiny_data, tiny_recipe):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    loaders = loaders_of(tiny_data, tiny_recipe)
    loaders.show_batch(max_n=4)
    shown = [(axes.get_title(), np.asarray(axes.images[0].get_array())) for axes in pyplot.gcf().axes if axes.get_title()]
    assert len(shown) == 4
    for title, picture in shown: assert title == tiny_data.classes[picture.mean((0, 1)).argmax()]  # the class is the colour that is strongest
    pyplot.close('all')
    assert list(loaders.vocab) == ['ant', 'bee', 'cat'] and loaders.c == 3 and len(loaders.train) == 5
    assert len(pickle.dumps(loaders.new_empty())) < 50_000


def test_batches_that_do_not_fit(tiny_data, tiny_recipe, capsys):
    with pytest.raises(BadInput, match='batch_size 121 is larger than the 120 training images'): loaders_of(tiny_data, tiny_recipe, batch_size=121)
    assert loaders_of(tiny_data, tiny_recipe, batch_size='auto').train.bs == 16


def test_a_folder_of_images(tiny_folder, tiny_recipe):
    loaders = cifar_dataloaders(dataclasses.replace(tiny_recipe, data=str(tiny_folder)))
    assert [len(loaders.positions[name]) for name in ('train', 'test')] == [60, 15]
    assert loaders.test.one_batch()[0].shape == (15, 3, 16, 16)
