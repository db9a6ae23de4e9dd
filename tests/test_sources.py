"Where images come from: the search for CIFAR-10, the download, the cache, the splits"
import json
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from cifar_fastai.data import cache
from cifar_fastai.data import sources
from cifar_fastai.data.cache import fastai_folder
from cifar_fastai.data.images import image_data
from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.sources import CIFAR10, load_images
from cifar_fastai.data.images import balanced_sample, split


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty fastai home, and no CIFAR-10 anywhere"
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    monkeypatch.delenv('CIFAR_FASTAI_DATA', raising=False)
    return tmp_path/'home'


def write_folder(folder, classes=('cat', 'dog'), size=8):
    for seed, name in enumerate(f'{part}/{title}/{number}.png' for part in ('train', 'test') for title in classes for number in range(2)):
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return folder


def write_archive(path, classes=CIFAR10):
    folder = write_folder(path.parent/'for-archive', classes)
    with tarfile.open(path, 'w:gz') as archive: archive.add(folder, 'cifar10')
    shutil.rmtree(folder)
    return path


def same(data, other):
    return (data.fingerprints == other.fingerprints and np.array_equal(data.images, other.images) and list(data.names) == list(other.names)
            and np.array_equal(data.labels, other.labels) and data.classes == other.classes and data.notes == other.notes)


def never(*_, **__): raise AssertionError('read again')


def test_a_mapped_file_gets_its_images_and_a_full_disk_is_said(tmp_path, monkeypatch):
    from cifar_fastai.data import pictures
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    mapped = np.lib.format.open_memmap(tmp_path/'images.npy', 'w+', np.uint8, images.shape)
    with pictures.write_images(mapped) as write:
        for place in (2, 0, 1): write(place, images[place][::-1][::-1])
    np.testing.assert_array_equal(mapped, images)
    np.testing.assert_array_equal(np.load(tmp_path/'images.npy'), images)
    monkeypatch.setattr(os, 'pwrite', lambda *_: 0)
    with pictures.write_images(mapped) as write, pytest.raises(OSError, match='No space'): write(0, images[0])


# ---- the cache ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('form', ['folder', 'archive'])
def test_a_second_time_nothing_is_read(home, tmp_path, monkeypatch, form):
    path = write_folder(tmp_path/'pets') if form == 'folder' else write_archive(tmp_path/'pets.tgz')
    first = load_images(path)
    monkeypatch.setattr(sources, 'read_files', never)
    again = load_images(str(path))
    assert same(first, again) and again.name == 'pets' and isinstance(again.images, np.memmap)
    with pytest.raises(AssertionError): load_images(path, cache=False)
    with pytest.raises(AssertionError): load_images(path, 16)


def test_what_changes_is_read_again(home, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, 'RECENT', 0)  # what was just written is known by its stamp too
    path = write_folder(tmp_path/'pets')
    image = path/'train'/'cat'/'0.bmp'
    Image.new('RGB', (8, 8), 'blue').save(image)
    first = load_images(path)
    Image.new('RGB', (8, 8), 'red').save(image) # as many bytes as before
    os.utime(image, ns=(1, time.time_ns()+10**9))
    second = load_images(path)
    assert first.images[0, 0, 0].tolist() == [0, 0, 255] and second.images[0, 0, 0].tolist() == [255, 0, 0]
    assert second.fingerprints['train'] != first.fingerprints['train'] and second.fingerprints['test'] == first.fingerprints['test']
    image.unlink()
    assert len(load_images(path).labels) == len(first.labels)-1


def test_a_damaged_cache_is_never_believed(home, tmp_path, notices):
    path = write_folder(tmp_path/'pets')
    first = load_images(path, cache=False)
    assert same(load_images(path), first)
    kept, = (path for path in (home/'data'/'cifar_fastai').iterdir() if path.is_dir())
    assert sorted(os.listdir(kept)) == ['about.json', 'images.npy', 'labels.npy', 'names.npy', 'stamps.json']
    random = np.random.default_rng(0)
    for name in sorted(os.listdir(kept)):
        whole = (kept/name).read_bytes()
        places = [*range(0, 128, 4 if name == 'images.npy' else 16), len(whole)//2, len(whole)-2] if name.endswith('.npy') else random.integers(0, len(whole), 20)
        for place in places: # one bit each
            data = bytearray(whole)
            data[place] ^= 1 << int(random.integers(8))
            (kept/name).write_bytes(data)
            assert same(load_images(path), first), (name, place)
            assert same(cache.fetch_data(kept), first), (name, place) # made again, not only passed by
        for length in (0, 1, 60, 127, len(whole)//2, len(whole)-1):
            (kept/name).write_bytes(whole[:length])
            assert same(load_images(path), first), (name, length)
        (kept/name).unlink()
        assert same(load_images(path), first)
    assert 'is damaged' in notices()
    whole = (kept/'images.npy').read_bytes()
    (kept/'images.npy').write_bytes(whole.replace(b"'|u1'", b"'|i1'", 1)) # the same bytes, read as signed numbers
    again = load_images(path)
    assert same(again, first) and again.images.dtype == np.uint8
    about = json.loads((kept/'about.json').read_text())
    about['about']['classes'][0] = 'other'
    (kept/'about.json').write_text(json.dumps(about))
    assert same(load_images(path), first)
    assert [name for name in os.listdir(kept.parent) if not name.startswith('digest-')] == [kept.name] # nothing half-written stays


def test_a_cache_that_cannot_be_written_is_said_and_no_more(home, tmp_path, notices, monkeypatch):
    path = write_folder(tmp_path/'pets')
    home.mkdir()
    (home/'data').write_text('a file where the folder should be')
    assert len(load_images(path).labels) == 8
    assert 'are not kept' in notices()
    (home/'data').unlink()
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(np, 'save', full)
    assert len(load_images(path).labels) == 8
    assert 'No space left' in notices()
    assert os.listdir(home/'data'/'cifar_fastai') == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(home, tmp_path):
    old, young = (home/'data'/'cifar_fastai'/f'part-{name}' for name in ('old', 'young'))
    for folder in (old, young): (folder/'whole').mkdir(parents=True)
    os.utime(old, (0, 0))
    load_images(write_folder(tmp_path/'pets'))
    assert young.is_dir() and not old.exists()


def test_the_cache_follows_fastai(home, tmp_path):
    from fastai.data.external import fastai_cfg, fastai_path
    fastai_cfg.cache_clear()
    home.mkdir()
    (home/'config.ini').write_text(f'[DEFAULT]\ndata = {tmp_path}/elsewhere\narchive = archive\nstorage = tmp\nmodel = models\n')
    for key in ('data', 'archive'): assert fastai_folder(key) == fastai_path(key)
    fastai_cfg.cache_clear()
    load_images(write_folder(tmp_path/'pets'))
    assert len(os.listdir(tmp_path/'elsewhere'/'cifar_fastai')) == 1


def test_notes_are_said_once(home, tmp_path, notices, monkeypatch):
    monkeypatch.setattr('cifar_fastai.data.cache.RECENT', 0)  # as if the files were old: their digest is kept
    path = write_folder(tmp_path/'pets')
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path/'train'/'cat'/'0.png')
    for _ in range(2): assert load_images(path).notes == ('converted to 8×8 RGB: 1 grey',)
    assert notices().splitlines() == ['pets: converted to 8×8 RGB: 1 grey']


# ---- cifar10 -----------------------------------------------------------------------------------------------------

def test_cifar10_is_looked_for_in_order(home, tmp_path, monkeypatch):
    def prints(): return load_images('cifar10').fingerprints
    archive = write_archive(tmp_path/'archive.tgz')
    (home/'archive').mkdir(parents=True)
    shutil.copy(archive, home/'archive'/'cifar10.tgz')
    assert prints() == load_images(archive).fingerprints # fastai's archive
    write_folder(home/'data'/'cifar10', CIFAR10, 9)
    assert prints() == load_images(home/'data'/'cifar10').fingerprints # fastai's data before it
    write_archive(write_folder(tmp_path/'own', ('some', 'other')).parent/'cifar10.tgz')
    for given in (archive, tmp_path, write_folder(tmp_path/'plain', CIFAR10, 10)): # the variable before both; a folder that holds it
        monkeypatch.setenv('CIFAR_FASTAI_DATA', str(given))
        data = load_images()
        assert data.name == 'cifar10' and data.classes == CIFAR10 and data.image_size == (10 if given.name == 'plain' else 8)


def test_what_is_called_cifar10_is_that(home, tmp_path, monkeypatch, notices):
    monkeypatch.setenv('CIFAR_FASTAI_DATA', str(write_folder(tmp_path/'pets', ('cat', 'cow'))))
    with pytest.raises(BadInput, match=f'is something else.*\n.*--data {tmp_path}/pets'): load_images('cifar10')
    monkeypatch.setenv('CIFAR_FASTAI_DATA', str(write_folder(tmp_path/'part', CIFAR10)))
    load_images('cifar10')
    assert 'has 20 training and 20 test images, not 50,000 and 10,000' in notices()
    monkeypatch.setenv('CIFAR_FASTAI_DATA', str(tmp_path/'nowhere'))
    with pytest.raises(BadInput, match='nowhere: there is no such file(.|\n)*--data shapes'): load_images('cifar10')


def test_no_network_and_no_data(home, monkeypatch, capsys):
    def offline(*_, **__): raise URLError('[Errno -3] Temporary failure in name resolution')
    monkeypatch.setattr('fastcore.net.urlretrieve', offline)
    with pytest.raises(BadInput) as caught: load_images('cifar10')
    assert capsys.readouterr().out == ''
    message = str(caught.value)
    assert 'CIFAR_FASTAI_DATA' in message and '--data shapes' in message and 'name resolution' in message
    assert len(message.splitlines()) <= 5


@pytest.mark.parametrize('terminal', [False, True])
def test_what_arrives_is_checked(home, tmp_path, monkeypatch, capsys, terminal):
    from fastai.data.external import URLs
    from fastdownload import core
    archive = write_archive(tmp_path/'served.tgz')
    def arrives(url, dest, hook, **_):
        assert url == URLs.CIFAR
        for block in range(3 if hook else 0): hook(block, 5, 10)
        return shutil.copy(archive, dest), None
    monkeypatch.setattr('fastcore.net.urlretrieve', arrives)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: terminal)
    with pytest.raises(BadInput, match='damaged or cut short'): load_images('cifar10')
    assert os.listdir(home/'archive') == []
    monkeypatch.setattr(core, 'read_checks', lambda _: {URLs.CIFAR: core.path_stats(archive)})
    assert load_images('cifar10').fingerprints == load_images(archive).fingerprints
    assert os.listdir(home/'archive') == ['cifar10.tgz']
    assert bool(capsys.readouterr().out) == terminal


# ---- the door ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', [0, -1, 7, 2000, 2.5, '32', True, None])
def test_bad_sizes(home, size):
    with pytest.raises(BadInput, match='image-size'): load_images('shapes', size)


def test_bad_paths_leave_nothing_behind(home, tmp_path):
    (tmp_path/'words.txt').write_text('words')
    (tmp_path/'empty').mkdir()
    whole = write_archive(tmp_path/'whole.tgz').read_bytes()
    (tmp_path/'cut.tgz').write_bytes(whole[:len(whole)//2])
    for name in ('nowhere', 'words.txt', 'empty', 'cut.tgz'):
        with pytest.raises(BadInput) as caught: load_images(tmp_path/name)
        assert name in str(caught.value) and 1 <= len(str(caught.value).splitlines()) <= 5
    assert not (home/'data').exists()


# ---- splits ------------------------------------------------------------------------------------------------------

def uneven():
    labels = np.repeat(np.arange(4), [50, 30, 17, 3])
    labels = np.concatenate([np.random.default_rng(5).permutation(labels), np.arange(4)])
    return image_data(np.zeros((len(labels), 8, 8, 3), np.uint8), labels, 'abcd', np.arange(len(labels)), 100)


@pytest.mark.parametrize('count', [4, 7, 10, 33, 50, 99, 100])
@pytest.mark.parametrize('seed', [0, 1])
def test_balanced_sample(count, seed):
    labels = uneven().labels[:100]
    chosen = balanced_sample(labels, count, seed)
    assert len(set(chosen)) == count and np.all(np.diff(chosen) > 0)
    assert np.abs(np.bincount(labels[chosen], minlength=4)-np.bincount(labels)*count/100).max() < 1
    assert np.array_equal(chosen, balanced_sample(labels, count, seed))
    if count < 99: assert not np.array_equal(chosen, balanced_sample(labels, count, seed+7))


def test_equal_classes_get_equal_shares():
    labels = np.tile(np.arange(10), 40)
    for count in range(10, 401, 13): assert np.ptp(np.bincount(labels[balanced_sample(labels, count)], minlength=10)) <= 1


@pytest.mark.parametrize('limit, holdout', [(0, 0), (0, 10), (60, 0), (60, 12), (100, 40), (1000, 40)])
def test_split(limit, holdout):
    data = uneven()
    train, held = split(data, limit, holdout, seed=2)
    assert len(held) == holdout and len(train)+len(held) == (min(limit, 100) or 100)
    assert not set(train) & set(held) and max([*train, *held]) < 100
    assert set(data.labels[train]) == set(range(4))
    again, other = split(data, limit, holdout, seed=2), split(data, limit, holdout, seed=3)
    assert np.array_equal(train, again[0]) and np.array_equal(held, again[1])
    if holdout: assert not np.array_equal(held, other[1])


@pytest.mark.parametrize('limit, holdout', [(-1, 0), (0, -5), (3, 0), (0, 3), (0, 100), (0, 5000), (10, 0), (40, 39), (20, 20)])
def test_splits_that_leave_nothing_are_refused(limit, holdout):
    with pytest.raises(BadInput, match='--limit|--holdout') as caught: split(uneven(), limit, holdout)
    assert len(str(caught.value).splitlines()) <= 5


# ---- the real images ---------------------------------------------------------------------------------------------

def test_cifar10_in_all_its_forms(cifar10, tmp_path):
    "The folder, and the official versions written from it: the same pixels, by the writers of `test_readers`"
    from test_readers import read, write_binary, write_python
    data = load_images(cifar10)
    assert data.images.shape == (60_000, 32, 32, 3) and data.classes == CIFAR10 and data.notes == ()
    assert np.array_equal(np.bincount(data.labels[data.train_positions]), [5000]*10)
    assert np.array_equal(np.bincount(data.labels[data.test_positions]), [1000]*10)
    chosen = balanced_sample(data.labels, 300)
    batches = {name: (data.images[part], data.labels[part]) for name, part in
               zip([f'data_batch_{number}' for number in range(1, 6)]+['test_batch'], np.array_split(np.random.default_rng(0).permutation(chosen), 6))}
    write_python(tmp_path/'python', batches)
    write_binary(tmp_path/'binary', batches)
    python, binary = read(tmp_path/'python'), read(tmp_path/'binary')
    assert same(python, binary) and python.train_count == 250
    assert np.array_equal(python.images, np.concatenate([images for images, _ in batches.values()]))


def test_cifar10_decodes_like_pillow_alone(cifar10):
    if not tarfile.is_tarfile(cifar10): pytest.skip('CIFAR_FASTAI_DATA is not a tar archive')
    data, position = load_images(cifar10), 0
    place = {name: position for position, name in enumerate(data.names)}
    with tarfile.open(cifar10) as archive:
        for member in archive:
            name = '/'.join(Path(member.name).parts[-3:])
            if member.isfile() and name in place and (position := position+1) % 60 == 0:
                image = np.array(Image.open(archive.extractfile(member)).convert('RGB'))
                assert np.array_equal(data.images[place[name]], image)
                assert data.classes[data.labels[place[name]]] == Path(name).parts[1] and (place[name] < 50_000) == name.startswith('train/')
    assert position == 60_000
