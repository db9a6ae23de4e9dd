"Small data that several tests share; nothing here needs the network, a GPU or CIFAR-10"
import gc
import os
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

if 'PYTEST_XDIST_WORKER' not in os.environ: os.environ['FASTAI_HOME'] = tempfile.mkdtemp()  # before fastai is imported; one for all workers: decoded images are not kept in the person's own

if 'torch' not in sys.modules: os.environ.setdefault('OMP_NUM_THREADS', '1')  # a process that is forked from one with threads waits for them

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell starts what runs in the background

os.fsync = lambda place: None  # no test outlives a power cut, and a run waits dozens of times for the disk

import pytest

from drawn import CLASSES, coloured, write_images

from cifar_fastai.base.messages import CifarWarning
from cifar_fastai.data.images import image_data
from cifar_fastai.recipes.recipe import Recipe


LONGEST = ('test_project', 'test_profile', 'test_compare', 'test_checkpoints')  # begun first, so that no worker waits long for another at the end


def pytest_collection_finish(): gc.freeze()  # what is imported stays: no collection of garbage walks over it


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope='session')
def tiny_data():
    "120 training and 30 test images of 16×16 in three classes"
    images, labels = coloured(150, 16, 0)
    names = [f"{'train' if i < 120 else 'test'}/{CLASSES[label]}/{i}.png" for i, label in enumerate(labels)]
    return image_data(images, labels, CLASSES, names, 120, name='tiny')


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory):
    "The same kind of images as files: train/ and test/, a sub-folder a class"
    return write_images(tmp_path_factory.mktemp('images'), {'train': (60, 1), 'test': (15, 2)}, 16)


@pytest.fixture(scope='session')
def tiny_recipe():
    "A recipe that trains in a second; fp32, so that it runs alike on any CPU"
    return Recipe(arch='resnet9', width=4, epochs=2, batch_size=24, progressive=0, precision='fp32', device='cpu')


@pytest.fixture
def notices(recwarn):
    "Called: the text of the notices since the last call"
    def read():
        texts = [str(one.message) for one in recwarn if issubclass(one.category, CifarWarning)]
        recwarn.clear()
        return '\n'.join(texts)
    return read


@pytest.fixture
def cifar10():
    "The path of CIFAR-10, where $CIFAR_FASTAI_DATA names it"
    path = os.environ.get('CIFAR_FASTAI_DATA')
    if not path: pytest.skip('CIFAR_FASTAI_DATA is not set')
    return path


@pytest.fixture
def benchmark_module(monkeypatch):
    "Imports a script of benchmarks/ by its name"
    monkeypatch.syspath_prepend(Path(__file__).parents[1]/'benchmarks')
    return import_module
