"The page of a run or of any Learner, as a file: whole, small, escaped, and there whatever is missing"
import base64
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.data import ImageDataLoaders
from PIL import Image
from torch import nn

from drawn import CLASSES

from cifar_fastai.runs import session
from cifar_fastai.interpretation.predictions import ClassifiedImages
from cifar_fastai.base.commands import run_command
from cifar_fastai.interpretation.interpretation import CifarInterpretation
from cifar_fastai.base.messages import BadInput
from cifar_fastai.report import main
from cifar_fastai.views.report_facts import curve_charts, reliability_chart
from cifar_fastai.views.report_images import heated_images, sample_grids
from cifar_fastai.views.report_page import LIMIT, write_report, write_run_report
from cifar_fastai.base.files import faults
from cifar_fastai.train import main as train_main, train


@pytest.fixture(scope='module')
def run(tiny_folder, tiny_recipe, tmp_path_factory):
    return train(dataclasses.replace(tiny_recipe, data=str(tiny_folder), epochs=3, lr=1e-4), tmp_path_factory.mktemp('runs'), 'small') # so little that some are wrong


@pytest.fixture
def copy(run, tmp_path):
    "The run's folder to take things from, without the manifest that would notice"
    folder = shutil.copytree(run.path, tmp_path/'copy')
    (folder/'manifest.json').unlink(missing_ok=True)
    return folder


class Page(HTMLParser):
    "Words, elements and the data of a page, by Python's own parser"
    def __init__(self, path):
        super().__init__()
        self.words, self.tags, self.data, self.inside = [], [], {}, None
        self.feed(path.read_text(encoding='utf-8'))
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = dict(attributes).get('id') or tag if tag in ('script', 'style') else None

    def handle_endtag(self, tag): self.inside = None
    def handle_data(self, text):
        if self.inside: self.data[self.inside] = self.data.get(self.inside, '') + text
        else: self.words.append(text)

    @property
    def explorer(self): return json.loads(self.data['explorer-data'])


def array(packed): return np.frombuffer(base64.b64decode(packed['bytes']), packed['kind']).reshape(packed['shape'])


def of_arrays(kept, images, run):
    "An interpretation over arrays, its samples those of a run, without a network to explain"
    found = CifarInterpretation(kept, lambda: run.learner, lambda: run.interpretation.dl)
    def none(indices): raise BadInput('there is no network')
    found.images, found.inputs = lambda indices, inputs=None: images[np.asarray(indices) % len(images)], none
    return found


# What a run leaves

def test_a_run_ends_with_its_page(run):
    page = Page(run.path/'report.html')
    assert run.metrics['status'] == 'complete'
    right = round(run.metrics['test_accuracy']*15)
    assert f'{right} of 15 images of the test set are right;' in page.text and f"{run.metrics['test_accuracy']:.2%}" in page.text
    assert 'python -m cifar_fastai.train --data' in page.text and f'--seed {run.recipe.seed}' in page.text and 'on a CPU to the last bit' in page.text and '6,573,130' not in page.text and 'Test images' in page.text
    assert {'h1', 'dialog', 'svg', 'table'} <= {tag for tag, _ in page.tags}


def test_its_rows_are_the_predictions(run):
    data = Page(run.path/'report.html').explorer
    with np.load(run.path/'predictions.npz') as said: logits, target, loss, name = (said[key] for key in ('logits', 'target', 'loss', 'name'))
    index = array(data['rows']['index'])
    assert sorted(index) == list(range(15)) and [str(name[i]) for i in index] == data['names']
    np.testing.assert_array_equal(array(data['rows']['actual']), target[index])
    np.testing.assert_array_equal(array(data['rows']['predicted']), logits.argmax(1)[index])
    np.testing.assert_allclose(array(data['rows']['loss']), loss[index], rtol=1e-5)
    np.testing.assert_allclose(array(data['rows']['shares'])/65535, torch.softmax(torch.tensor(logits[index]), 1), atol=1e-5)
    wrong = (logits.argmax(1) != target)[index]
    assert 0 < wrong.sum() < 15
    assert (np.diff(wrong.astype(int)) <= 0).all()
    for part in (loss[index][wrong], loss[index][~wrong]): assert (np.diff(part) <= 0).all()


def test_its_pictures_are_the_images(run, tiny_folder):
    page = Page(run.path/'report.html')
    for group in page.explorer['pictures']:
        for place, name in enumerate(page.explorer['names'][group['first']:group['first']+group['count']]):
            sheet, place = divmod(place, group['per_sheet'])
            file = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.data[group['sheets'][sheet]]))))
            top, left = place//group['columns']*group['cell_height'], place % group['columns']*group['cell_width']
            np.testing.assert_array_equal(file[top:top+16, left:left+16], np.asarray(Image.open(tiny_folder/name)))


def test_every_error_has_its_heatmaps(run):
    "Against the package's own maps, which are stretched to the picture"
    data, interpretation = Page(run.path/'report.html').explorer, run.interpretation
    rows = data['heat']['of']
    indices = array(data['rows']['index'])[rows]
    assert set(np.flatnonzero(~interpretation.kept.right)) <= set(indices) and data['heat']['errors'] == interpretation.misclassified
    assert list(interpretation.kept.losses[indices]) == sorted(interpretation.kept.losses, reverse=True)
    for target in ('predicted', 'actual'):
        maps = interpretation.heatmaps(indices, target)
        small = torch.from_numpy(array(data['heat'][target]).astype(np.float32))
        assert list(small.shape[1:]) == data['heat']['size'] and small.shape[1] < 16
        large = nn.functional.interpolate(small[:, None], size=(16, 16), mode='bilinear')[:, 0].numpy()
        def whole(each): return (each - each.min())/max(np.ptp(each), 1e-9)
        for found, wanted in zip(large, maps): np.testing.assert_allclose(whole(found), whole(wanted), atol=0.02)


def test_where_there_is_no_room_the_top_of_each_pair_has_heatmaps():
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 3, 400)
    kept = ClassifiedImages((draw.normal(0, 1, (400, 3)) + np.eye(3)[targets]).astype(np.float32), targets, np.arange(400).astype(str), tuple('abc'))
    wrong = np.flatnonzero(~kept.right)
    pairs = sorted({(int(t), int(p)) for t, p in zip(kept.targets[wrong], kept.predicted[wrong])})
    top = [max((i for i in wrong if (kept.targets[i], kept.predicted[i]) == pair), key=lambda i: kept.losses[i]) for pair in pairs]
    assert sorted(heated_images(kept, 6)) == sorted(top) and len(wrong) > 100
    assert sorted(heated_images(kept, 10**6)) == sorted(wrong)


def test_the_first_screen_answers(run):
    page, kept = Page(run.path/'report.html'), run.interpretation.kept
    names, matrix = list(kept.classes), np.zeros((3, 3), int)
    np.add.at(matrix, (kept.targets, kept.predicted), 1)
    off = matrix*(1 - np.eye(3, dtype=int))
    row, column = np.unravel_index(off.argmax(), off.shape)
    first = page.text[:page.text.index('Confusion matrix')]
    assert f'{names[row]} taken for {names[column]} : {off.max()} of {matrix[row].sum()}' in first and 'guessing gives 33.3%' in first
    def worst(chosen): return [str(index) for index in np.flatnonzero(chosen)[kept.losses[chosen].argsort()[::-1][:3]]]
    of_pair = (kept.targets == row) & (kept.predicted == column)
    shown = [attributes['data-image'] for tag, attributes in page.tags if tag == 'button' and 'data-image' in attributes]
    assert shown == worst(of_pair) + worst(~kept.right) and len(worst(of_pair)) > 1
    assert first.index('most frequent error') < first.index(f'{names[row]} taken for {names[column]} : typical images, and where the network looked see all {off.max()}') < first.index('The largest losses of all classes')
    assert page.text.index('Errors') < page.text.index('Confusion matrix') < page.text.index('Calibration and heatmaps Accuracy') < page.text.index('How it was run To reproduce')
    assert 'The maps that are judged' in page.text and any(tag == 'img' and attributes.get('alt', '').startswith('gradcam over') for tag, attributes in page.tags)


def alike(places):
    "Errors between two classes: maps of 2×2 for the predicted and for the actual class, which share a part of their heat"
    return {place: (np.array([[shared, 1 - shared], [0, 0]]), np.array([[shared, 0], [0, 1 - shared]])) for place, shared in places.items()}


@pytest.mark.parametrize('others, says', [
    (0.2, 'On 4 such images, 80% of the evidence for bee lies on the same places as that for ant; in other errors it is 20%: the network looks at the same parts for both'),
    (0.95, 'as that for ant; in other errors it is 95%: the network looks at other parts for each'),
    (0.81, 'in other errors it is 81%: much as elsewhere, so the heat does not tell why'), (None, '80% of the evidence for bee lies on the same places as that for ant')])
def test_why_two_classes_are_mixed_up_is_set_beside_the_other_errors(others, says):
    from cifar_fastai.interpretation.predictions import ClassifiedImages
    from cifar_fastai.views.report_images import pair_sentence
    targets, predicted = np.array([0]*4 + [1]*4 + [2]), np.array([1]*4 + [2]*4 + [2])
    kept = ClassifiedImages(np.eye(3, dtype=np.float32)[predicted], targets, np.arange(9).astype(str), ('ant', 'bee', 'cat'))
    maps = alike({place: 0.8 if place < 4 else others for place in range(8) if place < 4 or others is not None})
    assert pair_sentence(kept, {'maps': maps}, 0, 1).endswith(says)
    assert pair_sentence(kept, {'maps': alike({0: 0.8, 4: 0.2})}, 0, 1) == '' == pair_sentence(kept, None, 0, 1)


def test_the_typical_errors_of_a_pair_are_those_whose_heat_is_like_the_mean(monkeypatch, run):
    from cifar_fastai.views import report_images
    monkeypatch.setattr(report_images, 'shown_error', lambda interpretation, heat, index: index)
    shared, losses = [0.1, 0.5, 0.9, 0.52, 0.45, 0.3], np.arange(6)/6 + 1
    kept = ClassifiedImages(np.stack([losses, losses*0, losses*0 - 9], 1).astype(np.float32), np.array([1]*6), np.arange(6).astype(str), ('ant', 'bee', 'cat'))
    of = of_arrays(kept, np.zeros((6, 8, 8, 3), np.uint8), run)
    heat = {'maps': alike(dict(enumerate(shared)))}  # their mean is 0.46
    assert report_images.worst_errors(of, heat, (1, 0)) == [4, 1, 3] and report_images.worst_errors(of, heat) == report_images.worst_errors(of, None, (1, 0)) == [5, 4, 3]
    assert report_images.worst_errors(of, heat, (1, 2)) == []


def test_the_pair_of_both_ways_is_named_where_it_is_another(run):
    from cifar_fastai.views.report_page import answer_values
    def both(*counts):
        places = [place for place, count in zip([(0, 1), (1, 0), (1, 2), (2, 1), (2, 2)], counts) for _ in range(count)]
        targets, predicted = np.array(places).T
        kept = ClassifiedImages(5*np.eye(3, dtype=np.float32)[predicted], targets, np.arange(len(places)).astype(str), ('ant', 'bee', 'cat'))
        return answer_values(of_arrays(kept, np.zeros((1, 8, 8, 3), np.uint8), run), None)['pair']
    assert both(5, 0, 4, 3, 9)['both'] == dict(names=['bee', 'cat'], places=[1, 2], counts=[4, 3], why='') and both(5, 0, 4, 0, 9)['both'] is None


def test_a_default_says_what_it_means_and_the_last_epoch_why_it_differs():
    from cifar_fastai.recipes.recipe import recipe_fields
    from cifar_fastai.views.report_facts import default_text
    from cifar_fastai.views.report_page import last_note
    fields = {field.name: field for field in recipe_fields()}
    assert [default_text(fields[name]) for name in ('limit', 'width', 'epochs', 'freeze', 'labels')] == ['0: all', "auto: the network's own", '25', '0: they never do', '']
    record = SimpleNamespace(metrics=dict(valid_is='test', selected='last', test_images=2000, test_accuracy=0.999), history=pd.DataFrame(dict(valid_accuracy=[0.5, 0.9985])), about=dict(resolved=dict(precision='bf16')))
    assert last_note(record) == 'The last epoch counts 1,997 right, the result 1,998: the one computes in bf16, the other in fp32.'
    record.metrics['test_accuracy'] = 0.9985
    assert last_note(record) == ''


def test_an_option_stays_on_one_line_with_its_value():
    from cifar_fastai.views.pages import whole_options
    assert re.findall('<span class="option">(.*?)</span>', whole_options('<b> (--limit 5000), --lr 0.5. Or --data PATH, or --holdout')) == ['--limit 5000', '--lr 0.5', '--data PATH', '--holdout']
    assert whole_options('<b>--a&').startswith('&lt;b&gt;<span') and whole_options('a--b c') == 'a--b c'


@pytest.mark.parametrize('road, sanity, says', [
    ('better than random', 'follows the weights', 'Yes, as far as was checked'), ('no better than random', 'follows the weights', 'Only in part'),
    ('no better than random: worse', 'hardly follows the weights', 'No'), ('no better than random', 'dead once the weights are drawn anew', 'No')])
def test_trust_in_the_heatmaps_begins_with_the_answer(road, sanity, says):
    from cifar_fastai.views.report_page import trust_sentence
    said = trust_sentence(dict(faithfulness=[dict(map='gradcam', verdict=road), dict(map='random')], pointing=None, sanity=[dict(map='layercam', verdict='x'), dict(map='gradcam', verdict=sanity)]))
    assert said == f'{says}. What the checks say of Grad-CAM: {road} (faithfulness); {sanity} (sanity).' and trust_sentence({}) == ''


def test_the_maps_that_are_judged_are_of_several_classes(run):
    from cifar_fastai.views.report_images import judged_maps
    targets = np.repeat([0, 1, 2], 10)  # in the order of the classes, as a folder is read
    kept = ClassifiedImages(5*np.eye(3, dtype=np.float32)[(targets + 1) % 3], targets, np.arange(30).astype(str), ('ant', 'bee', 'cat'))
    over = of_arrays(kept, np.zeros((1, 8, 8, 3), np.uint8), run)
    over.heatmaps = lambda indices, *about: np.zeros((len(indices), 8, 8), np.float32)
    found = judged_maps(over, dict(images=20, seed=0, faithfulness=[dict(map='gradcam', verdict='better than random')]))
    assert [image['words'] for image in found['images']][:3] == ['ant taken for bee', 'bee taken for cat', 'cat taken for ant'] and len(found['images']) == 4


def test_what_was_read_has_a_row_a_class_and_says_what_was_used():
    from cifar_fastai.views.reading import reading_values
    def row(split, name, images, **found): return {'split': split, 'class': name, 'files': 9, 'images': images, 'left_out': {}, 'found': found}
    read = dict(rows=[row('train', 'ant', 9), row('train', 'bee', 8, grey=2), row('test', 'ant', 7)], how=['as it is'], left_out={}, copies={})
    found = reading_values(read, dict(train=10))
    assert found['heads'] == ['class', 'train: files', 'train: images', 'train: grey', 'test: files', 'test: images']
    assert found['rows'] == [['ant', '9', '9', '', '9', '7'], ['bee', '9', '8', '2', '', '']] and found['training'] == 17
    assert found['how'] == ['10 of the 17 training images in this table were trained on', 'as it is'] and reading_values(read, dict(train=17))['how'] == ['as it is']


def drawn_values(chart, line):
    "What the points of a line are worth, read off the frame and its ticks"
    def scale(ticks, places, number):
        (first, low), (second, high) = ((place, number(text)) for place, text in (ticks[0], ticks[-1]))
        return [low + (place - first)/(second - first)*(high - low) for place in places]
    def number(text): return float(text.rstrip('%'))/(100 if text.endswith('%') else 1)
    assert chart['x_ticks'][0][0] < chart['x_ticks'][-1][0] and chart['y_ticks'][0][0] > chart['y_ticks'][-1][0]  # SVG counts rows downwards
    return scale(chart['x_ticks'], line['read']['x'], number), scale(chart['y_ticks'], line['read']['y'], number)


def test_curves_lie_where_the_history_says():
    history = pd.DataFrame(dict(epoch=[1, 2, 3], train_loss=[2.2, 1.4, 0.5], valid_loss=[2.0, 1.6, 0.9], train_accuracy=[0.2, 0.5, 0.95],
                                valid_accuracy=[0.3, 0.45, 0.7], lr=[0.1, 0.3, 0.02]))
    loss, accuracy, rate = curve_charts(history, 'holdout')
    for chart, columns in ((loss, {'training': 'train_loss', 'hold-out': 'valid_loss'}), (rate, {'learning rate': 'lr'}),
                           (accuracy, {'training': 'train_accuracy', 'hold-out': 'valid_accuracy'})):
        assert [line['name'] for line in chart['lines']] == list(columns)
        for line in chart['lines']:
            across, up = drawn_values(chart, line)
            column = history[columns[line['name']]]
            np.testing.assert_allclose(across, history.epoch, atol=0.02)
            np.testing.assert_allclose(up, column, atol=0.01*np.ptp(column) + 0.001)
            said = [float(text.rstrip('%'))/(100 if text.endswith('%') else 1) for text in line['read']['said']]
            np.testing.assert_allclose(said, column, rtol=1e-3)


def test_rates_lie_where_the_steps_say():
    share = np.linspace(0, 1, 160)
    steps = pd.DataFrame(dict(step=np.arange(1, 161), epoch=3*share, lr=0.4*np.sin(3*share) + 0.02, momentum=0.95 - 0.1*np.sin(3*share), loss=2.1 - share))
    history = pd.DataFrame(dict(epoch=[1, 2, 3], train_loss=[2., 1.4, 0.5], lr=[0.1, 0.3, 0.02]))
    loss, rate, momentum = curve_charts(history, 'test', steps)
    for chart, line, column in ((loss, loss['lines'][1], 'loss'), (rate, rate['lines'][0], 'lr'), (momentum, momentum['lines'][0], 'momentum')):
        across, up = drawn_values(chart, line)
        np.testing.assert_allclose(across, steps.epoch*(1 if column == 'loss' else (steps.step - 1)/steps.step), atol=0.02)  # a step's rate is set before it, its loss is known after it
        np.testing.assert_allclose(up, steps[column], atol=0.01*np.ptp(steps[column]) + 0.001)
        assert chart['x_ticks'][0] == (50., '0') and len(chart['grid']) == 3
    assert rate['y_ticks'][0][1].rstrip('0.') == '' and '0.42 at its highest after 1.5 epochs of warm-up' in rate['note'] and rate['note'] in rate['description'] and 'lags behind' in loss['note'] and 'lowest' in momentum['description']
    assert len(curve_charts(history, 'test', steps[:149])[0]['lines']) == 1  # too few steps for a mean over fifty
    long = pd.DataFrame(dict(step=np.arange(1, 1001), epoch=np.linspace(0, 3, 1000), lr=np.linspace(0, 1, 1000), momentum=0.9, loss=1.))
    assert len(curve_charts(history, 'test', long)) == 2 and len(curve_charts(history, 'test', long)[1]['lines'][0]['read']['x']) == 250


def test_a_run_keeps_its_steps(run):
    steps = pd.read_csv(run.path/'steps.csv')
    assert list(steps.columns) == ['step', 'epoch', 'lr', 'momentum', 'loss'] and list(steps.step) == list(range(1, len(steps) + 1)) and steps.epoch.iloc[-1] == 3
    assert steps.lr.iloc[0] < steps.lr.max() > steps.lr.iloc[-1] and set(steps.momentum) == {0.85}
    np.testing.assert_allclose(steps.lr.iloc[-1], pd.read_csv(run.path/'history.csv').lr.iloc[-1], rtol=1e-12)
    page = Page(run.path/'report.html').text
    assert 'at its highest after' in page and 'learning rate at its end seconds with testing' in page


def test_accuracy_lies_over_confidence_with_its_interval():
    bins = pd.DataFrame(dict(images=[0, 3, 5], confidence=[np.nan, 0.4, 0.95], accuracy=[np.nan, 0.3, 0.8], low=[np.nan, 0.1, 0.4], high=[np.nan, 0.7, 0.9]))
    chart = reliability_chart(bins)
    line, = chart['lines']
    for found, wanted in zip(drawn_values(chart, line), ([0.4, 0.95], [0.3, 0.8])): np.testing.assert_allclose(found, wanted, atol=0.005)
    ends = dict(read=dict(x=[x for x, *_ in line['whiskers'] for _ in 'lh'], y=[y for _, *pair in line['whiskers'] for y in pair]))
    np.testing.assert_allclose(drawn_values(chart, ends)[1], [0.1, 0.7, 0.4, 0.9], atol=0.005)
    assert line['read']['said'] == ['30.00% of 3 images (10.0% to 70.0%)', '80.00% of 5 images (40.0% to 90.0%)']


def test_samples_stand_under_their_class(run):
    "The class of these images is the colour that is strongest in them"
    grids = sample_grids(run.learner.dls, run.interpretation.dl, seed=4)
    assert [grid['title'] for grid in grids] == ['Training images', 'The same, augmented', 'Test images']
    for grid in grids:
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture['src'].split(',')[1])))) for picture in grid['pictures']]
        names = [picture['name'] for picture in grid['pictures']]
        assert names == [CLASSES[pixels.mean((0, 1)).argmax()] for pixels in pictures] and len(set(names)) == 3 and len(set(map(bytes, pictures))) > 12


# What is missing

def test_a_page_that_fails_costs_the_run_nothing(tiny_folder, tiny_recipe, tmp_path, monkeypatch, capfd, notices):
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('cifar_fastai.views.report_page.write_run_report', full)
    found = train(dataclasses.replace(tiny_recipe, data=str(tiny_folder), epochs=1), tmp_path)
    assert found.metrics['status'] == 'complete' and not (found.path/'report.html').exists()
    said = notices()
    assert 'No space left' in said and f'cifar_fastai.report {found.path}' in said and f'look at  {found.path}' in capfd.readouterr().out


def test_an_interrupted_run_shows_what_there_is(copy):
    for name in ('predictions.npz', 'model.safetensors', 'heatmap_checks.json'): (copy/name).unlink()
    metrics = json.loads((copy/'metrics.json').read_text())
    (copy/'metrics.json').write_text(json.dumps({**metrics, 'status': 'interrupted', 'epochs': 2, 'test_accuracy': None, 'test_loss': None, 'message': ''}))
    pd.read_csv(copy/'history.csv').iloc[:2].to_csv(copy/'history.csv', index=False)
    page = Page(write_run_report(copy))
    assert 'The run was interrupted' in page.text and 'after 2 of 3 epochs' in page.text and 'has no predictions' in page.text
    assert 'Curves' in page.text and 'Training images' in page.text and 'explorer-data' not in page.data


def test_a_run_stopped_before_its_first_epoch(copy):
    for path in copy.iterdir():
        if path.name not in ('recipe.json', 'metrics.json') and path.is_file(): path.unlink()
    (copy/'metrics.json').write_text('{"schema": 1, "status": "running"}')
    page = Page(write_run_report(copy))
    assert 'still going, or its process died' in page.text and 'How it was run' in page.text


def test_an_old_run_folder(copy):
    about = json.loads((copy/'recipe.json').read_text())
    del about['recipe']['momentum_low'], about['data']['notes']
    about.update(resolved={}, environment={})
    (copy/'recipe.json').write_text(json.dumps(about))
    (copy/'metrics.json').write_text('{"schema": 1, "test_accuracy": 0.5}')
    (copy/'heatmap_checks.json').unlink()
    page = Page(write_run_report(copy))
    assert page.explorer['total'] == 15 and 'were not checked' in page.text


def test_images_and_weights_that_are_gone(copy, tiny_folder, capfd):
    (copy/'model.safetensors').unlink()
    page = Page(write_run_report(copy, path=copy/'no weights.html'))
    assert 'No heatmaps' in page.text and page.explorer['heat'] is None and len(page.explorer['names']) == 15
    about = json.loads((copy/'recipe.json').read_text())
    about['recipe']['data'] = str(tiny_folder)+'_moved'
    (copy/'recipe.json').write_text(json.dumps(about))
    before = (copy/'report.html').read_bytes()
    assert run_command(main, [str(copy)]) == 1 and 'the old one is left as it was' in capfd.readouterr().err and (copy/'report.html').read_bytes() == before
    assert run_command(main, [str(copy), '--out', str(copy/'elsewhere')]) == 0 and 'No pictures' in Page(copy/'elsewhere'/'report.html').text
    page = Page(write_run_report(copy))
    assert 'No pictures' in page.text and 'No samples' in page.text and 'explorer-data' not in page.data and 'Confusion matrix' in page.text
    assert not [attributes for tag, attributes in page.tags if 'data-actual' in attributes]


def test_predictions_of_another_run_are_not_shown(copy):
    with np.load(copy/'predictions.npz') as arrays: held = dict(arrays)
    held['logits'] = np.roll(held['logits'], 1, axis=0)
    np.savez(copy/'predictions.npz', **held)
    page = Page(write_run_report(copy))
    assert 'not those that the run wrote' in page.text and 'explorer-data' not in page.data


# Sizes

def test_a_perfect_model_an_absent_class_and_half_a_character(run, tmp_path):
    targets = np.arange(40) % 2
    logits = 9*np.eye(3, dtype=np.float32)[targets]
    names = np.array([f'<img src=x onerror=alert(1)>\n"{i}" \ud83d' for i in range(40)], dtype=object)
    kept = ClassifiedImages(logits, targets, names, ('</script><script>alert(1)</script>', "it's", 'absent \u2028'))
    page = Page(write_report(of_arrays(kept, np.zeros((40, 8, 8, 3), np.uint8), run), tmp_path/'page.html'))
    assert 'no images' in page.text and 'Most confused' not in page.text and page.explorer['names'][0].endswith('?')
    assert [attributes for tag, attributes in page.tags if tag == 'script' and 'id' not in attributes] == [{}]
    assert '</script><script>alert(1)</script>' in page.text and not [tag for tag, attributes in page.tags if 'onerror' in attributes]
    assert [attributes['value'] for tag, attributes in page.tags if tag == 'option' and 'selected' in attributes] == ['all']


@pytest.mark.parametrize('count, classes, long', [(50_000, 10, 0), (20_000, 100, 0), (10_000, 10, 300)])
def test_however_many_the_page_stays_small_and_says_so(run, tmp_path, count, classes, long):
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (500, 32, 32, 3), dtype=np.uint8)
    targets = np.arange(count) % classes
    logits = (draw.normal(0, 1, (count, classes)) + 6*np.eye(classes)[targets]).astype(np.float32)
    names = np.array([f'{i}'.rjust(long, 'n') for i in range(count)])
    kept = ClassifiedImages(logits, targets, names, tuple(map(str, range(classes))))
    path = write_report(of_arrays(kept, noise, run), tmp_path/'page.html')
    assert 0.5*LIMIT < path.stat().st_size <= LIMIT
    page = Page(path)
    held = len(page.explorer['names'])
    assert f'{held:,} of {count:,} images are in this page' in page.text and 'left out for size' in page.text
    right = logits.argmax(1) == targets
    np.testing.assert_array_equal(array(page.explorer['rows']['index']), np.lexsort((-kept.losses, right))[:held])


# Any Learner, and the command

def test_any_learner(tiny_folder, tmp_path):
    loaders = ImageDataLoaders.from_folder(tiny_folder, valid='test', bs=8, num_workers=0, device='cpu')
    torch.manual_seed(0)
    learner = Learner(loaders, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), CrossEntropyLossFlat())
    with learner.no_bar(), learner.no_logging(): learner.fit(2, 1e-2)
    values = [list(row) for row in learner.recorder.values]
    page = Page(write_report(CifarInterpretation.from_learner(learner), tmp_path/'page.html', 'A title & more'))
    assert 'A title & more' in page.text and 'Sequential' in page.text and 'of 15 images of the validation set are right' in page.text
    assert f'{values[-1][1]:.4g}' in page.text and learner.recorder.values == values and len(page.explorer['names']) == 15


def test_the_command(run, tmp_path, capfd):
    assert run_command(main, [str(run.path), '--out', str(tmp_path/'pages')]) == 0
    assert re.search(r'pages/report.html: 0\.\d MB', capfd.readouterr().out)
    assert Page(tmp_path/'pages'/'report.html').explorer == Page(run.path/'report.html').explorer
    assert run_command(main, [str(run.path)]) == 0 and faults(run.path) == {}
    assert run_command(main, [str(tmp_path)]) == 1 and 'holds no run' in capfd.readouterr().err
    assert run_command(main, []) == 2 and run_command(main, [str(run.path), '--out', str(tmp_path/'page.html')]) == 2


def test_train_opens_its_page(tiny_folder, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr('webbrowser.open', opened.append)
    words = f'--data {tiny_folder} --arch resnet9 --width 4 --epochs 1 --batch-size 24 --precision fp32 --device cpu --out {tmp_path} --name one --open'
    assert run_command(train_main, words.split()) == 0
    assert opened == [(tmp_path/'one'/'report.html').resolve().as_uri()]
