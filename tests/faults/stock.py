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
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ['FASTAI_HOME'] = tempfile.mkdtemp()
os.environ['OMP_NUM_THREADS'] = '1'

import torch
from fastai.callback.mixup import CutMix
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.torch_core import set_seed
from fastai.vision.all import ImageDataLoaders, Learner, accuracy
import fastai.callback.schedule  # gives `Learner` its `fit_one_cycle`

from cifar_fastai.models import network
from harness import after, forked
from trials import CLASSES, Bench, coloured, kills

EPOCHS = 4


def images(folder):
    "The bench's images as files, as fastai usually has them"
    from PIL import Image
    for part, count, seed in (('train', 360, 1), ('valid', 45, 2)):
        for number, (image, label) in enumerate(zip(*coloured(count, 32, seed))):
            place = folder/part/CLASSES[label]/f'{number:03}.png'
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    return folder


def fitted(data, folder):
    "Train, or go on from the last file that SaveModelCallback left, the way fastai's documentation has it"
    set_seed(0, reproducible=True)
    loaders = ImageDataLoaders.from_folder(data, bs=60, num_workers=0, seed=0)
    learner = Learner(loaders, network('resnet9', len(CLASSES), 16, 'batch'), metrics=accuracy, path=folder,
                      cbs=[SaveModelCallback(every_epoch=True, with_opt=True), EarlyStoppingCallback(patience=2), CutMix(1.)])
    saved = sorted((folder/'models').glob('model_*.pth'), key=lambda path: int(path.stem.split('_')[1]))
    start = 0
    if saved:
        start = int(saved[-1].stem.split('_')[1]) + 1
        learner.load(saved[-1].stem, with_opt=True)
    with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(EPOCHS, 0.05, start_epoch=start)
    torch.save(learner.model.state_dict(), folder/'result.pth')


def outcome(data, whole, folder):
    ended = forked(lambda: fitted(data, folder), folder)
    if ended.status: return f"going on failed: {ended.err.strip().splitlines()[-1][:90]}"
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
        found.append((moment, saved, outcome(data, whole, place)))
        shutil.rmtree(place)
    return first.seconds, found


def main():
    count, folder = int(sys.argv[1]) if len(sys.argv) > 1 else 20, Path(tempfile.mkdtemp(prefix='stock-'))
    seconds, found = stock_kills(folder, count)
    print(f'| killed at, of {seconds:.1f} s | epochs saved | fastai: SaveModelCallback and start_epoch |\n|---|---|---|')
    for moment, saved, text in found: print(f'| {moment:.1f} s | {saved} | {text} |')
    same = sum(text == 'the same weights' for *_, text in found)
    ours = kills(Bench(folder/'ours'), count)
    print(f'\nstock fastai: {same} of {count} ended with the weights of the uninterrupted run; cifar_fastai: {ours.passed} of {ours.count}\n{ours.notes or ""}')
    print(Counter(text.split(',')[0] for *_, text in found))
    shutil.rmtree(folder)


if __name__ == '__main__': main()
