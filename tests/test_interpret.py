"The interpretation against scikit-learn, torch and fastai's own, and against models that are wrong in a known way"
import copy
import csv
import io
import json
import random
import subprocess
import sys
from contextlib import redirect_stdout
from itertools import permutations, product
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as metrics
import torch
from fastai.callback.schedule import ParamScheduler  # noqa: F401  gives `Learner` its `fit_one_cycle`
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import GrandparentSplitter, Normalize, get_image_files, parent_label
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import PILImageBW, imagenet_stats
from fastai.vision.data import ImageBlock, ImageDataLoaders
from fastai.vision.learner import vision_learner
from matplotlib import pyplot
from PIL import Image
from torch import nn
from torchvision.models import resnet18
from test_gradcam import CORNERS, CornerWatcher, corner_of
from cifar_fastai.runs import interpreted
from cifar_fastai.interpretation.analysis import interpretation_files, metric_additions
from cifar_fastai.interpretation.predictions import ClassifiedImages, calibration_bins, choose_images, expected_calibration_error, report_text, top_k_accuracy
from cifar_fastai.base.commands import run_command
from cifar_fastai.interpret import main
from cifar_fastai.interpretation.interpretation import CifarInterpretation
from cifar_fastai.runs.interpreted import load_interpretation
from cifar_fastai.base.messages import BadInput

CLASSES = ('blue', 'green', 'red')
COLOURS = dict(red=(220, 40, 30), green=(40, 200, 50), blue=(30, 50, 210))


def write_images(folder, per_class, side=16, seed=0):
    "PNG files of one colour a class, with noise"
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(np.array(colour) + draw.normal(0, 30, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f'{number}.png')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos')
    write_images(path / 'train', 2, seed=1)
    write_images(path / 'valid', 7)
    return path


@pytest.fixture(scope='module')
def loaders(folder):
    return ImageDataLoaders.from_folder(folder, valid='valid', bs=4, num_workers=0, device='cpu',
                                        batch_tfms=[*aug_transforms(), Normalize.from_stats([0.4, 0.5, 0.3], [0.2, 0.3, 0.25], cuda=False)])


class Counted(nn.Module):
    "Logits from the mean colour, shifted by `shift` classes; counts the images that it sees"
    def __init__(self, shift=1, noise=0.):
        super().__init__()
        self.layer, self.shift, self.seen, self.passes = nn.Conv2d(3, 3, 1, bias=False), shift, 0, 0
        with torch.no_grad(): self.layer.weight.copy_(torch.eye(3).flip(0)[:, :, None, None] + noise * torch.randn(3, 3, 1, 1))

    def forward(self, images):
        self.seen, self.passes = self.seen + len(images), self.passes + 1
        return self.layer(images).mean((2, 3)).roll(self.shift, 1)


def learner_of(loaders, model, **kwargs):
    return Learner(loaders, model, loss_func=CrossEntropyLossFlat(), **kwargs)


@pytest.fixture()
def wrong(loaders):
    "Predicts class + 1 every time"
    return CifarInterpretation.from_learner(learner_of(loaders, Counted()))


@pytest.fixture(scope='module')
def mixed(loaders):
    "Right and wrong"
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    learner = learner_of(loaders, model)
    found = CifarInterpretation.from_learner(learner)
    logits, targets = found.kept.logits.copy(), found.kept.targets
    logits[::2] += 3 * np.eye(3, dtype=np.float32)[targets[::2]]  # some of each are right
    return CifarInterpretation(ClassifiedImages(logits, targets, found.kept.names, CLASSES), lambda: learner, lambda: found.dl)


def kept_of(logits, targets, classes=None):
    logits = np.asarray(logits, np.float32)
    classes = classes or tuple(f'class {number}' for number in range(logits.shape[1]))
    return ClassifiedImages(logits, np.asarray(targets), np.arange(len(logits)).astype(str), classes)


def of_arrays(kept):
    def none(): raise AssertionError('neither network nor images are needed')
    return CifarInterpretation(kept, none, none)


def titles_of(figure): return [text.get_text() for axes in figure.axes for text in axes.texts]


# The one pass

def test_one_pass_over_the_set_answers_everything(loaders):
    learner = learner_of(loaders, Counted())
    found = CifarInterpretation.from_learner(learner)
    assert learner.model.seen == 21
    found.confusion_matrix(), found.most_confused(), found.top_losses(5, items=True), found.classification_report()
    with redirect_stdout(io.StringIO()): found.print_classification_report()
    found.plot_top_losses(4), found.plot_confusion_matrix(), found.plot_misclassified(5), found.plot_reliability(), found[[1, 2]]
    found.show_results([0, 1]), found.plot_class_accuracy(), found.top_k_accuracy(2), found.plot_gallery(3, 'all', 'least sure')
    assert learner.model.seen == 21
    pyplot.close('all')


def test_the_pass_leaves_the_learner_as_it_was(loaders):
    learner = learner_of(loaders, Counted(), metrics=accuracy)
    with learner.no_bar(), learner.no_logging(): learner.fit(1, 1e-3)
    learner.model.train()
    values, losses = copy.deepcopy(learner.recorder.values), list(learner.recorder.losses)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    CifarInterpretation.from_learner(learner).plot_gradcam(2)
    assert learner.model.training and learner.recorder.values == values and learner.recorder.losses == losses
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_training_goes_on_bit_for_bit_after_heatmaps(loaders):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    results = []
    for look in (False, True):
        learner = learner_of(loaders, copy.deepcopy(model))
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        loaders.train.rng = random.Random(0)
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, 0.1)
            if look: CifarInterpretation.from_learner(learner).plot_gradcam(3, kind='all', methods=['gradcam', 'layercam'])
            learner.fit(2, 0.1)
        results.append([value.clone() for value in learner.model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*results))


def test_fp32_and_evaluation_mode_whatever_the_training_was(loaders):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).train()
    images = torch.cat([batch[0] for batch in loaders.valid]).as_subclass(torch.Tensor)
    expected = copy.deepcopy(model).eval()(images).detach().numpy()
    with torch.autocast('cpu', torch.bfloat16): found = CifarInterpretation.from_learner(learner_of(loaders, model))
    np.testing.assert_allclose(found.kept.logits, expected, rtol=1e-5, atol=1e-5)


def test_the_training_images_are_looked_at_without_augmentation_in_their_order(loaders, folder):
    found = CifarInterpretation.from_learner(learner_of(loaders, Counted()), ds_idx=0)
    assert [str(item.relative_to(folder)) for item in loaders.train.items] == found.kept.names.tolist()
    files = np.stack([np.asarray(Image.open(item)) for item in loaders.train.items])
    np.testing.assert_array_equal(found.images(range(6)), files)
    assert loaders.train.dataset.split_idx == 0
    assert [CLASSES[target] for target in found.kept.targets] == [item.parent.name for item in loaders.train.items]
    seen = (torch.tensor(files).permute(0, 3, 1, 2) / 255 - torch.tensor([0.4, 0.5, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.25])[:, None, None]
    np.testing.assert_allclose(found.kept.logits, Counted()(seen).detach().numpy(), atol=1e-5)


# Against scikit-learn, torch and fastai

def test_tables_equal_scikit_learn_and_torch(mixed):
    kept, guess = mixed.kept, mixed.kept.logits.argmax(1)
    assert mixed.classification_report() == metrics.classification_report(kept.targets, guess, target_names=list(CLASSES), zero_division=0)
    np.testing.assert_array_equal(mixed.confusion_matrix(), metrics.confusion_matrix(kept.targets, guess))
    assert mixed.accuracy == pytest.approx(metrics.accuracy_score(kept.targets, guess))
    assert mixed.balanced_accuracy() == pytest.approx(metrics.balanced_accuracy_score(kept.targets, guess))
    assert mixed.misclassified == (guess != kept.targets).sum()
    assert mixed.top_k_accuracy(2) == pytest.approx(metrics.top_k_accuracy_score(kept.targets, kept.logits, k=2, labels=[0, 1, 2]))
    table = mixed.class_accuracy()
    np.testing.assert_allclose(table.accuracy, metrics.recall_score(kept.targets, guess, average=None))
    np.testing.assert_array_equal(np.diag(mixed.confusion_matrix()), table.accuracy * table.images)


def test_top_losses_file_is_sorted_and_torchs(mixed, tmp_path):
    mixed.write_top_losses(tmp_path / 'top.csv')
    rows = list(csv.DictReader(open(tmp_path / 'top.csv', encoding='utf-8')))
    assert list(rows[0]) == 'index,name,actual,predicted,loss,p_actual,p_predicted'.split(',')
    losses = [float(row['loss']) for row in rows]
    assert losses == sorted(losses, reverse=True) and len(rows) == 21
    logits, targets = torch.tensor(mixed.kept.logits), torch.tensor(mixed.kept.targets)
    expected, shares = nn.CrossEntropyLoss(reduction='none')(logits, targets), torch.softmax(logits, 1)
    for row in rows:
        index = int(row['index'])
        assert float(row['loss']) == pytest.approx(float(expected[index]), rel=1e-5)
        assert (row['actual'], row['predicted']) == (CLASSES[targets[index]], CLASSES[int(logits[index].argmax())])
        assert float(row['p_actual']) == pytest.approx(float(shares[index, targets[index]]), rel=1e-4)
        assert float(row['p_predicted']) == pytest.approx(float(shares[index].max()), rel=1e-4)
        assert row['name'] == mixed.kept.names[index] and row['name'].startswith(f"valid/{row['actual']}/")


@pytest.mark.parametrize('shift', [0, 1])
def test_equals_fastais_own_interpretation(loaders, shift):
    torch.manual_seed(1)
    learner = learner_of(loaders, Counted(shift, noise=0.8))
    with learner.no_bar():
        own, ours = ClassificationInterpretation.from_learner(learner), CifarInterpretation.from_learner(learner)
        np.testing.assert_array_equal(ours.confusion_matrix(), own.confusion_matrix())
        for least in (1, 3): assert ours.most_confused(min_val=least) == own.most_confused(min_val=least)
        for largest in (True, False):
            losses, indices = own.top_losses(5, largest)
            torch.testing.assert_close(torch.Tensor(ours.top_losses(5, largest)[0]), torch.Tensor(losses), rtol=1e-5, atol=1e-6)
            assert ours.top_losses(5, largest)[1].tolist() == indices.tolist()
        assert list(ours.top_losses(3, items=True)[2]) == list(own.top_losses(3, items=True)[2])
        for mine, theirs in zip(ours[[4, 0, 9]], own[[4, 0, 9]]):
            torch.testing.assert_close(torch.Tensor(mine), torch.Tensor(theirs), rtol=1e-4, atol=1e-5)
    assert list(ours.vocab) == list(own.vocab)


def test_normalised_matrix_shows_shares_of_each_row(mixed):
    figure = mixed.plot_confusion_matrix(normalize=True, title='Shares', norm_dec=3, figsize=(5, 5), dpi=70)
    assert pyplot.gcf() is figure and tuple(figure.get_size_inches()) == (5, 5)
    expected = metrics.confusion_matrix(mixed.kept.targets, mixed.kept.predicted, normalize='true')
    for text in figure.axes[0].texts:
        column, row = (int(place) for place in text.get_position())
        assert text.get_text() == f'{expected[row, column]:.3f}'
    pyplot.close(figure)


def test_calibration_error_by_its_definition():
    draw = np.random.default_rng(0)
    kept = kept_of(draw.normal(0, 2, (500, 4)), draw.integers(0, 4, 500))
    shares = torch.softmax(torch.tensor(kept.logits, dtype=torch.float64), 1).numpy()
    expected = 0.
    for low in np.arange(15) / 15:
        inside = (shares.max(1) > low) & (shares.max(1) <= low + 1 / 15)
        if inside.any(): expected += inside.mean() * abs((shares.argmax(1) == kept.targets)[inside].mean() - shares.max(1)[inside].mean())
    assert expected_calibration_error(kept) == pytest.approx(expected, abs=1e-9)
    assert calibration_bins(kept).images.sum() == 500


# Galleries

def test_titles_tell_actual_from_predicted(wrong, folder):
    following = dict(blue='green', green='red', red='blue')
    figure = wrong.plot_misclassified(10)
    titles = titles_of(figure)
    assert len(titles) == 10
    shares = torch.softmax(torch.tensor(wrong.kept.logits), 1)
    for title in titles:
        arrow, p_predicted, p_actual, index = title.split('\n')
        index = int(index.removeprefix('index '))
        actual = wrong.learn.dls.valid.items[index].parent.name
        assert arrow == f'{actual} → {following[actual]}'
        predicted = CLASSES.index(following[actual])
        assert p_predicted == f'p(predicted) {float(shares[index, predicted]):.1%}'
        assert p_actual == f'p(actual) {float(shares[index, CLASSES.index(actual)]):.1%}'
    assert 'blue → green' in figure.describe()


def test_pictures_are_those_of_the_files_in_true_colours(wrong):
    indices = [20, 3, 11]
    files = np.stack([np.asarray(Image.open(wrong.dl.items[index])) for index in indices])
    np.testing.assert_array_equal(wrong.images(indices), files)


def test_one_cell_of_the_matrix(mixed):
    matrix = mixed.confusion_matrix()
    for actual, predicted in ((0, 1), (2, 1), (1, 0)):
        found = choose_images(mixed.kept, actual=CLASSES[actual], predicted=predicted)
        assert len(found) == matrix[actual, predicted]
        assert (mixed.kept.targets[found] == actual).all() and (mixed.kept.predicted[found] == predicted).all()


def test_orders(mixed):
    kept = mixed.kept
    for sort, key in (('loss', -kept.losses), ('confidence', -kept.confidence)):
        assert (np.diff(key[choose_images(kept, 'all', sort)]) >= 0).all()
    two = np.sort(kept.probabilities, 1)
    assert (np.diff((two[:, -1] - two[:, -2])[choose_images(kept, 'all', 'least sure')]) >= 0).all()
    assert choose_images(kept, 'all', 'random').tolist() == choose_images(kept, 'all', 'random').tolist() != choose_images(kept, 'all', 'random', seed=1).tolist()
    assert sorted([*choose_images(kept, 'correct'), *choose_images(kept)]) == list(range(21))


def test_pages_follow_each_other(wrong, capsys):
    first, second = (titles_of(wrong.plot_misclassified(12, start=start)) for start in (0, 12))
    assert len(first) == 12 and len(second) == 9 and not set(first) & set(second)
    assert 'There are 21 misclassified images: showing 9, from 12' in capsys.readouterr().out
    assert wrong.plot_misclassified(5, start=21) is None and 'none is left' in capsys.readouterr().out


def test_top_losses_gallery_is_pyplots_current_figure(wrong):
    figure = wrong.plot_top_losses(6, nrows=2, figsize=(9, 9))
    assert pyplot.gcf() is figure and len(titles_of(figure)) == 6
    worst = wrong.top_losses(1)[1].item()
    assert titles_of(figure)[0].endswith(f'index {worst}')
    pyplot.close(figure)


def test_gradcam_gallery_says_what_it_shows(wrong):
    figure = wrong.plot_gradcam(2, layers='layer')
    titles = titles_of(figure)
    actual, predicted = titles[0].split('\n')[0].split(' → ')
    assert titles[1:3] == [f'for predicted: {predicted}', f'for actual: {actual}'] and len(titles) == 6
    assert '16×16' in figure.texts[0].get_text() and 'layer' in figure.texts[0].get_text()
    grid = wrong.plot_gradcam(1, methods=['gradcam', 'eigencam'], target=['predicted', 'contrast'])
    assert len(titles_of(grid)) == 4 and any('no class' in title for title in titles_of(grid))
    assert any(' minus ' in title for title in titles_of(grid))


@pytest.fixture(scope='module')
def corners(tmp_path_factory):
    "Pictures with a patch in each corner; the class is one corner, and the network takes another, the brightest, for it"
    path, places = tmp_path_factory.mktemp('corners'), dict(zip('abcd', CORNERS.values()))
    for part, (actual, brightest) in product(('train', 'valid'), permutations(places, 2)):
        pixels = np.zeros((16, 16, 3), np.uint8)
        for name, (down, right) in places.items():
            rows, columns = (slice(2, 5) if not side else slice(11, 14) for side in (down, right))
            pixels[rows, columns] = 250 if name == brightest else 160 if name == actual else 60
        (path / part / actual).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / part / actual / f'{brightest}.png')
    loaders = ImageDataLoaders.from_folder(path, valid='valid', bs=5, num_workers=0, device='cpu')
    return CifarInterpretation.from_learner(learner_of(loaders, CornerWatcher(16, 16))), places


def shown(figure): return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.texts]


@pytest.mark.parametrize('sort', ['loss', 'confidence'])
def test_heat_lies_over_its_own_picture_for_the_class_that_is_named(corners, sort):
    found, places = corners
    figure = found.plot_gradcam(12, layers='watched', sort=sort)
    titles, pictures, seen = titles_of(figure), shown(figure), set()
    assert len(pictures) == len(titles) == 36
    for row in range(0, 36, 3):
        index = int(titles[row].split('index ')[1])
        file = found.dl.items[index]
        assert titles[row].startswith(f'{file.parent.name} → {file.stem}\n')
        np.testing.assert_array_equal(pictures[row], np.asarray(Image.open(file)))
        for column, words, name in ((1, 'for predicted', file.stem), (2, 'for actual', file.parent.name)):
            assert titles[row + column] == f'{words}: {name}'
            red, green, blue = np.moveaxis(pictures[row + column].astype(int), -1, 0)
            assert corner_of(red + green - blue) == places[name]
        seen.add(index)
    assert seen == set(range(12))


@pytest.mark.parametrize('draw', [lambda found: found.plot_misclassified(12, sort='confidence'), lambda found: found.plot_top_losses(12)])
def test_a_gallery_s_pictures_are_those_of_its_titles(corners, draw):
    found, _ = corners
    figure = draw(found)
    indices = [int(title.split('index ')[1]) for title in titles_of(figure)]
    assert indices != sorted(indices) and len(shown(figure)) == len(indices)
    for index, picture in zip(indices, shown(figure)):
        np.testing.assert_array_equal(picture, np.asarray(Image.open(found.dl.items[index])))
    pyplot.close('all')


def test_a_dead_map_is_said_to_be_dead(loaders):
    class Blind(Counted):
        def forward(self, images): return super().forward(images) * 0 + torch.tensor([0., 1., 0.])
    figure = CifarInterpretation.from_learner(learner_of(loaders, Blind())).plot_gradcam(1, layers='layer')
    assert 'no positive evidence' in titles_of(figure)[1]


# Bad input

@pytest.mark.parametrize('call, words', [
    (lambda found: found.plot_misclassified(actual='blu'), "did you mean 'blue'"),
    (lambda found: found.plot_misclassified(predicted=3), 'no class 3'),
    (lambda found: found.plot_misclassified(-1), 'There are|there are 21'),
    (lambda found: found.plot_misclassified(2.5), 'n is 2.5'),
    (lambda found: found.plot_misclassified(sort='size'), 'loss, confidence, least sure, random'),
    (lambda found: found.plot_gallery(kind='rong'), 'misclassified, correct, all'),
    (lambda found: found.plot_gradcam(methods='grad'), "did you mean 'gradcam'"),
    (lambda found: found.plot_gradcam(layers='stage9'), 'stage9'),
    (lambda found: found.plot_gradcam(target='purple'), 'purple'),
    (lambda found: found.top_k_accuracy(0), 'k is 1 or more')])
def test_refusals_name_the_value_and_the_way_out(wrong, call, words):
    with pytest.raises(BadInput, match=words) as refused: call(wrong)
    assert len(str(refused.value).splitlines()) <= 5


def test_zero_or_too_many_shows_what_there_is(wrong, capsys):
    for count in (0, 500):
        assert len(titles_of(wrong.plot_misclassified(count))) == 21
        assert 'There are 21 misclassified images: showing 21' in capsys.readouterr().out
    assert len(wrong.top_losses(500)[0]) == 21


def test_a_perfect_model_has_no_empty_page(loaders, tmp_path, capsys):
    found = CifarInterpretation.from_learner(learner_of(loaders, Counted(shift=0)))
    assert found.accuracy == 1
    assert found.plot_misclassified() is None and found.plot_gradcam() is None
    assert capsys.readouterr().out.count('There are no misclassified images among 21 images') == 2
    (tmp_path / 'figures').mkdir()
    (tmp_path / 'figures' / 'misclassified.png').write_bytes(b'of an earlier run')
    interpretation_files(found, tmp_path)
    assert sorted(file.name for file in (tmp_path / 'figures').iterdir()) == ['confusion_matrix.png', 'per_class.png', 'reliability.png']


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_logits_that_are_no_numbers_are_refused(loaders, bad):
    model = Counted()
    with torch.no_grad(): model.layer.weight[0] = bad
    with pytest.raises(BadInput, match='not finite.* 21 of 21 images'): CifarInterpretation.from_learner(learner_of(loaders, model))


def test_an_interpretation_of_other_weights_draws_no_heatmap(wrong):
    with torch.no_grad(): wrong.learn.model.layer.weight.mul_(-1)
    with pytest.raises(BadInput, match='other weights'): wrong.plot_gradcam(2)


def test_two_classes_and_a_hundred():
    draw = np.random.default_rng(0)
    two = of_arrays(kept_of(draw.normal(size=(30, 2)), draw.integers(0, 2, 30), ('no', 'yes')))
    assert two.top_k_accuracy(5) == 1 and two.top_k_accuracy(1) == two.accuracy and metric_additions(two)['top5_accuracy'] == 1
    hundred = kept_of(draw.normal(size=(900, 100)), draw.integers(0, 99, 900))  # the last class has no images
    found = metric_additions(of_arrays(hundred))
    assert found['class_accuracy']['class 99'] is None and json.dumps(found, allow_nan=False)
    assert found['top5_accuracy'] == pytest.approx(metrics.top_k_accuracy_score(hundred.targets, hundred.logits, k=5, labels=range(100)))
    assert top_k_accuracy(hundred, 3) <= found['top5_accuracy']
    assert len(report_text(hundred).splitlines()) == 106


def test_grey_images(folder):
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_items=get_image_files, get_y=parent_label, splitter=GrandparentSplitter())
    loaders = block.dataloaders(folder, path=folder, bs=8, num_workers=0, device='cpu')
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    found = CifarInterpretation.from_learner(learner_of(loaders, model))
    shown = found.images([5])
    np.testing.assert_array_equal(shown[0, ..., 0], np.asarray(Image.open(loaders.valid.items[5]).convert('L')))
    assert (shown[..., 0] == shown[..., 2]).all()
    assert found.plot_gradcam(2, kind='all') is not None


# Any fastai Learner

def pairs_of(images, classes):
    from torch.utils.data import TensorDataset
    return TensorDataset(images, classes)


def torch_loader(data, names=None):
    from torch.utils.data import DataLoader
    if names: data.classes = names
    return DataLoader(data, 4)


def answers(*parts): return lambda images: {name: torch.ones(len(images), width) for name, width in parts} if isinstance(parts[0], tuple) else tuple(torch.ones(len(images), width) for width in parts)


class Says(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images): return self.answer(images)


IMAGES, NUMBERS = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize('given, said', [
    (dict(learner=nn.Linear(1, 1)), 'a Linear is no fastai Learner'), (dict(ds_idx=7), '2 loaders, counted from 0, and none of number 7'),
    (dict(dl=pairs_of(IMAGES, NUMBERS + 1)), '1 of 4 images have a class that the network has no output for, such as 3'), (dict(dl=pairs_of(IMAGES, NUMBERS*-100)), '3 of 4 images .* such as -100'),
    (dict(dl=(IMAGES, NUMBERS)), 'an item of the tuple is a Tensor'), (dict(dl=[(Image.new('RGB', (8, 8)), 0)]), 'a tuple of Image, int'), (dict(dl=[{'image': IMAGES[0], 'label': 0}]), 'is a dict'),
    (dict(dl=torch_loader([{'image': image, 'label': 0} for image in IMAGES])), 'the loader gives a dict an image'), (dict(dl=torch_loader(pairs_of(IMAGES, NUMBERS), ('blue', 'red', 'green'))), 'classes are blue, red, green, those of the Learner blue, green, red'),
    (dict(model=Says(answers(1)), names=None), 'one output an image'), (dict(model=Says(answers(5, 3))), '2 rows of numbers an image, of 5, 3'), (dict(model=Says(answers(('features', 3), ('said', 3)))), "by the name 'logits'")])
def test_what_is_no_classifier_of_these_classes_is_refused(loaders, given, said):
    learner = given.pop('learner', None) or learner_of(torch_loaders() if 'names' in given else loaders, given.pop('model', None) or Counted())
    given.pop('names', None)
    with pytest.raises(BadInput, match=said): CifarInterpretation.from_learner(learner, **given)


def torch_loaders():
    from fastai.data.core import DataLoaders
    return DataLoaders(*[torch_loader(pairs_of(IMAGES, NUMBERS))]*2)


def test_classes_that_are_numbers(loaders):
    found = CifarInterpretation.from_learner(learner_of(torch_loaders(), nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())))
    assert found.kept.classes == (0, 1, 2) and 'for predicted: ' in ' '.join(titles_of(found.plot_gradcam(2, kind='all')))
    assert CifarInterpretation.from_learner(learner_of(loaders, Says(answers(('features', 7), ('logits', 3))))).kept.logits.shape == (21, 3)


def test_a_vision_learner_over_photos_of_224(tmp_path):
    write_images(tmp_path / 'train', 2, side=240)
    write_images(tmp_path / 'valid', 1, side=240)
    loaders = ImageDataLoaders.from_folder(tmp_path, valid='valid', bs=3, item_tfms=Resize(224), num_workers=0, device='cpu')
    learner = vision_learner(loaders, resnet18, pretrained=False, normalize=False)
    loaders.add_tfms([Normalize.from_stats(*imagenet_stats, cuda=False)], 'after_batch')
    with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(1, 1e-3)
    found = CifarInterpretation.from_learner(learner)
    assert found.images([0, 2]).shape == (2, 224, 224, 3)
    assert found.kept.names.tolist() == [f'valid/{item.parent.name}/0.png' for item in loaders.valid.items]
    for index, item in enumerate(loaders.valid.items):
        assert np.abs(found.images([index]).mean((0, 1, 2)) - np.asarray(Image.open(item)).mean((0, 1))).max() < 2
    figure = found.plot_gradcam(1, kind='all', target='predicted', layers='all')
    assert [title.split('\n')[0].split()[-1] for title in titles_of(figure)[1:]] == ['56×56', '28×28', '14×14', '7×7']
    interpretation_files(found, tmp_path / 'out', n=2)
    assert {file.name for file in (tmp_path / 'out').iterdir()} == {'figures', 'top_losses.csv', 'classification_report.txt'}


# A run folder

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run on a folder of images, its files written as a training leaves them"
    from cifar_fastai.data.loaders import cifar_dataloaders
    from cifar_fastai.recipes.recipe import Recipe
    from cifar_fastai.runs.folder import about_run
    from cifar_fastai.base.files import write_json
    from cifar_fastai.runs.files import Predictions, arrays_fingerprint, weights_fingerprint, write_predictions, write_weights
    from cifar_fastai.training.learner import cifar_learner
    path = tmp_path_factory.mktemp('run')
    write_images(path / 'images' / 'train', 3, side=16)
    write_images(path / 'images' / 'test', 8, side=16, seed=5)
    recipe = Recipe(data=str(path / 'images'), arch='resnet20', width=4, batch_size=4, device='cpu', precision='fp32')
    loaders = cifar_dataloaders(recipe)
    learner = cifar_learner(loaders, recipe)
    found = CifarInterpretation.from_learner(learner)
    write_json(path / 'recipe.json', about_run(learner))
    predictions = Predictions(found.kept.logits, found.kept.targets, found.kept.losses, found.kept.names)
    write_weights(path / 'model.safetensors', learner.model, {})
    write_predictions(path / 'predictions.npz', predictions)
    write_json(path / 'metrics.json', {'schema': 1, 'status': 'complete', 'test_accuracy': found.accuracy, 'fingerprints': {
        'weights': weights_fingerprint(learner.model), 'predictions': arrays_fingerprint(vars(predictions))}})
    return path


def test_a_run_needs_neither_network_nor_images_for_its_tables(run, monkeypatch):
    def never(*args, **kwargs): raise AssertionError('loaded')
    monkeypatch.setattr(interpreted, 'load_run', never)
    monkeypatch.setattr(interpreted, 'run_loaders', never)
    found = load_interpretation(run)
    arrays = np.load(run / 'predictions.npz', allow_pickle=False)
    assert found.classification_report() == metrics.classification_report(
        arrays['target'], arrays['logits'].argmax(1), target_names=sorted(COLOURS), zero_division=0)
    found.confusion_matrix(), found.top_losses(3), found.plot_confusion_matrix(), found.plot_reliability(), metric_additions(found)
    pyplot.close('all')


def test_our_own_loaders_give_training_images_as_they_are(run):
    from cifar_fastai.runs.files import load_run
    learner = load_run(run)
    found, data = CifarInterpretation.from_learner(learner, ds_idx=0), learner.dls.data
    positions = learner.dls.positions['train']
    np.testing.assert_array_equal(found.images(range(len(positions))), data.images[positions])
    assert found.kept.names.tolist() == data.names[positions].tolist() and found.kept.targets.tolist() == data.labels[positions].tolist()


def test_a_runs_galleries_load_its_images_but_not_its_network(run, monkeypatch):
    def never(*args, **kwargs): raise AssertionError('loaded')
    monkeypatch.setattr(interpreted, 'load_run', never)
    found = load_interpretation(run)
    file = run / 'images' / found.kept.names[9].split('images/')[-1]
    np.testing.assert_array_equal(found.images([9])[0], np.asarray(Image.open(file)))


def test_the_command_makes_all_of_it_again(run, tmp_path, capsys):
    assert run_command(main, [str(run), '--n', '3', '--method', 'gradcam', '--layer', 'all', '--checks', 'none', '--out', str(tmp_path)]) == 0
    assert 'precision' in capsys.readouterr().out
    assert {file.name for file in (tmp_path / 'figures').iterdir()} >= {'confusion_matrix.png', 'misclassified.png', 'gradcam.png', 'per_class.png', 'reliability.png'}
    arrays = np.load(run / 'predictions.npz', allow_pickle=False)
    report = (tmp_path / 'classification_report.txt').read_text(encoding='utf-8')
    assert report == metrics.classification_report(arrays['target'], arrays['logits'].argmax(1), target_names=sorted(COLOURS), zero_division=0)
    assert 'ece' not in json.loads((run / 'metrics.json').read_text())
    table = pd.read_csv(tmp_path / 'top_losses.csv')
    assert table.loss.is_monotonic_decreasing and len(table) == 24


def test_the_command_completes_the_runs_own_metrics(run):
    assert run_command(main, [str(run), '--n', '1', '--target', 'predicted']) == 0
    found = json.loads((run / 'metrics.json').read_text())
    assert found['status'] == 'complete' and {'misclassified', 'top5_accuracy', 'ece', 'class_accuracy'} <= set(found)
    assert (run / 'heatmap_checks.json').is_file()


def test_a_run_without_predictions_or_with_others_is_refused(run, tmp_path, capsys):
    import shutil
    other = tmp_path / 'other'
    shutil.copytree(run, other)
    arrays = dict(np.load(other / 'predictions.npz', allow_pickle=False))
    np.savez(other / 'predictions.npz', **{**arrays, 'logits': np.eye(3, dtype=np.float32)[arrays['target']]})
    assert run_command(main, [str(other)]) == 1
    assert 'not those that the run wrote' in capsys.readouterr().err
    (other / 'predictions.npz').unlink()
    assert run_command(main, [str(other)]) == 1
    assert 'no predictions.npz' in capsys.readouterr().err


def test_help_needs_neither_torch_nor_fastai():
    code = 'import sys, cifar_fastai.interpret as it; it.interpret_parser(); assert not {"torch", "fastai", "matplotlib"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parent.parent)
