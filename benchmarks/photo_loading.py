"""Images a second from a folder of photographs: our loader on its first epoch and with its cache, and fastai's ImageDataLoaders at the same size

    python benchmarks/photo_loading.py --count 20000

The photographs are drawn: smooth colours with noise, 500×375, JPEG. `--distinct` of them are drawn, and the others are copies under other names.
A first epoch counts the reading of the folder and one pass over the training images; a later one, in a new process, finds what was read in the cache.
Neither augments: pictures are cropped, resized and normalised, 64 in a batch.
"""
import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from common import fresh, in_turn, machine, ratios, say, spread

CLASSES, WORKERS = 10, 2


def draw_photos(folder, count, distinct):
    "A folder of `count` photographs, a tenth of them for testing"
    import numpy as np
    from PIL import Image
    random, first = np.random.default_rng(0), []
    for number in range(count):
        path = folder/('test' if number%10 == 9 else 'train')/f'class{number//10%CLASSES}'/f'{number:06}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= distinct: shutil.copy(first[number%distinct], path); continue
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(coarse, np.int16) + random.integers(-12, 13, (375, 500, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
        first.append(path)


def pass_over(loader):
    "Images that one pass gives"
    return sum(len(images) for images, *_ in loader)


def measure_ours(options):
    from cifar_fastai.base.devices import keep_freed_memory
    from cifar_fastai.data.loaders import cifar_dataloaders
    from cifar_fastai.recipes.recipe import Recipe
    import warnings
    warnings.simplefilter('ignore')
    keep_freed_memory() # as the command `train` does
    started = time.perf_counter()
    recipe = Recipe(data=options.folder, image_size=options.size, batch_size=64, augment='none', progressive=0, device='cpu')
    return pass_over(cifar_dataloaders(recipe).train), started


def measure_stock(options):
    from fastai.vision.all import ImageDataLoaders, Normalize, Resize, imagenet_stats
    started = time.perf_counter()
    loaders = ImageDataLoaders.from_folder(options.folder, valid='test', item_tfms=Resize(options.size), batch_tfms=Normalize.from_stats(*imagenet_stats),
                                           bs=64, num_workers=WORKERS, device='cpu')
    return pass_over(loaders.train), started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=20_000, help='photographs [%(default)s]')
    parser.add_argument('--distinct', type=int, default=500, help='of them drawn anew; the others are copies [%(default)s]')
    parser.add_argument('--size', type=int, default=224, help='side that they are brought to [%(default)s]')
    parser.add_argument('--rounds', type=int, default=3, help='[%(default)s]')
    parser.add_argument('--arm', help=argparse.SUPPRESS)
    parser.add_argument('--folder', help='where the photographs lie, or are drawn and stay [a folder that goes afterwards]')
    options = parser.parse_args()
    if options.arm:
        count, started = (measure_stock if options.arm == 'stock' else measure_ours)(options)
        workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/2**20
        return say({'rate': count/(time.perf_counter() - started), 'worker_memory': workers})
    print(machine('cpu'))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(options.folder or f'{place}/photos')
        if not folder.exists(): draw_photos(folder, options.count, options.distinct)
        def measure(arm):
            if arm == 'first': shutil.rmtree(f'{place}/home', ignore_errors=True)
            os.environ['FASTAI_HOME'] = f'{place}/home'
            return fresh(__file__, ['--arm', arm, '--folder', folder, '--size', options.size])
        results = in_turn(['stock', 'first', 'cached'], options.rounds, measure)
    for arm in ('first', 'cached'):
        print(f'ours, {arm}: {spread(ratios(results, arm, "stock"))} times stock')
    for arm in ('stock', 'first', 'cached'):
        print(f'{arm}: {spread([found[arm]["rate"] for found in results], "{:.0f}")} images/s, {max(found[arm]["memory"] for found in results):.2f} GiB, '
              f'largest worker {max(found[arm]["worker_memory"] for found in results):.2f} GiB')


if __name__ == '__main__': main()
