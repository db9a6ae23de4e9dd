"The explorer: what a person's hand on the widgets brings up, against numpy; pictures against the images; hostile names; no widgets"
import base64
import html
import importlib
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import cifar_fastai.explore
from cifar_fastai.views.browsing import Selection, bars_html, find_image, selection_line, mark_choices
from cifar_fastai.interpretation.charts import overlay
from cifar_fastai.interpretation.predictions import ClassifiedImages
from cifar_fastai.data.loaders import image_dataloaders
from cifar_fastai.explore import explore
from cifar_fastai.views.explorer import Explorer
from cifar_fastai.base.figures import Picture
from cifar_fastai.heatmaps.gradcam import heatmaps
from cifar_fastai.data.images import image_data
from cifar_fastai.interpretation.interpretation import CifarInterpretation
from cifar_fastai.interpretation.marks import VERDICTS, read_marks
from cifar_fastai.base.messages import BadInput
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.training.learner import cifar_learner

SCRIPT = '<script>alert(1)</script>'
CLASSES = ('ant', SCRIPT, 'cat "🐈"', 'dog\nwolf')
NAMES = ['a "quoted" name', "it's <b>bold</b>", 'two\nlines 🐕', '$x^2$ & co']
RECIPE = Recipe(arch='resnet9', width=4, batch_size=8, progressive=0, precision='fp32', device='cpu', augment='none')
PER_PAGE = 8


@pytest.fixture(scope='module')
def learner():
    "A small network over 64 training and 60 test images, with names of every kind; half of the test labels are drawn by lot"
    draw = np.random.default_rng(4)
    colours = draw.integers(0, 4, 124)
    images = np.clip(draw.integers(0, 130, (124, 16, 16, 3)) + np.eye(4)[colours][:, None, None, :3]*60, 0, 255).astype(np.uint8)
    labels = np.where(np.arange(124) < 94, colours, draw.integers(0, 4, 124))
    names = [f'{NAMES[number%4]} {number}' for number in range(124)]
    learner = cifar_learner(image_dataloaders(image_data(images, labels, CLASSES, names, 64, name='hostile'), RECIPE), RECIPE)
    with learner.no_bar(), learner.no_logging(): learner.fit(4, 0.01)
    return learner


@pytest.fixture(scope='module')
def interpretation(learner): return CifarInterpretation.from_learner(learner)


@pytest.fixture
def explorer(interpretation, tmp_path): return explore(interpretation, tmp_path/'marks.csv', PER_PAGE)


@pytest.fixture(scope='module')
def truth(learner):
    "What is to be shown, computed here from the network alone"
    data = learner.dls.data
    images = data.images[64:]
    pixels = torch.tensor(images).permute(0, 3, 1, 2)/255
    mean, deviation = (torch.tensor(each)[:, None, None] for each in learner.dls.statistics)
    inputs = (pixels - mean)/deviation
    with torch.no_grad(): logits = learner.model.eval()(inputs).double().numpy()
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    targets = data.labels[64:]
    return dict(images=images, inputs=inputs, targets=targets, shares=shares, predicted=shares.argmax(1), confidence=shares.max(1),
                loss=-np.log(shares[np.arange(60), targets]), names=data.names[64:])


class Seen(HTMLParser):
    "The elements of a page, and its text"
    def __init__(self, text):
        super().__init__()
        self.tags, self.pictures, self.words, self.texts = set(), [], '', []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == 'img': self.pictures.append(dict(attributes))

    def handle_data(self, data): self.words += data


def shown(explorer): return [tile.index for tile in explorer.tiles if tile.widget in explorer.grid.children]
def pixels(picture): return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture['src'].split(',')[1]))))


def expected(truth, keep, order, page=0):
    found = [int(index) for index in order if keep[index]]
    return found[page*PER_PAGE:(page + 1)*PER_PAGE]


# What is shown

def test_first_the_wrong_images_worst_first(explorer, truth):
    wrong = truth['predicted'] != truth['targets']
    assert 20 < wrong.sum() < 60
    assert shown(explorer) == expected(truth, wrong, np.argsort(-truth['loss'], kind='stable'))
    for tile, index in zip(explorer.tiles, shown(explorer)):
        seen = Seen(tile.picture.value)
        np.testing.assert_array_equal(pixels(seen.pictures[0]), truth['images'][index])
        assert f'index {index}' in seen.words and CLASSES[truth['targets'][index]] in seen.words and CLASSES[truth['predicted'][index]] in seen.words
        assert CLASSES[truth['predicted'][index]] in seen.pictures[0]['alt']


FILTERS = {
    'right': (dict(kind='correct'), lambda truth: truth['predicted'] == truth['targets'], 'loss'),
    'all by index': (dict(kind='all', sort='index'), lambda truth: np.ones(60, bool), 'index'),
    'actual': (dict(actual=CLASSES[2]), lambda truth: (truth['predicted'] != truth['targets']) & (truth['targets'] == 2), 'loss'),
    'predicted': (dict(predicted=SCRIPT), lambda truth: (truth['predicted'] != truth['targets']) & (truth['predicted'] == 1), 'loss'),
    'a cell of the matrix': (dict(actual='ant', predicted=SCRIPT), lambda truth: (truth['targets'] == 0) & (truth['predicted'] == 1), 'loss'),
    'confidence': (dict(kind='all', confidence=(0.5, 0.9)), lambda truth: (truth['confidence'] >= .5) & (truth['confidence'] <= .9), 'loss'),
    'loss': (dict(kind='all', loss=(0.5, 2.), sort='confidence'), lambda truth: (truth['loss'] >= .5) & (truth['loss'] <= 2), 'confidence'),
    'least sure': (dict(kind='all', sort='least sure'), lambda truth: np.ones(60, bool), 'least sure'),
    'everything': (dict(kind='all', actual=CLASSES[3], confidence=(0., .97), loss=(0.1, 30.), sort='confidence'),
                   lambda truth: (truth['targets'] == 3) & (truth['confidence'] <= .97) & (truth['loss'] >= .1), 'confidence')}


@pytest.mark.parametrize('name', FILTERS)
def test_a_filter_brings_up_its_images_page_by_page(explorer, truth, name):
    settings, keep, order = FILTERS[name]
    for control, value in settings.items(): explorer.filters[control].value = value
    two = np.sort(truth['shares'], 1)
    keys = dict(loss=-truth['loss'], confidence=-truth['confidence'], index=np.arange(60))
    keys['least sure'] = two[:, -1] - two[:, -2]
    order, keep = np.argsort(keys[order], kind='stable'), keep(truth)
    pages = max(1, -(-int(keep.sum())//PER_PAGE))
    assert explorer.pager['page'].max == pages
    for page in range(pages):
        assert shown(explorer) == expected(truth, keep, order, page)
        assert explorer.pager['page'].value == page + 1
        assert explorer.pager['forward'].disabled == (page == pages - 1) and explorer.pager['back'].disabled == (page == 0)
        explorer.pager['forward'].click()


def test_turning_pages_by_slider_and_buttons(explorer, truth):
    explorer.filters['kind'].value, explorer.filters['sort'].value = 'all', 'index'
    explorer.pager['page'].value = 4
    assert shown(explorer) == list(range(24, 32))
    explorer.pager['back'].click()
    assert shown(explorer) == list(range(16, 24)) and explorer.pager['page'].value == 3
    explorer.pager['page'].value = 8
    assert shown(explorer) == [56, 57, 58, 59]
    explorer.pager['forward'].click()
    assert shown(explorer) == [56, 57, 58, 59]
    explorer.filters['sort'].value = 'loss'
    assert explorer.pager['page'].value == 1


def test_every_menu_says_what_is_chosen(explorer):
    "A menu with nothing chosen would be shown blank"
    for control in (*explorer.filters.values(), *explorer.heat.values()):
        if hasattr(control, 'options'): assert control.index == 0 and control.label
    explorer.filters['actual'].value = 'ant'
    explorer.filters['actual'].value = ''
    assert shown(explorer) == Selection(explorer.kept).indices[:PER_PAGE].tolist()


def test_nothing_to_show_and_back_again(explorer):
    before = shown(explorer)
    explorer.filters['confidence'].value = (0., .01)
    assert shown(explorer) == [] and 'no such images' in explorer.grid.children[0].value and explorer.picture() is None
    explorer.after.click()
    explorer.filters['confidence'].value = (0., 1.)
    assert shown(explorer) == before


def test_an_image_is_opened_with_its_probabilities(explorer, truth):
    explorer.tiles[3].open.click()
    index = shown(explorer)[3]
    assert explorer.current == index
    np.testing.assert_array_equal(pixels(Seen(explorer.large.picture.value).pictures[0]), truth['images'][index])
    words = Seen(explorer.about.value).words
    assert str(truth['names'][index]) in words and f'index {index}' in Seen(explorer.large.picture.value).words
    for share in truth['shares'][index]: assert ('<0.1%' if share < .001 else '>99.9%' if share > .999 else f'{share:.1%}') in words
    order = np.argsort(-truth['shares'][index])
    places = [words.index(CLASSES[one], words.index(str(truth['names'][index])) + len(str(truth['names'][index]))) for one in order]
    assert places == sorted(places)
    widths = [float(width) for width in re.findall(r'width:([0-9.]+)%"></div>', explorer.about.value)]
    np.testing.assert_allclose(widths, np.maximum(100*np.sort(truth['shares'][index])[::-1], 0.5), atol=0.06)


def test_steps_go_from_image_to_image_and_turn_the_page(explorer):
    order = explorer.selection.indices.tolist()
    explorer.tiles[0].open.click()
    for place in range(1, 10):
        explorer.after.click()
        assert explorer.current == order[place] and order[place] in shown(explorer)
    assert explorer.pager['page'].value == 2
    for _ in range(12): explorer.before.click()
    assert explorer.current == order[0] and explorer.pager['page'].value == 1


def test_find_opens_an_image_and_its_page(explorer, truth):
    explorer.filters['kind'].value, explorer.filters['sort'].value = 'all', 'index'
    explorer.pager['find'].value = '43'
    assert explorer.current == 43 and shown(explorer) == list(range(40, 48))
    explorer.pager['find'].value = str(truth['names'][50])
    assert explorer.current == 50 and 50 in shown(explorer)
    explorer.filters['actual'].value = CLASSES[(truth['targets'][5] + 1) % 4]
    explorer.pager['find'].value = '5'
    assert explorer.current == 5 and 'not among those' in explorer.message.value
    explorer.pager['find'].value = '60'
    assert explorer.current == 5 and 'there is no image' in explorer.message.value


# Heat

def test_the_heat_of_a_method_a_target_and_a_layer(explorer, interpretation, learner, truth):
    explorer.heat['method'].value = 'layercam'
    layers = [name for _, name in explorer.heat['layer'].options]
    assert layers[0] == '' and len(layers) > 2
    explorer.heat['layer'].value, explorer.heat['target'].value = layers[-2], 'actual'
    indices = shown(explorer)
    inputs = truth['inputs'][indices]
    maps = heatmaps(learner.model, inputs, 'actual', 'layercam', layers[-2], targets=truth['targets'][indices])
    for tile, picture, index in zip(explorer.tiles, overlay(truth['images'][indices], maps), indices):
        seen = Seen(tile.picture.value)
        assert np.abs(pixels(seen.pictures[0]).astype(int) - picture).max() <= 1
        assert f"for actual: {CLASSES[truth['targets'][index]]}" in seen.words
    both = Seen(explorer.large.picture.value)
    assert len(both.pictures) == 3 and 'for predicted: ' in both.words and 'for actual: ' in both.words
    explorer.heat['target'].value = SCRIPT
    assert f'for {SCRIPT}' in Seen(explorer.tiles[0].picture.value).words
    explorer.heat['method'].value = 'eigencam'
    assert explorer.heat['target'].disabled and 'no class' in Seen(explorer.tiles[0].picture.value).words
    explorer.heat['method'].value = ''
    np.testing.assert_array_equal(pixels(Seen(explorer.tiles[0].picture.value).pictures[0]), truth['images'][indices[0]])


def test_heat_that_cannot_be_is_said_and_the_pictures_stay(learner, tmp_path):
    "The network was trained on after the interpretation was made"
    found = CifarInterpretation.from_learner(learner)
    found.kept.logits[:] = found.kept.logits[:, ::-1] + 5
    explorer = Explorer(found, tmp_path/'marks.csv', 4)
    before = [tile.picture.value for tile in explorer.tiles]
    explorer.heat['method'].value = 'gradcam'
    assert 'other weights' in explorer.message.value and explorer.heat['method'].value == ''
    assert [tile.picture.value for tile in explorer.tiles] == before


# Marks

def test_marks_are_made_changed_saved_and_read_again(explorer, interpretation, truth, tmp_path):
    first, second, third = shown(explorer)[:3]
    suggestion = CLASSES[truth['predicted'][first]]
    assert explorer.tiles[0].mark.options[3][1] == ('label looks wrong', suggestion)
    explorer.tiles[0].mark.value = ('label looks wrong', suggestion)
    explorer.tiles[1].mark.value = ('ambiguous', '')
    explorer.tiles[2].mark.value = ("model's fault", '')
    explorer.tiles[1].mark.value = ('', '')
    assert set(explorer.marks) == {first, third} and explorer.change() == [(first, suggestion)]
    assert 'label looks wrong' in Seen(explorer.tiles[0].picture.value).words
    assert 'label looks wrong' in Seen(explorer.large.picture.value).words and explorer.large.mark.value == ('label looks wrong', suggestion)
    explorer.file['save'].click()
    assert read_marks(tmp_path/'marks.csv', interpretation.kept) == explorer.marks
    again = explore(interpretation, tmp_path/'marks.csv', PER_PAGE)
    assert again.marks == explorer.marks and again.tiles[2].mark.value == ("model's fault", '')
    again.filters['marked'].value = 'marked'
    assert sorted(shown(again)) == sorted([first, third])
    again.filters['marked'].value = 'not marked'
    assert not {first, third} & set(again.selection.indices.tolist()) and second in again.selection.indices


def test_marking_the_large_image_marks_its_tile(explorer):
    explorer.tiles[2].open.click()
    explorer.large.mark.value = ('ambiguous', '')
    assert explorer.tiles[2].mark.value == ('ambiguous', '') and list(explorer.marks) == [shown(explorer)[2]]
    explorer.pager['forward'].click()
    assert all(tile.mark.value == ('', '') for tile in explorer.tiles)
    explorer.pager['back'].click()
    assert explorer.tiles[2].mark.value == ('ambiguous', '')


def test_a_file_that_was_not_read_is_not_written_over(explorer, interpretation, tmp_path):
    (tmp_path/'other.csv').write_text('my shopping list')
    explorer.tiles[0].mark.value = ('ambiguous', '')
    explorer.file['path'].value = str(tmp_path/'other.csv')
    explorer.file['save'].click()
    assert 'there already' in explorer.message.value
    explorer.file['load'].click()
    assert 'line 1' in explorer.message.value and len(explorer.marks) == 1
    explorer.file['save'].click()
    assert (tmp_path/'other.csv').read_text() == 'my shopping list'
    for path in ('', str(tmp_path/'none'/'marks.csv'), str(tmp_path)):
        explorer.file['path'].value = path
        explorer.file['save'].click()
        assert 'saved' not in explorer.message.value
    explorer.file['path'].value = str(tmp_path/'new.csv')
    explorer.file['save'].click()
    assert '1 mark saved' in explorer.message.value


def test_marks_of_the_file_and_of_this_session_together(explorer, interpretation, tmp_path):
    explorer.tiles[0].mark.value, explorer.tiles[1].mark.value = ('ambiguous', ''), ('ambiguous', '')
    explorer.file['save'].click()
    other = explore(interpretation, tmp_path/'none.csv', PER_PAGE)
    other.tiles[1].mark.value, other.tiles[2].mark.value = ("model's fault", ''), ("model's fault", '')
    other.file['path'].value = str(tmp_path/'marks.csv')
    other.file['load'].click()
    assert [mark.verdict for _, mark in sorted(other.marks.items(), key=lambda each: shown(other).index(each[0]))] == [
        'ambiguous', "model's fault", "model's fault"]
    assert [tile.mark.value[0] for tile in other.tiles[:3]] == ['ambiguous', "model's fault", "model's fault"]
    assert '2 marks loaded' in other.message.value and '1 of them marked here' in other.message.value


# Names, sizes, kinds

def test_names_are_shown_never_run(explorer):
    explorer.heat['method'].value = 'gradcam'
    explorer.pager['find'].value = '<img src=x onerror=alert(1)>'
    explorer.filters['actual'].value = SCRIPT
    texts = [explorer.status, explorer.message, explorer.about, explorer.large.picture, *(tile.picture for tile in explorer.tiles)]
    for widget in texts:
        seen = Seen(widget.value)
        assert seen.tags <= {'div', 'img', 'table', 'tr', 'th', 'td', 'span', 'b', 'br'} and all('onerror' not in picture for picture in seen.pictures)
    assert SCRIPT in Seen(explorer.status.value).words and SCRIPT in Seen(explorer.about.value).words


@pytest.mark.parametrize('classes', [2, 100])
def test_many_images_and_many_classes(classes):
    draw = np.random.default_rng(0)
    kept = ClassifiedImages(draw.normal(0, 3, (50_000, classes)).astype(np.float32), draw.integers(0, classes, 50_000),
                            np.arange(50_000).astype(str), tuple(f'class {number}' for number in range(classes)))
    selection = Selection(kept, kind='all', confidence=(.2, .8), marked='not marked', marks=frozenset(range(100)))
    wanted = (kept.confidence >= .2) & (kept.confidence <= .8) & (np.arange(50_000) >= 100)
    assert sorted(selection.indices.tolist()) == np.flatnonzero(wanted).tolist()
    assert replace(selection, page=10**9).number == selection.pages - 1 and f'{wanted.sum():,} images' in selection_line(selection)
    assert len(mark_choices(kept, 7)) == classes + 3 and {choice[1][0] for choice in mark_choices(kept, 7)} == {'', *VERDICTS}
    assert bars_html(kept, 7).count('<tr>') == min(classes, 10) and f'class {kept.targets[7]} ' in html.unescape(bars_html(kept, 7))
    assert find_image(kept, '49999') == 49999


def test_a_model_that_is_never_wrong(learner, tmp_path):
    found = CifarInterpretation.from_learner(learner)
    found.kept.targets[:] = found.kept.logits.argmax(1)
    explorer = Explorer(found, tmp_path/'marks.csv', 4)
    assert shown(explorer) == []
    explorer.filters['kind'].value = 'all'
    assert len(shown(explorer)) == 4
    explorer.after.click()
    assert explorer.current == shown(explorer)[0]


# What can be explored, and where there are no widgets

def test_a_learner_is_enough_and_nonsense_is_refused(learner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(explore(learner, per_page=5)) == shown(explore(CifarInterpretation.from_learner(learner), per_page=5))
    with pytest.raises(BadInput, match='type dict cannot be explored'): explore({})
    with pytest.raises(BadInput, match='holds no run'): explore(tmp_path)
    for number in (0, 61, 2.5, True, '4'):
        with pytest.raises(BadInput, match='per_page'): explore(learner, per_page=number)


def test_a_run_folder_keeps_its_marks(tmp_path, tiny_folder):
    from cifar_fastai.train import train
    recipe = Recipe(data=str(tiny_folder), arch='resnet9', width=4, epochs=1, batch_size=16, progressive=0, precision='fp32', device='cpu')
    run = train(recipe, out=tmp_path, name='one')
    explorer = explore(run.path)
    explorer.filters['kind'].value = 'all'
    explorer.tiles[0].mark.value = ('ambiguous', '')
    explorer.heat['method'].value = 'gradcam'
    explorer.file['save'].click()
    assert (run.path/'marks.csv').is_file() and explorer.message.value
    assert explore(run).marks == explorer.marks


def test_without_ipywidgets_there_are_pictures_and_a_word_on_what_to_install(interpretation, monkeypatch, notices):
    for name in [name for name in sys.modules if name.split('.')[0] == 'ipywidgets']: monkeypatch.setitem(sys.modules, name, None)
    for name in ('explorer', 'controls'): monkeypatch.delitem(sys.modules, f'cifar_fastai.views.{name}')
    found = importlib.reload(cifar_fastai.explore).explore(interpretation, per_page=6)
    assert isinstance(found, Picture) and 'cifar_fastai[notebook]' in notices()
    wrong = np.argsort(-interpretation.kept.losses)[:6]
    assert re.findall(r'index (\d+)', found.describe()) == [str(index) for index in wrong]


def test_what_stays_in_the_notebook_is_a_picture(explorer):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {'text/plain', 'image/png'} and 'wrong images' in bundle['text/plain']
    explorer.filters['confidence'].value = (0., .01)
    assert set(explorer._repr_mimebundle_()) == {'text/plain'}
