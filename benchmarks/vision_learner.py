"""fastai's own `vision_learner(…).fine_tune(…)` and a recipe of ours on the same folder, from the same weights: accuracy and time

    python benchmarks/vision_learner.py --weights efficientnet-lite0-57934424.pth

Both train the same network of timm with fastai's head for the same epochs at the same rates, without augmentation. The pictures are drawn shapes, written as files.
"""
import argparse
import tempfile
import time
from pathlib import Path

from common import fresh, machine, say


def draw_folder(folder, train, test, size):
    "Drawn shapes as an image folder"
    from PIL import Image
    from cifar_fastai.data.sources import shapes_data
    data = shapes_data(size, train, test)
    for position, (image, label) in enumerate(zip(data.images, data.labels)):
        path = folder/('train' if position < train else 'test')/data.classes[label]/f'{position:05}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def measure_ours(options):
    from cifar_fastai.data.loaders import cifar_dataloaders
    from cifar_fastai.recipes.recipe import Recipe
    from cifar_fastai.training.learner import cifar_learner, fit_recipe
    recipe = Recipe(data=options.folder, image_size=options.size, arch=f'timm:{options.network}', weights=options.weights, epochs=options.epochs + 1, freeze_epochs=1,
                    body_lr=0.01, lr=options.rate, batch_size=options.batch, optimizer='adamw', weight_decay=0.01, momentum=0.95, momentum_low=0.85, decay_norms=False,
                    anneal='cosine', pct_start=0.3, div=5, augment='none', progressive=0, label_smoothing=0, precision='fp32', seed=options.seed, device='cpu')
    learner = cifar_learner(cifar_dataloaders(recipe), recipe)
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging(): fit_recipe(learner)
    return learner, time.perf_counter() - started


def measure_stock(options):
    from fastai.vision.all import ImageDataLoaders, Normalize, Resize, accuracy, set_seed, vision_learner
    from cifar_fastai.models.libraries import load_weights
    from cifar_fastai.recipes.libraries import weights_statistics
    import timm
    set_seed(options.seed)
    loaders = ImageDataLoaders.from_folder(options.folder, valid='test', item_tfms=Resize(options.size), bs=options.batch, num_workers=0, device='cpu', seed=options.seed,
                                           batch_tfms=Normalize.from_stats(*weights_statistics(f'timm:{options.network}')))
    learner = vision_learner(loaders, options.network, pretrained=False, normalize=False, metrics=accuracy)
    full = timm.create_model(options.network)
    load_weights(full, options.weights, options.network)
    own = learner.model[0].model.state_dict()
    learner.model[0].model.load_state_dict({name: value for name, value in full.state_dict().items() if name in own})
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging(): learner.fine_tune(options.epochs, options.rate)
    return learner, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', required=True, help='trained weights, as `--weights` of train takes them')
    parser.add_argument('--network', default='tf_efficientnet_lite0', help='of timm [%(default)s]')
    for name, value, text in (('train', 500, 'pictures to train on'), ('test', 500, 'to test on'), ('size', 64, 'their side'), ('epochs', 4, 'after one of the head alone'),
                              ('batch', 32, 'pictures in a step'), ('seeds', 3, 'of each')):
        parser.add_argument(f'--{name}', type=int, default=value, help=f'{text} [%(default)s]')
    parser.add_argument('--rate', type=float, default=2e-3, help="fine_tune's base_lr [%(default)s]")
    parser.add_argument('--arm', help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    parser.add_argument('--seed', type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        learner, seconds = (measure_stock if options.arm == 'stock' else measure_ours)(options)
        with learner.no_bar(): right = learner.validate()[1]
        return say({'accuracy': float(right), 'seconds': seconds})
    print(machine('cpu'))
    given = [word for name in ('weights', 'network', 'size', 'epochs', 'batch', 'rate') for word in (f'--{name}', getattr(options, name))]
    with tempfile.TemporaryDirectory() as place:
        draw_folder(Path(place)/'shapes', options.train, options.test, options.size)
        for seed in range(options.seeds):
            for arm in ('stock', 'ours'):
                found = fresh(__file__, ['--arm', arm, '--folder', f'{place}/shapes', '--seed', seed, *given])
                print(f"seed {seed}  {arm:5}  {found['accuracy']:.2%}  {found['seconds']:.0f} s  {found['memory']:.2f} GiB", flush=True)


if __name__ == '__main__': main()
