"""A thousand to a million images: images a second, memory, and how long until the first step.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --sizes 1000,50000 --seconds 2 --rounds 1

Images of noise are written once for each size, in the form in which decoded images are kept (3 GiB for a million). Then each
size is loaded and trained on for some seconds, by one process and by two at once that share the threads and the file, in turn.

loader     images a second out of the training loader, augmented and normalised
training   the same through a Learner's steps
anonymous  the most memory that one process had of its own: what the system cannot take back
resident   that and the pages of files that it looked at, which the system takes back when it needs them
first step from the start of the process, imports and all, to the end of the first training step

The images stay on the disk (`--place disk`), as they do by themselves once they are larger than half of the free memory.
`--cold` has the system forget the file before each measurement, so that every image comes from the disk.
"""
import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import fresh, in_turn, machine, ratios, say, spread, wait

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import BadInput

CLASSES, TEST, CHUNK = tuple('abcdefghij'), 1000, 10_000


def write_images(folder, count, side):
    "`count` training images of noise and a thousand to test on, kept as decoded images are"
    import numpy as np
    from cifar_fastai.data.cache import mapped_room, new_folder, write_folder
    from cifar_fastai.data.images import image_data
    random, total = np.random.default_rng(count), count + TEST
    with new_folder(folder) as part:
        images = mapped_room(part, total, side)
        for start in range(0, total, CHUNK):
            images[start:start+CHUNK] = random.integers(0, 256, images[start:start+CHUNK].shape, dtype=np.uint8)
        names = np.char.mod('image/%07d', np.arange(total))
        write_folder(image_data(images, np.arange(total) % len(CLASSES), CLASSES, names, count, name='noise'), part)


def memory():
    "Anonymous and resident memory of this process, in GiB"
    lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return [int(lines[name].split()[0])/2**20 for name in ('RssAnon', 'VmRSS')]


def forget(folder):
    "Have the system drop the images from its memory"
    with (folder/'images.npy').open('rb') as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one(options):
    "One size in this process"
    from fastai.callback.core import Callback, CancelFitException, CancelValidException
    from cifar_fastai.base.devices import keep_freed_memory
    from cifar_fastai.data.cache import fetch_data
    from cifar_fastai.data.loaders import image_dataloaders
    from cifar_fastai.recipes.recipe import Recipe
    from cifar_fastai.training.learner import cifar_learner
    recipe = Recipe(arch=options.arch, width=options.width, batch_size=options.batch_size, progressive=0, device=options.device)
    keep_freed_memory(options.device)
    loaders = image_dataloaders(fetch_data(options.folder), recipe, place=options.place)
    learner, size, most = cifar_learner(loaders, recipe), recipe.batch_size, [0, 0]

    def look(): most[:] = map(max, zip(most, memory()))

    class Clock(Callback):
        run_valid, steps = False, 0
        def before_validate(self): raise CancelValidException
        def after_batch(self):
            self.steps += 1
            last = self.steps > 2 and time.perf_counter() - self.started > options.seconds
            if self.steps <= 2 or last: wait(self.x.device)
            look()
            if self.steps == 1: self.first = time.time() - options.began
            if self.steps == 2: self.started = time.perf_counter()
            if last:
                self.rate = (self.steps - 2)*size/(time.perf_counter() - self.started)
                raise CancelFitException

    clock = Clock()
    with learner.no_bar(), learner.no_logging(): learner.fit(10_000, lr=0.01, cbs=clock)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < options.seconds:
        for _ in loaders.train:
            count += size
            if time.perf_counter() - started > options.seconds: break
    look()
    say({'training': clock.rate, 'loader': count/(time.perf_counter() - started), 'first': clock.first, 'anonymous': most[0], 'resident': most[1]})


def measure(arm, options, folders):
    "One size by one or two processes at once: rates added, memory and start-up of the larger and slower"
    count, processes = arm
    if options.cold: forget(folders[count])
    os.environ['OMP_NUM_THREADS'] = str(max(1, options.threads//processes))
    words = [f'--{name.replace("_", "-")}={getattr(options, name)}' for name in ('arch', 'width', 'batch_size', 'device', 'seconds', 'place')]
    with ThreadPoolExecutor() as pool:
        run = lambda _: fresh(__file__, ['--arm', count, '--folder', folders[count], '--began', time.time(), *words])
        done = list(pool.map(run, range(processes)))
    return {key: (sum if key in ('training', 'loader') else max)(one[key] for one in done) for key in done[0]}


def whole_numbers(text, name):
    "The numbers between commas, checked"
    parts = text.split(',')
    if not all(part.isdigit() and int(part) for part in parts): raise BadInput(f'{name} {text}: write whole numbers from 1, with commas between them')
    return [int(part) for part in parts]


COLUMNS = {'loader': '{:,.0f}', 'training': '{:,.0f}', 'anonymous': '{:.2f}', 'resident': '{:.2f}', 'first': '{:.1f}'}


def main(words):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--sizes', default='1000,50000,200000,1000000', help='numbers of training images')
    parser.add_argument('--side', type=int, default=32, help='of an image, in pixels')
    parser.add_argument('--processes', default='1,2')
    parser.add_argument('--place', default='disk', help='disk, memory, device or auto')
    parser.add_argument('--cold', action='store_true', help='read from the disk, not from what the system remembers of it')
    parser.add_argument('--arch', default='resnet9')
    parser.add_argument('--width', default='16')
    parser.add_argument('--batch-size', type=int, default=500)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='for all processes together')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=8, help='of training and of loading, each')
    parser.add_argument('--folder', type=Path, help='keep the images there for the next time')
    parser.add_argument('--arm', help=argparse.SUPPRESS)
    parser.add_argument('--began', type=float, help=argparse.SUPPRESS)
    parser.add_argument('--traceback', action='store_true')
    options = parser.parse_args(words)
    if options.arm: return one(options)
    sizes, numbers = (whole_numbers(text, name) for text, name in ((options.sizes, '--sizes'), (options.processes, '--processes')))
    if min(sizes) < 2*options.batch_size: raise BadInput(f'--sizes {options.sizes}: a size has at least two batches of {options.batch_size}')
    print(machine(options.device), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folders = {size: (options.folder or Path(temporary))/f'{size}-{options.side}' for size in sizes}
        for size, folder in folders.items():
            if not folder.exists(): write_images(folder, size, options.side)
        arms = [(size, number) for number in numbers for size in sizes]
        show = lambda result: ' '.join(form.format(result[key]) for key, form in COLUMNS.items())
        results = in_turn(arms, options.rounds, lambda arm: measure(arm, options, folders), show)
    print(f'\n{options.arch}, width {options.width}, batch {options.batch_size}, images of {options.side}×{options.side} ({options.place}): median (lowest…highest)')
    print(f"{'images':>9} {'processes':>9}  " + '  '.join(f'{name:24}' for name in ('loader/s', 'training/s', 'anonymous GiB', 'resident GiB', 'first step s')))
    for arm in arms:
        cells = (spread([done[arm][key] for done in results], form) for key, form in COLUMNS.items())
        print(f'{arm[0]:9,} {arm[1]:9}  ' + '  '.join(f'{cell:24}' for cell in cells))
    small = min((size for size in sizes if size >= 50_000), default=min(sizes))
    if max(sizes) > small:
        for key, title in (('anonymous', 'anonymous memory'), ('resident', 'resident memory'), ('training', 'training'), ('first', 'first step')):
            print(f'  {title}, {max(sizes):,} / {small:,} images: {spread(ratios(results, (max(sizes), numbers[0]), (small, numbers[0]), key))}')


if __name__ == '__main__': sys.exit(run_command(main))
