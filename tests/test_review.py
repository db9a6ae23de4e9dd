"The review of labels: which images are shown, with which neighbours, in the notebook and in a real browser, and the one file of decisions"
import dataclasses
import math

import numpy as np
import pytest

from drawn import CLASSES, write_images
from cifar_fastai.base.label_files import DROP, UNSURE, LabelRow, read_labels, write_labels
from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.sources import load_images
from cifar_fastai.explore import explore, labels_of
from cifar_fastai.heatmaps import gradcam
from cifar_fastai.interpretation.marks import mark_image
from cifar_fastai.interpretation.suspects import choose_suspects, find_suspects, nearest_of_classes, write_decisions
from cifar_fastai.runs.session import train_session
from cifar_fastai.views.review import write_reviews


@pytest.fixture(scope='module')
def run(tiny_recipe, tmp_path_factory):
    "A run with a labels.csv: nine labels of 120 that look wrong, by their colours"
    folder = write_images(tmp_path_factory.mktemp('pictures')/'pets', {'train': (120, 1), 'test': (15, 2)}, 16)
    run = train_session(dataclasses.replace(tiny_recipe, data=str(folder), epochs=3), tmp_path_factory.mktemp('runs'), 'pets', explained=False)
    data = load_images(folder)
    rows = [LabelRow(place, str(name), data.classes[data.labels[place]], CLASSES[(data.labels[place] + 1) % 3] if place % 13 == 5 else '', place/200 if place % 13 == 5 else 0.99,
                     'wrong' if place % 13 == 5 else '', '') for place, name in enumerate(data.names[:120])]
    write_labels(run.path/'labels.csv', rows)
    return run


def test_the_neighbours_are_those_that_sklearn_finds():
    neighbors = pytest.importorskip('sklearn.neighbors')
    draw = np.random.default_rng(0)
    features, labels, wanted = draw.normal(3, 1, (60, 5)), draw.integers(0, 3, 50), draw.integers(0, 3, (10, 2))
    found = nearest_of_classes(features, wanted, labels, 4)
    centred = features - features.mean(0)
    for place, pair in enumerate(wanted):
        for side, label in enumerate(pair):
            own = np.flatnonzero(labels == label)
            _, near = neighbors.NearestNeighbors(n_neighbors=4, metric='cosine').fit(centred[10:][own]).kneighbors(centred[place:place + 1])
            assert found[place, side].tolist() == own[near[0]].tolist()
    assert nearest_of_classes(features, np.array([[0, 7]]*10), labels, 4)[:, 1].max() == -1


def test_suspects_come_first_and_their_neighbours_are_of_both_classes(run):
    found = find_suspects(run.learner, run.path/'labels.csv')
    kept, data = found.kept, run.learner.dls.data
    assert kept.places.tolist() == [5 + 13*step for step in range(9)] and np.argsort(-kept.losses, kind='stable').tolist() == list(range(9))
    assert (kept.targets == data.labels[kept.places]).all() and (kept.predicted == (kept.targets + 1) % 3).all()
    for row, (given, suggested) in zip(kept.near, zip(kept.targets, kept.predicted)):
        assert (data.labels[row[0]] == given).all() and (data.labels[row[1]] == suggested).all() and not set(row.ravel()) & set(kept.places)
    np.testing.assert_array_equal(found.images([2])[0], data.images[kept.places[2]])
    heat = gradcam.heatmaps(run.learner.model, found.inputs([0, 3]), 'actual', targets=kept.predicted[[0, 3]])
    for shown in (found.heatmaps([0, 3]), found.heat_columns([0, 3], 'predicted', 'gradcam', None)[3][0]): np.testing.assert_array_equal(shown, heat)
    assert not np.array_equal(heat, gradcam.heatmaps(run.learner.model, found.inputs([0, 3]))), 'the network says otherwise'
    assert [row.index for row in choose_suspects([*kept.rows[::-1], LabelRow(0, 'x', 'ant', quality=0.)], 2)] == [5, 18]
    write_labels(run.path/'fine.csv', [LabelRow(0, str(data.names[0]), 'ant')])
    with pytest.raises(BadInput, match='nothing to look at'): find_suspects(run.learner, run.path/'fine.csv')
    write_labels(run.path/'fine.csv', [LabelRow(0, 'else.png', 'ant', 'bee', 0.1, 'wrong')])
    with pytest.raises(BadInput, match="no image named 'else.png'"): find_suspects(run.learner, run.path/'fine.csv')


def test_a_file_about_two_sets_is_shown_one_set_at_a_time(run, tmp_path):
    names, count = run.learner.dls.data.names, run.learner.dls.data.train_count
    rows = [LabelRow(-1, str(names[place]), CLASSES[run.learner.dls.data.labels[place]], '', quality, 'wrong') for place, quality in ((count + 3, 0.1), (2, 0.2), (count + 7, math.nan))]
    write_labels(tmp_path/'both.csv', rows)
    with pytest.warns(UserWarning, match='1 rows are about images of another set'): kept = find_suspects(run.learner, tmp_path/'both.csv').kept
    assert kept.places.tolist() == [3, 7] and kept.found == 2 and kept.total == len(names) - count and kept.losses.tolist() == pytest.approx([0.9, 0])


def test_decisions_go_into_a_file_that_knows_only_some_of_the_suspects(run, tmp_path):
    kept = find_suspects(run.learner, run.path/'labels.csv').kept
    other = LabelRow(0, str(run.learner.dls.data.names[0]), 'ant', quality=0.5)
    write_labels(tmp_path/'some.csv', [other, kept.rows[1]])
    write_decisions(tmp_path/'some.csv', [mark_image(kept, 0, 'ambiguous')], kept)
    rows = {row.name: row for row in read_labels(tmp_path/'some.csv')}
    assert set(rows) == {other.name, *kept.names} and rows[kept.names[0]].label == UNSURE and sum(bool(row.label) for row in rows.values()) == 1


def test_a_file_without_a_doubt_has_no_page_and_hides_no_errors(run, tmp_path, monkeypatch):
    monkeypatch.setattr('cifar_fastai.views.review.load_run', None)
    write_labels(tmp_path/'labels.csv', [LabelRow(0, 'x', 'ant', quality=0.9)])
    assert write_reviews(tmp_path) == [] and labels_of(tmp_path) == ''


def test_a_notebook_decides_into_the_same_file(run):
    pytest.importorskip('ipywidgets')
    file = run.path/'labels.csv'
    before = file.read_bytes()
    with pytest.warns(UserWarning, match="labels=''"): explorer = explore(run)
    names = explorer.kept.names.tolist()
    assert 'nearest bee' in explorer.about.value and explorer.current == 0
    assert '9 labels to look at, lowest quality first; page 1 of 1' in explorer.status.value and explorer.filters['kind'].layout.display == 'none'
    assert f'quality {explorer.kept.rows[0].quality:.3f}' in explorer.tiles[0].picture.value and 'index' not in explorer.tiles[0].picture.value
    for name in ('accept', 'keep', 'unsure'): explorer.decide[name].click()
    explorer.tiles[3].mark.value = ('label looks wrong', '')
    assert explorer.current == 3
    first, second = (explorer.kept.rows[place] for place in (0, 1))
    for tile, words in zip(explorer.tiles, (f'→ {first.suggested}', 'kept', 'unsure', 'left out')):
        assert f'>{words}<' in tile.picture.value and dict((pair[1], pair[0]) for pair in tile.mark.options)[tile.mark.value] == words
    assert [explorer.filters[name].description for name in ('actual', 'predicted')] == ['given', 'suggested'] and '(given)' in explorer.about.value
    explorer.file['save'].click()
    assert 'saved' in explorer.message.value
    rows = {row.name: row for row in read_labels(file)}
    assert [rows[name].label for name in names[:4]] == [first.suggested, second.given, UNSURE, DROP] and len(rows) == 120
    assert sum(bool(row.label) for row in rows.values()) == 4 and rows[names[0]].quality == first.quality
    again = explore(run.path, labels=file)
    assert again.marks == explorer.marks
    file.write_bytes(before)
