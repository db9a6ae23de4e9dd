"Wrong labels: confident learning against cleanlab's, scores by their definitions, planted flips found by the command"
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import CLASSES as DRAWN, write_images
from scipy.special import softmax

from cifar_fastai.base.label_files import SCORES, read_labels, write_labels, write_shares
from cifar_fastai.base.messages import BadInput, BadWords
from cifar_fastai.cli import dispatch
from cifar_fastai.data.shapes import draw_shapes
from cifar_fastai.data.sources import load_images
from cifar_fastai.labels.confident import confident_joint, count_wrong, flag_wrong
from cifar_fastai.labels.issues import find_issues
from cifar_fastai.labels.neighbours import conflicting_groups, far_images, nearest_images
from cifar_fastai.labels.scores import area_under_margin, class_thresholds, label_quality, logit_margin

OLD = Path(__file__).parent/'old_run'


def noisy(count, classes, share, seed, sharpness=3.):
    "Labels of which a share was moved to other classes, and probabilities that know the truth, more or less"
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes, count)
    labels = np.where(draw.random(count) < share, (truth + draw.integers(1, classes, count))%classes, truth)
    return truth, labels, softmax(sharpness*np.eye(classes)[truth] + draw.normal(size=(count, classes)), axis=1)


@pytest.mark.parametrize('classes, sharpness', [(2, 3.), (3, 1.), (10, 3.), (10, 6.)])
def test_confident_learning_is_cleanlab_s(classes, sharpness):
    counting, ranking = (pytest.importorskip(f'cleanlab.{name}') for name in ('count', 'rank'))
    _, labels, probabilities = noisy(2000, classes, 0.15, classes, sharpness)
    assert np.allclose(class_thresholds(probabilities, labels), counting.get_confident_thresholds(labels, probabilities))
    assert np.array_equal(confident_joint(probabilities, labels, calibrated=False), counting.compute_confident_joint(labels, probabilities, calibrate=False))
    ours, theirs = confident_joint(probabilities, labels), counting.compute_confident_joint(labels, probabilities, calibrate=True)
    assert np.abs(ours - theirs).max() <= 1  # theirs is in whole images
    names = {'self_confidence': 'self_confidence', 'margin': 'normalized_margin', 'entropy': 'confidence_weighted_entropy'}
    for score in SCORES:
        for adjusted in (False, True) if score != 'entropy' else (False,):
            assert np.allclose(label_quality(probabilities, labels, score, adjusted), ranking.get_label_quality_scores(labels, probabilities, method=names[score], adjust_pred_probs=adjusted), atol=1e-6), (score, adjusted)


def test_the_number_of_wrong_labels_and_which_they_are():
    truth, labels, probabilities = noisy(4000, 5, 0.12, 0, sharpness=7.)
    found, wrong = count_wrong(probabilities, labels), labels != truth
    assert found.low < wrong.sum() < found.high and found.low < found.count < found.high and found == count_wrong(probabilities, labels)
    flagged = flag_wrong(confident_joint(probabilities, labels), labels, probabilities.argmax(1), label_quality(probabilities, labels))
    assert wrong[flagged].mean() > 0.95 and flagged[wrong].mean() > 0.95
    kept = flag_wrong(np.diag(np.bincount(labels)).astype(float), labels, probabilities.argmax(1), label_quality(probabilities, labels))
    assert not kept.any()


def test_margins_over_epochs_by_their_definition():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    labels = np.arange(50)%4
    by_hand = [row[label] - max(value for place, value in enumerate(row) if place != label) for row, label in zip(logits, labels)]
    assert np.allclose(logit_margin(logits, labels), by_hand)
    margins = np.array([[1., np.nan], [3., -1.], [np.nan, -4.]])
    assert np.allclose(area_under_margin(margins), [2., -2.5])


def test_neighbours_outliers_and_copies_are_those_of_scikit_learn_and_of_sight():
    from sklearn.neighbors import NearestNeighbors
    draw = np.random.default_rng(0)
    embeddings = np.concatenate([draw.normal(size=(100, 6)) + centre for centre in (0, 8, [8]*3 + [-8]*3)] + [np.r_[np.zeros(5), 60][None]])
    near, distances = nearest_images(embeddings, 4)
    moved = embeddings - embeddings.mean(0)
    theirs, which = NearestNeighbors(n_neighbors=5, metric='cosine').fit(moved).kneighbors(moved)
    assert np.allclose(distances, theirs[:, 1:], atol=1e-5) and (near == which[:, 1:]).mean() > 0.99
    assert np.flatnonzero(far_images(distances)).tolist() == [300]
    assert conflicting_groups(np.array([5, 5, 7, 8, 8, 8]), np.array([1, 1, 0, 2, 2, 0])).tolist() == [False]*3 + [True]*3


def test_each_image_has_one_kind_and_the_rows_are_those_of_the_file(tmp_path):
    truth, labels, probabilities = noisy(500, 3, 0.05, 1, 6.)
    far, copied = np.zeros(500, bool), np.zeros(500, bool)
    right = np.flatnonzero(labels == truth)
    far[right[:3]], copied[right[2:5]] = True, True
    issues = find_issues(probabilities, labels, [f'{place}.png' for place in range(500)], ('a', 'b', 'c'), far=far, copied=copied)
    assert issues.kinds[right[:5]].tolist() == ['outlier']*2 + ['duplicate']*3
    write_labels(tmp_path/'labels.csv', issues.rows())
    with open(tmp_path/'labels.csv', newline='') as file: rows = list(csv.DictReader(file))
    assert [int(row['index']) for row in rows] == issues.order().tolist() and all(row['suggested'] != row['given'] for row in rows if row['kind'] == 'wrong')
    for score in SCORES:
        quality = label_quality(probabilities, labels, score)
        same = find_issues(probabilities, labels, issues.names, issues.classes, quality, centred=score == 'margin')
        assert np.array_equal(same.suggested, probabilities.argmax(1)) and not same.kinds[probabilities.argmax(1) == labels].any()
    assert all(row['label'] == '' for row in rows) and [float(row['quality']) for row in rows] == sorted(float(row['quality']) for row in rows)


KEPT = ('circle', 'cross', 'triangle')
WORDS = ['--folds', '2', '--recipe', 'speed', '--image-size', '16', '--width', '16', '--epochs', '14', '--batch-size', '32', '--augment', 'shapes', '--progressive', '0', '--precision', 'fp32', '--device', 'cpu']


@pytest.fixture(scope='module')
def flipped(tmp_path_factory):
    "Three classes of the drawn shapes in the official form, every twentieth training label another; and which"
    images, labels, _, classes = draw_shapes(4500, 300)
    kept, draw = np.isin(labels, [classes.index(name) for name in KEPT]), np.random.default_rng(0)
    images, labels, train = images[kept], np.array([KEPT.index(classes[label]) for label in labels[kept]]), int(kept[:4500].sum())
    wrong = np.zeros(train, bool)
    wrong[draw.permutation(train)[:train//20]] = True
    labels[:train][wrong] = (labels[:train][wrong] + draw.integers(1, 3, wrong.sum()))%3
    folder = tmp_path_factory.mktemp('flipped')
    rows = np.concatenate([labels.astype(np.uint8)[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
    (folder/'cifar-10-batches-bin').mkdir()
    rows[:train].tofile(folder/'cifar-10-batches-bin'/'data_batch_1.bin')
    rows[train:].tofile(folder/'cifar-10-batches-bin'/'test_batch.bin')
    (folder/'cifar-10-batches-bin'/'batches.meta.txt').write_text('\n'.join(KEPT) + '\n')
    dispatch(['labels', str(folder), '--out', str(folder/'found'), *WORDS, '--shares'])
    return folder, wrong


def test_planted_flips_are_found(flipped):
    folder, wrong = flipped
    rows = sorted(read_labels(folder/'found'/'labels.csv', KEPT), key=lambda row: row.index)
    flagged = np.array([row.kind == 'wrong' for row in rows])
    assert len(rows) == len(wrong) and all(row.label == '' for row in rows)
    assert wrong[flagged].mean() >= 0.9 and flagged[wrong].mean() >= 0.9


def test_soft_labels_are_the_given_class_by_its_quality_and_are_read_again(flipped, tmp_path):
    folder, wrong = flipped
    rows = sorted(read_labels(folder/'found'/'labels.csv', KEPT), key=lambda row: row.index)
    table = pd.read_csv(folder/'found'/'shares.csv').set_index('name').loc[[row.name for row in rows]]
    given, quality = np.array([table.columns.get_loc(row.given) for row in rows]), np.array([row.quality for row in rows])
    values, others = table.to_numpy(), np.arange(3) != given[:, None]
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)
    assert (values[~others] >= quality - 1e-5).all() and (values[others].reshape(-1, 2).sum(1) <= 1 - quality + 1e-5).all()
    plain, soft = load_images(str(folder)), load_images(str(folder), soft_labels=str(folder/'found'/'shares.csv'))
    read = soft.soft[1][soft.soft[0][:soft.train_count]]
    assert (read.argmax(1) != plain.labels[:plain.train_count])[wrong].mean() >= 0.8 and (read.argmax(1) == plain.labels[:plain.train_count])[~wrong].mean() >= 0.97
    with pytest.raises(BadInput, match="a class is called 'label'"): write_shares(tmp_path/'shares.csv', ['a.png'], [[0.5, 0.5]], ['cat', 'label'])
    assert not any(tmp_path.iterdir())


def test_again_nothing_is_trained_and_what_a_person_decided_stays(flipped, capsys, monkeypatch):
    (folder, _), path = flipped, flipped[0]/'found'/'labels.csv'
    before = read_labels(path, KEPT)
    write_labels(path, [replace(row, label=row.given if row is before[0] else '') for row in before])
    monkeypatch.setattr('cifar_fastai.comparison.grid.train_session', None)
    dispatch(['labels', str(folder), '--out', str(folder/'found'), *WORDS, '--accept', 'quality<0.2'])
    after, said = {row.name: row for row in read_labels(path, KEPT)}, capsys.readouterr().out
    assert after[before[0].name].label == before[0].given
    taken = [row for row in before[1:] if row.quality < 0.2 and row.suggested != row.given]
    assert taken and all(after[row.name].label == row.suggested for row in taken) and sum(bool(row.label) for row in after.values()) == 1 + len(taken)
    assert f'accepted {len(taken)} suggestions with quality<0.2: nobody has looked at them' in said and 'kept     1 decision that was in the file' in said
    text = path.read_text()
    path.write_text(text.replace(before[0].name, 'other'))
    with pytest.raises(BadInput, match="no image named 'other'"): dispatch(['labels', str(folder), '--out', str(folder/'found'), *WORDS])
    assert path.read_text() == text.replace(before[0].name, 'other')


def test_one_run_says_so_by_its_dynamics_and_of_its_test_images(flipped, capsys, tmp_path):
    folder, wrong = flipped
    run = sorted((folder/'found'/'folds').glob('*/recipe.json'))[0].parent
    dispatch(['labels', str(run), '--out', str(tmp_path)])
    rows, said = read_labels(tmp_path/'labels.csv', KEPT), capsys.readouterr().out
    assert 'dynamics 14 epochs of' in said and len(rows) <= len(wrong)//2 + 1
    order = [wrong[row.index] for row in rows]
    assert sum(order[:sum(order)]) >= 0.8*sum(order)
    dispatch(['labels', str(run), '--test', '--out', str(tmp_path)])
    assert sorted(row.index for row in read_labels(tmp_path/'test_labels.csv', KEPT)) == list(range(90)) and 'was not trained on its 90 test images' in capsys.readouterr().out
    (run/'image_dynamics.npz').rename(tmp_path/'kept.npz')
    with pytest.raises(BadInput, match='--track-images yes'): dispatch(['labels', str(run), '--method', 'dynamics'])
    (tmp_path/'kept.npz').rename(run/'image_dynamics.npz')


@pytest.mark.parametrize('words, says', [
    (['shapes', '--accept', 'quality>0.2'], "'quality>0.2' is no condition"), (['shapes', '--accept', 'quality<7'], 'no condition'), (['shapes', '--folds', '1'], 'at least 2'),
    (['shapes', '--test'], 'holds no run'), ([str(OLD), '--test', '--shares'], '--shares is for training images'), (['shapes', '--method', 'dynamics', '--folds', '3'], 'is for --method folds'), (['shapes', '--method', 'fold'], "did you mean 'folds'"),
    ([str(OLD), '--method', 'dynamics', '--epochs', '3'], '--epochs: the run is judged as it was trained'), ([str(OLD), '--test', '--recipe', 'quick', '--width', '8'], '--recipe, --width: the run'),
    (['shapes', '--data', 'cifar10'], 'named first'), (['shapes', '--fold', '1/3'], '--fold: labels'), (['shapes', '--set-aside', '9', '--folds', '3'], '--set-aside: labels'), (['shapes', '--score', 'margins'], "did you mean 'margin'"), (['shapes', '--mixup', '0.4', '--track-images'], 'mixup and cutmix mix them'),
    ([], 'RUN|DATA')])
def test_wrong_words_are_refused_before_anything_is_trained(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadWords) as caught: dispatch(['labels', *words])
    assert says in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize('classes, words, file, says', [
    (('name', 'bee', 'cat'), ['--shares'], None, "a class is called 'name'"), (('ant', 'quality', 'cat'), ['--shares', '--method', 'dynamics'], None, "a class is called 'quality'"),
    (('ant', 'bee', 'cat'), ['--folds', '61'], None, '--folds 61: there are 60 training images'), (('ant', 'bee', 'cat'), [], 'junk\n', "column 'name' is missing"),
    (('ant', 'bee', 'cat'), [], 'name,label\nother.png,ant\n', "no image named 'other.png'")])
def test_what_could_not_be_written_at_the_end_is_refused_before_anything_is_trained(classes, words, file, says, tmp_path, monkeypatch):
    write_images(tmp_path/'data', {'train': (60, 1), 'test': (15, 2)}, 16)
    for part in ('train', 'test'):
        for old, new in zip(DRAWN, classes): (tmp_path/'data'/part/old).rename(tmp_path/'data'/part/new)
    if file: (tmp_path/'out').mkdir(); (tmp_path/'out'/'labels.csv').write_text(file)
    monkeypatch.setattr('cifar_fastai.runs.session.train_session', None)
    monkeypatch.setattr('cifar_fastai.comparison.grid.train_session', None)
    with pytest.raises(BadInput, match=says): dispatch(['labels', str(tmp_path/'data'), '--out', str(tmp_path/'out'), *words, '--device', 'cpu'])
    assert not [*tmp_path.rglob('recipe.json')] and (not (tmp_path/'out'/'labels.csv').exists() or (tmp_path/'out'/'labels.csv').read_text() == file)


@pytest.mark.parametrize('what', ['nowhere', 'nowhere.tgz'])
def test_data_that_is_not_there_is_said(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=what): dispatch(['labels', what])
    assert not [*tmp_path.iterdir()]
