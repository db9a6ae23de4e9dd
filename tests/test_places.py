"Where the images lie: on the device, in memory or on the disk, and the same batches from everywhere"
import dataclasses
import os

import numpy as np
import pytest
import torch

from cifar_fastai.data import cache
from cifar_fastai.data import places
from cifar_fastai.data import sources
from cifar_fastai.data.cache import fetch_data, keep_data
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.data.statistics import channel_statistics, remember_statistics
from cifar_fastai.data.places import PLACES, Places, RowsOnDisk, choose_place
from cifar_fastai.training.learner import cifar_learner, fit_recipe


@pytest.fixture
def kept(tiny_data, tmp_path):
    "The tiny images as they are kept, mapped"
    keep_data(tiny_data, tmp_path/'kept')
    return fetch_data(tmp_path/'kept')


def batches(loaders, epoch=2, skipped=0):
    loaders.train.epoch, loaders.train.skipped = epoch, skipped
    return [(torch.Tensor(images), labels.tolist()) for images, labels in loaders.train] + [(torch.Tensor(images), labels.tolist()) for images, labels in loaders.test]


@pytest.mark.parametrize('augment', ['crop_flip_cutout8', 'trivial', 'alternating'])
@pytest.mark.parametrize('skipped', [0, 2])
def test_every_place_gives_the_same_batches(kept, tiny_data, tiny_recipe, augment, skipped):
    recipe = dataclasses.replace(tiny_recipe, augment=augment, holdout=15)
    expected = batches(image_dataloaders(tiny_data, recipe), skipped=skipped)
    for place in PLACES:
        loaders = image_dataloaders(kept, recipe, place=place)
        assert loaders.train.array.place == place
        for one, other in zip(expected, batches(loaders, skipped=skipped), strict=True):
            assert one[1] == other[1] and torch.equal(one[0], other[0])


@pytest.mark.parametrize('place', PLACES)
def test_every_place_trains_the_same_weights(kept, tiny_data, tiny_recipe, place):
    def weights(data, place):
        loaders = image_dataloaders(data, tiny_recipe, place=place)
        learner = cifar_learner(loaders, tiny_recipe)
        with learner.no_bar(), learner.no_logging(): fit_recipe(learner, 0.01)
        return learner.model.state_dict()
    expected = weights(tiny_data, 'memory')
    for name, value in weights(kept, place).items(): assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('place', PLACES)
def test_what_fastai_s_users_do_works_from_every_place(kept, tiny_recipe, place):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    loaders = image_dataloaders(kept, tiny_recipe, place=place)
    loaders.show_batch(max_n=4)
    loaders.train.show_batch(max_n=4, unique=True)
    pyplot.close('all')
    first = [torch.Tensor(loaders.train.new(shuffle=False).one_batch()[0]) for _ in range(2)]
    assert torch.equal(first[0], first[1]) is False or tiny_recipe.augment == 'none'  # drawn anew, of the same images
    some = loaders.test_dl(np.array([120, 149, 3]), with_labels=True)
    assert some.one_batch()[1].tolist() == kept.labels[[120, 149, 3]].tolist()
    assert loaders.test_dl(np.array([120])).one_batch()[0].shape == (1, 3, 16, 16)
    worker = loaders.train.new(num_workers=1)
    worker.epoch = loaders.train.epoch = 1
    for here, there in zip(loaders.train, worker, strict=True): assert torch.equal(here[0], there[0])


def test_the_order_of_an_epoch_lies_where_the_images_do(kept, tiny_recipe, monkeypatch):
    "The device path sends an order once an epoch, and then nothing but what is drawn for a batch"
    loaders, sent = image_dataloaders(kept, tiny_recipe, place='device'), []
    order = Places.order
    monkeypatch.setattr(Places, 'order', lambda self, where: sent.append(len(where)) or order(self, where))
    assert [type(loaders.train.array.batch(torch.tensor([1]))[0]), loaders.train.array.there[0].dtype] == [torch.Tensor, torch.uint8]
    list(loaders.train)
    assert sent == [120] and isinstance(loaders.train.places, torch.Tensor)


def test_rows_that_are_not_there_are_an_error(tmp_path):
    np.save(tmp_path/'images.npy', np.zeros((9, 4, 4, 3), np.uint8))
    rows = RowsOnDisk(np.load(tmp_path/'images.npy', mmap_mode='r'))
    os.truncate(tmp_path/'images.npy', (tmp_path/'images.npy').stat().st_size - 1)
    assert rows[np.array([7])].shape == (1, 4, 4, 3)
    with pytest.raises(OSError, match='cut short'): rows[np.array([8])]


def test_which_place(kept, tiny_data, monkeypatch, notices):
    "A third of what is free on a GPU, half of the memory; images that are not kept cannot be read again"
    size = tiny_data.images.nbytes
    cpu, cuda = torch.device('cpu'), torch.device('cuda')
    def where(data, device, here, there=0):
        monkeypatch.setattr(places, 'free_memory', lambda device=cpu: there if device.type == 'cuda' else here)
        return choose_place(data, device)
    assert where(kept, cpu, 2*size) == 'memory' and where(kept, cpu, 2*size - 2) == 'disk'
    assert 'are read from the disk' in notices()
    assert where(tiny_data, cpu, 2*size - 2) == 'memory'
    assert where(kept, cuda, 2*size, 3*size) == 'device' and where(kept, cuda, 2*size, 3*size - 3) == 'memory'
    assert where(kept, cuda, 0, 3*size - 3) == 'disk'


# ---- decoding into the map, and what is not computed again ---------------------------------------------------------

def test_images_are_decoded_into_the_file_that_is_kept(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    def no_room(*_): raise AssertionError('images in memory')
    monkeypatch.setattr('cifar_fastai.data.pictures.empty_images', no_room)
    monkeypatch.setattr('cifar_fastai.data.folders.reorder', no_room)
    data = sources.load_images(tiny_folder)
    assert isinstance(data.images, np.memmap) and data.folder.parent == cache.cache_folder()
    monkeypatch.undo()
    alone = sources.load_images(tiny_folder, cache=False)
    assert np.array_equal(alone.images, data.images) and alone.fingerprints == data.fingerprints and alone.folder is None


def test_a_disk_without_room_is_noticed_before_the_images_are_written(tiny_folder, tmp_path, monkeypatch, notices):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'posix_fallocate', full)
    data = sources.load_images(tiny_folder)
    assert len(data.labels) == 75 and not isinstance(data.images, np.memmap) and 'No space left' in notices()
    assert [name for name in os.listdir(cache.cache_folder()) if not name.startswith('digest-')] == []


def never(*_, **__): raise AssertionError('computed again')


def test_a_start_reads_no_image_that_is_kept(kept, monkeypatch):
    "Fingerprints and statistics are those that were kept; another choice of images has others"
    statistics = remember_statistics(kept, kept.train_positions)
    assert statistics == channel_statistics(kept.images, kept.train_positions)
    monkeypatch.setattr('cifar_fastai.data.images.fingerprint', never)
    monkeypatch.setattr('cifar_fastai.data.statistics.channel_statistics', never)
    again = fetch_data(kept.folder)
    assert again.fingerprints == kept.fingerprints and remember_statistics(again, again.train_positions) == statistics
    with pytest.raises(AssertionError): remember_statistics(again, again.train_positions[1:])
    path, = kept.folder.glob('statistics-*')
    path.write_text(path.read_text().replace('0.', '1.', 1))
    with pytest.raises(AssertionError): remember_statistics(again, again.train_positions)


def test_a_write_shows_however_soon_it_comes(kept, monkeypatch):
    "Even one that leaves size and time of the last write alone"
    path = kept.folder/'images.npy'
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open('r+b') as file: file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fetch_data(kept.folder) is None


def test_a_copied_cache_is_read_once_more_and_then_known(kept, tmp_path, monkeypatch):
    import shutil
    shutil.copytree(kept.folder, tmp_path/'copy')
    assert fetch_data(tmp_path/'copy').fingerprints == kept.fingerprints
    monkeypatch.setattr('cifar_fastai.data.images.fingerprint', never)
    assert fetch_data(tmp_path/'copy').fingerprints == kept.fingerprints


def test_an_archive_is_read_for_its_key_only_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    path = tmp_path/'some.tgz'
    path.write_bytes(b'one')
    os.utime(path, ns=(1, 1))
    key = cache.source_digest(path)
    assert not list(cache.cache_folder().glob('digest-*'))  # too young to be sure of
    monkeypatch.setattr(cache, 'RECENT', -10**12)
    assert cache.source_digest(path) == key
    monkeypatch.setattr(cache.hashlib, 'new', never)
    assert cache.source_digest(path) == key
    path.write_bytes(b'two')
    os.utime(path, ns=(1, 1))
    with pytest.raises(AssertionError): cache.source_digest(path)
    monkeypatch.undo()
    assert cache.source_digest(path) != key
