"People beside a model: numbers by hand and by scipy, rows that find their images, files that do not fit"
import json

import numpy as np
import pytest
from scipy import stats

from cifar_fastai.base.messages import BadInput, BadWords
from cifar_fastai.interpret import main
from cifar_fastai.interpretation.human import BesidePeople, entropies, rank_correlation, read_answers
from cifar_fastai.interpretation.predictions import ClassifiedImages

CLASSES = ('cat', 'dog', 'ship')
COUNT = 60


@pytest.fixture(scope='module')
def kept():
    draw = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], 20)
    logits = (2*np.eye(3)[targets] + 1.5*draw.normal(size=(COUNT, 3))).astype(np.float32)
    return ClassifiedImages(logits, targets, np.array([f'test/{CLASSES[label]}/{place%20:04}.jpg' for place, label in enumerate(targets)]), CLASSES)


@pytest.fixture(scope='module')
def counts(kept):
    draw = np.random.default_rng(1)
    return np.stack([draw.multinomial(40, 0.7*np.eye(3)[label] + 0.3*share) for label, share in zip(kept.targets, draw.dirichlet([0.3]*3, COUNT))]).astype(np.uint8)


def test_the_numbers_are_those_of_a_loop_and_of_scipy(kept, counts):
    shares, found = counts/counts.sum(1, keepdims=True), BesidePeople(kept, counts/counts.sum(1, keepdims=True)).metrics()
    by_hand = [-sum(share*np.log(probability) for share, probability in zip(*pair)) for pair in zip(shares, kept.probabilities)]
    assert np.isclose(found['cross_entropy']['value'], np.mean(by_hand)) and np.isclose(found['people_entropy'], np.mean([stats.entropy(row) for row in shares]))
    wrong = [place for place in range(COUNT) if kept.logits[place].argmax() != kept.targets[place]]
    assert found['errors_alone'] | {'value': np.mean([counts[place, kept.logits[place].argmax()] == 0 for place in wrong])} == found['errors_alone']
    assert np.isclose(found['errors_split']['value'], np.mean([shares[place].max() < 0.8 for place in wrong])) and found['errors_split']['images'] == len(wrong)
    assert np.isclose(found['rank_correlation']['value'], stats.spearmanr(entropies(kept.probabilities), entropies(shares)).statistic)
    assert found['rank_correlation']['low'] < found['rank_correlation']['value'] < found['rank_correlation']['high']


def test_the_interval_of_a_rank_correlation_holds_the_truth_as_often_as_it_says():
    draw, inside = np.random.default_rng(0), 0
    truth = 6/np.pi*np.arcsin(0.6/2)  # of two normal numbers with correlation 0.6
    for _ in range(400):
        one = draw.normal(size=80)
        found = rank_correlation(one, 0.6*one + 0.8*draw.normal(size=80))
        inside += found['low'] <= truth <= found['high']
    assert 0.92 < inside/400 < 0.98
    assert rank_correlation(np.ones(9), np.arange(9.)) is None


def test_rows_find_their_images_by_name_by_label_and_by_the_number_of_the_file(kept, counts, tmp_path):
    order = np.random.default_rng(2).permutation(COUNT)
    np.save(tmp_path/'in_order.npy', counts)
    expected = read_answers(tmp_path/'in_order.npy', kept)
    assert np.allclose(expected, counts/counts.sum(1, keepdims=True))
    (tmp_path/'named.csv').write_text('dog,name,cat,ship\n' + ''.join(f'{counts[row, 1]},{kept.names[row]},{counts[row, 0]},{counts[row, 2]}\n' for row in order))
    assert np.allclose(read_answers(tmp_path/'named.csv', kept), expected)
    with pytest.raises(BadInput, match='Leave --human-labels out'): read_answers(tmp_path/'named.csv', kept, tmp_path/'labels.npy')
    by_class = order[np.argsort(order%20, kind='stable')]  # the k-th row of a class is its k-th image
    np.save(tmp_path/'official.npy', counts[by_class])
    np.save(tmp_path/'labels.npy', kept.targets[by_class].astype(np.uint8))
    assert np.allclose(read_answers(tmp_path/'official.npy', kept, tmp_path/'labels.npy'), expected)
    numbered = ClassifiedImages(kept.logits, kept.targets, np.array([f'test/{CLASSES[label]}/{place}_{CLASSES[label]}.png' for place, label in zip(order, kept.targets)]), CLASSES)
    rows = np.empty_like(counts)
    rows[order] = counts
    np.save(tmp_path/'by_number.npy', rows)
    assert np.allclose(read_answers(tmp_path/'by_number.npy', numbered), expected)


@pytest.mark.parametrize('content, says', [
    (lambda counts: counts[:-1], '59 rows, and there are 60 test images'), (lambda counts: counts[:, :2], r'shape \(60, 2\)'), (lambda counts: counts*0, 'count no people'),
    (lambda counts: -counts.astype(float), 'count no people'), (lambda counts: counts*np.nan, 'count no people'), (lambda counts: counts[::-1], 'in another order'),
    (lambda counts: counts.astype(str), 'no array of numbers'), (lambda counts: np.array([{}], object), 'no array of numbers')])
@pytest.mark.parametrize('name', ['bad.npy', 'BAD.NPY'])
def test_an_array_that_does_not_fit_is_refused(kept, counts, tmp_path, content, says, name):
    with open(tmp_path/name, 'wb') as file: np.save(file, content(counts), allow_pickle=True)
    with pytest.raises(BadInput, match=says): read_answers(tmp_path/name, kept)


@pytest.mark.parametrize('shape', ['(300000000000, 3)', '(60, 3)'])
def test_an_array_that_is_not_all_there_is_refused(kept, tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    (tmp_path/'cut.npy').write_bytes(b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header + bytes(80))
    with pytest.raises(BadInput, match='no array of numbers'): read_answers(tmp_path/'cut.npy', kept)


@pytest.mark.parametrize('text, says', [
    ('name,cat,dog\n', "line 1: 0 columns are called 'ship'"), ('name,cat,dog,ship,cow\n', "line 1: unknown column: none of ours, and no class 'cow'"),
    ('name,cat,dog,ship\nx,1,2\n', 'line 2: 3 cells, not 4'), ('name,cat,dog,ship\nx,1,-2,0\n', "line 2: '-2' of 'dog'"), ('name,cat,dog,ship\nx,1,2,0\nx,1,2,0\n', "'x' is there twice"),
    ('name,cat,dog,ship\nx,1,2,0\n', 'no row for 60 of 60 images'), ('cat,dog,ship\n1,2,0\n', '1 rows, and there are 60'), ('index,cat,dog,ship\n0,1,2,0\n', "unknown column: none of ours, and no class 'index'"), (',cat,dog,ship\n0,1,2,0\n', 'line 1: column 1 has no name')])
def test_a_table_that_does_not_fit_is_refused_by_its_line(kept, tmp_path, text, says):
    (tmp_path/'bad.csv').write_text(text)
    with pytest.raises(BadInput, match=says): read_answers(tmp_path/'bad.csv', kept)


def test_the_page_says_it_and_bears_a_file_of_another_hand(kept, counts):
    from cifar_fastai.views.report_facts import people_facts, run_numbers
    found = json.loads(json.dumps(BesidePeople(kept, counts/counts.sum(1, keepdims=True)).metrics()))
    share = f"{found['errors_alone']['value']:.1%}"
    assert dict(run_numbers({'human': found}))['errors that no person makes'] == share
    assert [title for title, _ in people_facts({'human': found})] == ['cross-entropy to people', 'errors where people are split', 'errors that no person makes', 'hard for both']
    for other in ({}, {'human': None}, {'human': {'split': 3}}, {'human': 'x'}): assert people_facts(other) == [] == run_numbers(other)


def test_no_file_and_labels_without_answers_are_refused(kept, tmp_path):
    with pytest.raises(BadInput, match='cannot be read'): read_answers(tmp_path/'none.npy', kept)
    with pytest.raises(BadWords, match='--human-labels is for --human'): main([str(tmp_path), '--human-labels', 'x.npy'])
