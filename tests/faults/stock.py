"""The same kills on fastai's own means: SaveModelCallback each epoch with the optimizer, then fit_one_cycle(start_epoch=…)

`python tests/faults/stock.py [COUNT]` prints what became of each beside what becomes of ours."""
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
os.environ['FASTAI_HOME'] = tempfile.mkdtemp()
os.environ['OMP_NUM_THREADS'] = '1'

import torch
from fastai.callback.mixup import CutMix
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.torch_core import set_seed
from fastai.vision.all import ImageDataLoaders, Learner, accuracy
import fastai.callback.schedule  # gives `Learner` its `fit_one_cycle`

from cifar_fastai.models.networks import network
from drawn import CLASSES, write_images
from harness import after, forked
from trials import HARD, Bench, kills

EPOCHS = 4


def images(folder):
    "The bench's images as files, as fastai usually has them"
    return write_images(folder, {'train': (360, 1), 'valid': (45, 2)}, 32, **HARD)


def fitted(data, folder, plain=False):
    "Train, or go on from the last file that SaveModelCallback left, the way fastai's documentation has it; `plain`: without the callbacks that watch"
    set_seed(0, reproducible=True)
    loaders = ImageDataLoaders.from_folder(data, bs=60, num_workers=0, seed=0)
    learner = Learner(loaders, network('resnet9', len(CLASSES), 16, 'batch'), metrics=accuracy, path=folder,
                      cbs=[CutMix(1.)] + ([] if plain else [SaveModelCallback(every_epoch=True, with_opt=True), EarlyStoppingCallback(patience=2)]))
    saved = sorted((folder/'models').glob('model_*.pth'), key=lambda path: int(path.stem.split('_')[1]))
    start = 0
    if saved:
        start = int(saved[-1].stem.split('_')[1]) + 1
        learner.load(saved[-1].stem, with_opt=True)
    with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(EPOCHS, 0.05, start_epoch=start)
    torch.save(learner.model.state_dict(), folder/'result.pth')


def outcome(data, whole, folder, plain=False):
    ended = forked(lambda: fitted(data, folder, plain), folder)
    if ended.status: return f"IndexError: {ended.err.strip().splitlines()[-1].strip()[:60]}" if 'IndexError' in ended.err else f'failed: {ended.err.strip().splitlines()[-1][:60]}'
    one, two = torch.load(whole/'result.pth', weights_only=True), torch.load(folder/'result.pth', weights_only=True)
    if all(torch.equal(one[name], two[name]) for name in one): return 'the same weights'
    return f"other weights, by up to {max(float((one[name].float() - two[name].float()).abs().max()) for name in one):.2g}"


def stock_kills(folder, count, seed=0):
    "What became of each of `count` kills at random moments"
    numbers, data, whole = random.Random(seed), images(folder/'images'), folder/'whole'
    whole.mkdir()
    first = forked(lambda: fitted(data, whole), whole)
    assert first.status == 0, first.err
    found = []
    for number in range(count):
        place = folder/f'{number}'
        place.mkdir()
        moment = first.seconds*(number + numbers.random())/count
        forked(lambda: fitted(data, place), place, after(moment, signal.SIGKILL))
        saved = len(list((place/'models').glob('*.pth')))
        shutil.copytree(place, folder/'twin')
        found.append((moment, saved, outcome(data, whole, place), outcome(data, whole, folder/'twin', plain=True)))
        for used in (place, folder/'twin'): shutil.rmtree(used)
    return first.seconds, found


def main():
    count, folder = int(sys.argv[1]) if len(sys.argv) > 1 else 20, Path(tempfile.mkdtemp(prefix='stock-'))
    seconds, found = stock_kills(folder, count)
    print(f'| killed at, of {seconds:.1f} s | epochs saved | fastai, with its callbacks | fastai, its callbacks left out on resume |\n|---|---|---|---|')
    for moment, saved, text, plain in found: print(f'| {moment:.1f} s | {saved} | {text} | {plain} |', flush=True)
    ours = kills(Bench(folder/'ours'), count)
    for column in (2, 3): print(Counter(row[column].split(',')[0].split(':')[0] for row in found))
    print(f'cifar_fastai: {ours.passed} of {ours.count} the same {ours.notes or ""}')
    shutil.rmtree(folder)


if __name__ == '__main__': main()
