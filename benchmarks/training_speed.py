"""Images a second while training: the usual fastai way, ours, and the leanest PyTorch loop.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --width 16

The arms take turns, each round in a fresh process, on the same network, batch size and machine:

usual  files from a folder, fastai's `aug_transforms` and `SGD`, fp32, the better of 0 and 2 workers
ours   the Learner that a recipe gives: in-memory `DataBlock`, bf16 where the device has it, channels-last
lean   a hand-written loop: data in memory, the same augmentation, bf16 where the device has it, channels-last

The first and the last train the network in the order in which it is published: `resnet9` pools after its ReLU there.
Ours pools before it, which gives the same answers from a quarter of the ReLUs' work.

Ratios are taken within a round; their median, lowest and highest are printed.
"""
import argparse, json, resource, statistics, subprocess, sys, tempfile, time
from pathlib import Path


def usual(recipe, folder, seconds, workers):
    "fastai as its tutorials have it"
    from functools import partial
    from fastai.vision.all import (SGD, CategoryBlock, DataBlock, ImageBlock, Learner, Normalize, RandomSplitter, aug_transforms,
                                   get_image_files, parent_label)
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, splitter=RandomSplitter(0.01),
                      batch_tfms=[*aug_transforms(size=32), Normalize.from_stats([0.5]*3, [0.25]*3)])
    loaders = block.dataloaders(folder, bs=recipe.batch_size, num_workers=workers, device=device(recipe))
    from torch import nn
    learner = Learner(loaders, published(recipe), nn.CrossEntropyLoss(), opt_func=partial(SGD, mom=0.9, wd=5e-4))
    return timed_fit(learner, seconds)


def ours(recipe, folder, seconds):
    "What `cifar_fastai` gives"
    from cifar_fastai.data import cifar_dataloaders
    from cifar_fastai.training import cifar_learner
    return timed_fit(cifar_learner(cifar_dataloaders(recipe), recipe), seconds)


def lean(recipe, folder, seconds):
    "A loop by hand: nothing but what training needs"
    import torch
    from torch.nn import functional as F
    from cifar_fastai.data import cifar_dataloaders
    from cifar_fastai.devices import choose_precision
    loaders, where = cifar_dataloaders(recipe), device(recipe)
    source = loaders.data
    mean, deviation = (torch.tensor(v, device=where).view(1, 3, 1, 1) for v in loaders.statistics)
    pixels = torch.from_numpy(source.images[:source.train_count]).to(where).permute(0, 3, 1, 2)
    padded = F.pad((pixels/255 - mean)/deviation, (4,)*4, mode='reflect').permute(0, 2, 3, 1).contiguous()
    labels = torch.from_numpy(source.labels[:source.train_count]).to(where)
    model = published(recipe).to(where, memory_format=torch.channels_last).train()
    stepper = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    bf16 = choose_precision('auto', where) == 'bf16'
    side, size = torch.arange(32, device=where), recipe.batch_size

    def step():
        chosen = torch.randint(len(labels), (size,), device=where)
        up, left, corner_y, corner_x = torch.randint(0, 9, (4, size, 1), device=where)
        mirror = torch.rand(size, 1, device=where) < 0.5
        rows, columns = up + side, torch.where(mirror, 31 - side, side) + left
        images = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        hole = ((side - corner_y*3).abs() < 4)[:, :, None] & ((side - corner_x*3).abs() < 4)[:, None, :]
        images = images.masked_fill(hole[..., None], 0).permute(0, 3, 1, 2)
        with torch.autocast(where.type, torch.bfloat16, enabled=bf16): logits = model(images)
        F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1).backward()
        stepper.step()
        stepper.zero_grad()

    for _ in range(WARM_UP): step()
    wait(where)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds: step(); steps += 1
    wait(where)
    return steps*size/(time.perf_counter() - started)


def loader(recipe, folder, seconds):
    "Our loader alone, augmentation and normalisation included"
    from cifar_fastai.data import cifar_dataloaders
    train = cifar_dataloaders(recipe).train
    for _ in train: break
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds/2: count += sum(len(y) for _, y in train)
    return count/(time.perf_counter() - started)


WARM_UP = 3


def device(recipe):
    from cifar_fastai.devices import choose_device
    return choose_device(recipe.device)


def wait(where):
    import torch
    if where.type == 'cuda': torch.cuda.synchronize()


def published(recipe):
    "The recipe's network with every pooling after its ReLU"
    from torch import nn
    from cifar_fastai.models import network
    model = network(recipe.arch, width=recipe.width)
    for part in model.modules():
        if isinstance(part, nn.Sequential) and [type(layer) for layer in part[-2:]] == [nn.MaxPool2d, nn.ReLU]:
            part[-2], part[-1] = part[-1], part[-2]
    return model


def timed_fit(learner, seconds):
    "Images a second of `learner`'s own loop, from its fourth step for `seconds`"
    import fastai.callback.progress  # gives `Learner` its `no_bar`
    from fastai.callback.core import Callback, CancelFitException

    class Clock(Callback):
        run_valid, steps, rate = False, 0, 0.
        def after_batch(self):
            self.steps += 1
            if self.steps == WARM_UP: wait(self.x.device); self.started = time.perf_counter()
            elif self.steps > WARM_UP and time.perf_counter() - self.started > seconds:
                wait(self.x.device)
                self.rate = (self.steps - WARM_UP)*len(self.y)/(time.perf_counter() - self.started)
                raise CancelFitException

    clock = Clock()
    with learner.no_bar(), learner.no_logging(): learner.fit(10_000, lr=0.01, cbs=clock)
    return clock.rate


def one(arguments):
    "One arm in this process; prints a line of JSON"
    from cifar_fastai.recipes import Recipe
    recipe = Recipe(arch=arguments.arch, width=arguments.width, batch_size=arguments.batch_size, data=arguments.data, optimizer='sgd',
                    augment='crop_flip_cutout8', progressive=0, device=arguments.device)
    arm, _, workers = arguments.arm.partition('-')
    more = {'workers': int(workers)} if workers else {}
    rate = {'usual': usual, 'ours': ours, 'lean': lean, 'loader': loader}[arm](recipe, arguments.folder, arguments.seconds, **more)
    print(json.dumps({'rate': rate, 'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20}))


def write_files(data, folder, count=6000):
    "The first images of each class as PNG files, for the usual way"
    from PIL import Image
    from cifar_fastai.sources import load_images
    from cifar_fastai.splits import balanced_sample
    source = load_images(data)
    for position in balanced_sample(source.labels[:source.train_count], count):
        place = Path(folder)/source.classes[source.labels[position]]/f'{position}.png'
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(source.images[position]).save(place)


def measure(arm, folder, words):
    "One arm in a process of its own"
    done = subprocess.run([sys.executable, __file__, '--arm', arm, '--folder', folder, *words], capture_output=True, text=True)
    if done.returncode: sys.exit(f'{arm} failed:\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


def spread(values, form='{:.2f}'):
    text = [form.format(value) for value in (statistics.median(values), min(values), max(values))]
    return f'{text[0]} ({text[1]}…{text[2]}, n = {len(values)})'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--arch', default='resnet9')
    parser.add_argument('--width', default='auto')
    parser.add_argument('--batch-size', type=int, default=512)
    parser.add_argument('--data', default='cifar10', help='cifar10 or shapes')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=15, help='how long each arm is timed in each round')
    parser.add_argument('--arm', help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm: return one(arguments)
    import torch
    from cifar_fastai.devices import choose_device, choose_precision, environment
    where = choose_device(arguments.device)
    print(', '.join(f'{key} {value}' for key, value in environment(where, choose_precision('auto', where)).items()))
    words = [f'--{name}={getattr(arguments, name.replace("-", "_"))}' for name in ('arch', 'width', 'batch-size', 'data', 'device', 'seconds')]
    arms, results = ['usual-0', 'usual-2', 'ours', 'lean', 'loader'], []
    with tempfile.TemporaryDirectory() as folder:
        write_files(arguments.data, folder)
        for number in range(arguments.rounds):
            results.append({arm: measure(arm, folder, words) for arm in arms})
            print(f'round {number + 1}: ' + ', '.join(f"{arm} {done['rate']:,.0f}" for arm, done in results[-1].items()), flush=True)
    best = [max(done['usual-0']['rate'], done['usual-2']['rate']) for done in results]
    print(f"\n{arguments.arch}, width {arguments.width}, batch {arguments.batch_size}: images a second, median (lowest…highest)")
    for arm in arms:
        print(f"  {arm:8} {spread([done[arm]['rate'] for done in results], '{:,.0f}'):32} "
              f"peak memory {max(done[arm]['memory'] for done in results):.2f} GiB")
    print(f"  ours / lean   {spread([done['ours']['rate']/done['lean']['rate'] for done in results])}")
    print(f"  ours / usual  {spread([done['ours']['rate']/rate for done, rate in zip(results, best)])}")


if __name__ == '__main__': main()
