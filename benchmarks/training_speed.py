"""Images a second while training: the usual fastai way, ours, and the leanest PyTorch loop.

    python benchmarks/training_speed.py                                        # five networks and the loaders alone
    python benchmarks/training_speed.py --arch resnet9:16 --only ours,lean     # some arms of one network
    python benchmarks/training_speed.py --arch resnet18,resnet9:16 --layers    # NETWORK:WIDTH; layer by layer too

The arms take turns, each round in a fresh process, on the same network, batch size and machine:

usual  files from a folder, fastai's `aug_transforms` and `SGD`, fp32, the better of 0 and 2 workers
ours   the Learner that a recipe gives: in-memory `DataBlock`, bf16 where the device has it, channels-last; as it is, and with
       `--compile yes`, on a GPU
lean   a hand-written loop: data in memory, the same augmentation, bf16 where the device has it, channels-last; as it is (`lean`), with
       an allocator that keeps its memory (`memory`), by `torch.compile` (`compiled`), and with both (`both`)

Ours is compared with the fastest of the four lean loops, which is another one on another machine or network. The allocator is tcmalloc where
the system has it or --tcmalloc names it, else glibc with the settings that ours has; on a GPU it plays no part, and those two are left out.

The usual way and the lean loops train the network in the order in which it is published: `resnet9` pools after its ReLU there.
Ours pools before it, which gives the same answers from a quarter of the ReLUs' work.

Ratios are taken within a round; their median, lowest and highest are printed. The share of the peak is the network's
operations a second over those of a large matrix product in the same arithmetic, the fastest that the arms of the round saw.
"""
import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import fresh, in_turn, machine, ratios, say, spread, wait

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import BadInput, one_of
from cifar_fastai.recipes.choices import NETWORKS
from cifar_fastai.recipes.recipe import Recipe

MEASURED = 'resnet9,resnet18,wrn16_4,resnet9:16,cifarnet:80'
LEAN = ('lean', 'lean-memory', 'lean-compiled', 'lean-both')
KINDS = ('usual', 'ours', 'lean', 'loaders')
WARM_UP = 3  # steps that don't count
SIDE = 32


def usual_loaders(recipe, folder, workers):
    from fastai.vision.all import (CategoryBlock, DataBlock, ImageBlock, Normalize, RandomSplitter, aug_transforms, get_image_files,
                                   parent_label)
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, splitter=RandomSplitter(0.01),
                      batch_tfms=[*aug_transforms(size=SIDE), Normalize.from_stats([0.5]*3, [0.25]*3)])
    return block.dataloaders(folder, bs=recipe.batch_size, num_workers=workers, device=device(recipe))


def usual(recipe, folder, seconds, workers):
    "fastai as its tutorials have it"
    from functools import partial
    from fastai.vision.all import SGD, Learner
    from torch import nn
    learner = Learner(usual_loaders(recipe, folder, workers), published(recipe), nn.CrossEntropyLoss(), opt_func=partial(SGD, mom=0.9, wd=5e-4))
    return timed_fit(learner, seconds)


def ours(recipe, folder, seconds, compile='no'):
    "What `cifar_fastai` gives"
    from cifar_fastai.base.devices import keep_freed_memory
    from cifar_fastai.data.loaders import cifar_dataloaders
    from cifar_fastai.training.learner import cifar_learner
    recipe = dataclasses.replace(recipe, compile=compile)
    keep_freed_memory(recipe.device)
    return timed_fit(cifar_learner(cifar_dataloaders(recipe), recipe), seconds)


def lean(recipe, folder, seconds, kind='', preloaded=False):
    "A loop by hand: nothing but what training needs; `kind` is one of memory, compiled and both"
    import torch
    from torch.nn import functional as F
    if kind in ('memory', 'both') and not preloaded:
        from cifar_fastai.base.devices import keep_freed_memory
        keep_freed_memory(recipe.device)
    from cifar_fastai.data.loaders import cifar_dataloaders
    from cifar_fastai.base.devices import choose_precision
    loaders, where = cifar_dataloaders(recipe), device(recipe)
    source, bf16 = loaders.data, choose_precision('auto', where) == 'bf16'
    mean, deviation = (torch.tensor(v, device=where).view(1, 3, 1, 1) for v in loaders.statistics)
    pixels = torch.from_numpy(source.images[:source.train_count]).to(where).permute(0, 3, 1, 2)
    padded = F.pad((pixels/255 - mean)/deviation, (4,)*4, mode='reflect').permute(0, 2, 3, 1).contiguous()
    labels = torch.from_numpy(source.labels[:source.train_count]).to(where)
    model = published(recipe).to(where, memory_format=torch.channels_last).train()
    if kind in ('compiled', 'both'): model.compile()
    stepper = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    side, size = torch.arange(SIDE, device=where), recipe.batch_size

    def step():
        chosen = torch.randint(len(labels), (size,), device=where)
        up, left, corner_y, corner_x = torch.randint(0, 9, (4, size, 1), device=where)
        mirror = torch.rand(size, 1, device=where) < 0.5
        rows, columns = up + side, torch.where(mirror, SIDE - 1 - side, side) + left
        images = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        hole = ((side - corner_y*3).abs() < 4)[:, :, None] & ((side - corner_x*3).abs() < 4)[:, None, :]
        images = images.masked_fill(hole[..., None], 0).permute(0, 3, 1, 2)
        with torch.autocast(where.type, torch.bfloat16, enabled=bf16): logits = model(images)
        F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1).backward()
        stepper.step()
        stepper.zero_grad()

    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True  # on a GPU the fastest kernel for each shape, as speed-runs have it
    for _ in range(WARM_UP): step()
    wait(where)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds: step(); steps += 1
    wait(where)
    torch.backends.cudnn.benchmark = before
    return steps*size/(time.perf_counter() - started)


def loader(recipe, folder, seconds):
    "Our loader alone, augmentation and normalisation included"
    from cifar_fastai.data.loaders import cifar_dataloaders
    return timed_loader(cifar_dataloaders(recipe).train, seconds)


def files(recipe, folder, seconds, workers):
    "The usual loader alone"
    return timed_loader(usual_loaders(recipe, folder, workers).train, seconds)


def device(recipe):
    from cifar_fastai.base.devices import choose_device
    return choose_device(recipe.device)


def published(recipe):
    "The recipe's network with every pooling after its ReLU"
    from torch import nn
    from cifar_fastai.models.networks import network
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


def timed_loader(loader, seconds):
    "Images a second of a loader alone, from its second batch, for `seconds`"
    batches = (len(batch[1]) for _ in iter(int, 1) for batch in loader)
    next(batches)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds: count += next(batches)
    return count/(time.perf_counter() - started)


def machine_and_network(recipe):
    "Operations a second of a large matrix product, and those of the network for an image, forward and backward"
    from cifar_fastai.models.networks import network
    from cifar_fastai.profiling.peak import matrix_peak, step_flops
    return {'peak': matrix_peak(device(recipe)), 'flops': sum(step_flops(network(recipe.arch, width=recipe.width), (1, 3, SIDE, SIDE)))}


def layer_table(recipe):
    "The layers of our network, as a table in Markdown"
    from cifar_fastai.base.devices import keep_freed_memory, memory_format
    from cifar_fastai.profiling.layer_profile import profile_layers
    from cifar_fastai.models.networks import network
    where = device(recipe)
    if where.type == 'cpu': keep_freed_memory()
    return str(profile_layers(network(recipe.arch, width=recipe.width).to(where, memory_format=memory_format(where)), (recipe.batch_size, 3, SIDE, SIDE)))


def one(options):
    "One arm in this process, of the first network named"
    arch, _, width = networks(options.arch)[0].partition(':')
    recipe = Recipe(arch=arch, width=width or 'auto', batch_size=options.batch_size, data=options.data, image_size=SIDE, optimizer='sgd',
                    augment='crop_flip_cutout8', progressive=0, device=options.device)
    arm, _, choice = options.arm.partition('-')
    if arm == 'layers': return say({'table': layer_table(recipe)})
    more = {'compile': choice} if arm == 'ours' else {'kind': choice, 'preloaded': bool(options.tcmalloc)} if arm == 'lean' else {'workers': int(choice)} if choice else {}
    rate = {'usual': usual, 'ours': ours, 'lean': lean, 'loader': loader, 'files': files}[arm](recipe, options.folder, options.seconds, **more)
    say({'rate': rate, **(machine_and_network(recipe) if arm in ('ours', 'lean') else {})})


def write_files(data, folder, count=6000):
    "Some images of each class as PNG files, for the usual way"
    from PIL import Image
    from cifar_fastai.data.sources import load_images
    from cifar_fastai.data.images import balanced_sample
    source = load_images(data, SIDE)
    for position in balanced_sample(source.labels[:source.train_count], min(count, source.train_count)):
        place = Path(folder)/source.classes[source.labels[position]]/f'{position}.png'
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(source.images[position]).save(place)


def find_tcmalloc():
    "The name by which the system finds tcmalloc; none where it has none"
    from ctypes.util import find_library
    return find_library('tcmalloc_minimal') or find_library('tcmalloc') or ''


def rates_of(results, arm): return [done[arm]['rate'] for done in results]


def strongest(results, name):
    "The lean loop of a network that was the fastest, by the median of the rounds"
    arms = [f'{name} {which}' for which in LEAN if f'{name} {which}' in results[0]]
    return max(arms, key=lambda arm: statistics.median(rates_of(results, arm))) if arms else None


def network_row(name, compiled, results):
    "What the rounds say of a network, as it is or compiled, as cells of a table; without the arms that were left out"
    ours, best = f'{name} ours-{compiled}', strongest(results, name)
    usual = [arm for arm in (f'{name} usual-0', f'{name} usual-2') if arm in results[0]]
    fastest = [{**done, 'usual': max((done[arm] for arm in usual), key=lambda result: result['rate'])} for done in results] if usual else []
    peaks = [max(done[arm]['peak'] for arm in (ours, best) if arm) for done in results]
    def of_peak(arm): return spread([done[arm]['rate']*done[arm]['flops']/peak for done, peak in zip(results, peaks)], '{:.0%}') if arm else ''
    memory = lambda arm: f"{max(done[arm]['memory'] for done in results):.2f}" if arm else ''
    return (name, compiled, spread(ratios(results, ours, best)) if best else '', best.split()[1] if best else '', spread(ratios(fastest, ours, 'usual')) if usual else '',
            spread(rates_of(results, ours), '{:,.0f}'), of_peak(ours), of_peak(best), f'{memory(ours)} / {memory(best)}', f'{statistics.median(peaks)/1e9:,.0f}')


HEADER = ('network', '--compile', 'ours / strongest lean', 'that is', 'ours / usual', 'images/s, ours', 'of the peak, ours', 'of the peak, lean', 'GiB, ours / lean', 'peak, GFLOP/s')


def lean_row(name, results):
    "Images a second of each lean loop of a network"
    return name, *(spread(rates_of(results, f'{name} {arm}'), '{:,.0f}') if f'{name} {arm}' in results[0] else '' for arm in LEAN)


def lean_arms(device_type):
    "The lean loops that differ on a device: an allocator plays no part on a GPU"
    return LEAN if device_type == 'cpu' else ('lean', 'lean-compiled')


def networks(text):
    "The names between commas, checked"
    names = text.split(',')
    for name in names:
        arch, colon, width = name.partition(':')
        one_of(arch, NETWORKS, 'network')
        if colon and not (width.isdigit() and int(width)): raise BadInput(f"'{name}' names no width\nWrite NETWORK or NETWORK:CHANNELS, such as resnet9:16")
    return names


def main(words):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--arch', default=MEASURED, help=f'networks, each with a width after a colon where it is not its own [{MEASURED}]')
    parser.add_argument('--batch-size', type=int, default=512)
    parser.add_argument('--data', default='cifar10', help='cifar10 or shapes')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=15, help='how long each arm is timed in each round')
    parser.add_argument('--only', default=','.join(KINDS), help=f"some kinds of arms [{','.join(KINDS)}]")
    parser.add_argument('--tcmalloc', default=find_tcmalloc(), help='the library of tcmalloc, where the system does not find it by itself')
    parser.add_argument('--layers', action='store_true', help='layer by layer too, with the share of the peak of each')
    parser.add_argument('--traceback', action='store_true')
    for hidden in ('--arm', '--folder'): parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.arm: return one(options)
    names = networks(options.arch)
    print(machine(options.device), flush=True)
    from cifar_fastai.base.wording import Listing
    kinds = [one_of(kind, KINDS, 'kind of arm') for kind in options.only.split(',')]
    compiles = ('no',) if device(options).type == 'cpu' else ('no', 'yes')
    lean, loaders = lean_arms(device(options).type), ('loader', 'files-0', 'files-2') if 'loaders' in kinds else ()
    which = [arm for kind, arms in (('usual', ('usual-0', 'usual-2')), ('ours', tuple(f'ours-{compiled}' for compiled in compiles)), ('lean', lean)) if kind in kinds for arm in arms]
    arms = [f'{name} {arm}' for name in names for arm in which] + list(loaders)
    if 'lean-memory' in which: print(f"the allocator that keeps its memory: {options.tcmalloc or 'glibc with the settings of ours, for there is no tcmalloc'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if {'usual', 'loaders'} & {*kinds}: write_files(options.data, folder)
        def measure(arm):
            network, _, which = arm.rpartition(' ')
            preload = options.tcmalloc if which in ('lean-memory', 'lean-both') else None
            return fresh(__file__, [*(f'--{word}={getattr(options, word.replace("-", "_"))}' for word in ('batch-size', 'data', 'device', 'seconds')), f'--arch={network or names[0]}',
                                    f'--arm={which}', f'--folder={folder}', f"--tcmalloc={preload or ''}"], preload)
        results = in_turn(arms, options.rounds, measure)
        rows = tuple(network_row(name, compiled, results) for name in names for compiled in compiles if 'ours' in kinds)
        if rows: print(f"\n{Listing(f'Images a second while training, batches of {options.batch_size}: median (lowest…highest, rounds)', HEADER, rows)}\n")
        if 'lean' in kinds: print(f"{Listing('The lean loops', ('network', *LEAN), tuple(lean_row(name, results) for name in names))}\n")
        for arm in loaders: print(f"{arm:8} {spread([done[arm]['rate'] for done in results], '{:,.0f}')} images/s alone")
        for name in names if options.layers else (): print(f"\n{measure(f'{name} layers')['table']}")


if __name__ == '__main__': sys.exit(run_command(main))
