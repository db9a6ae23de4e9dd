"Marks files: what is written comes back, what does not fit is refused by its line, and pandas reads them alike"
import csv
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from cifar_fastai.interpretation.predictions import ClassifiedImages
from cifar_fastai.base.label_files import LABEL_COLUMNS, read_labels
from cifar_fastai.interpretation.marks import MARK_COLUMNS, VERDICTS, Mark, mark_image, read_marks, write_marks
from cifar_fastai.base.messages import BadInput

HEADER = 'index,name,actual,predicted,verdict,suggested_label'
NAMES = ['a.png', 'say "b", c.png', "it's\nfour\r\nlines\rlong 🐕.png", '<script>alert(1)</script>', ' =1+1 ', '']
CLASSES = ('cat', '<b>dog</b>, "big"', 'ship 🚢')


def kept_of(names, classes, seed=0):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(len(names), len(classes))).astype(np.float32)
    return ClassifiedImages(logits, draw.integers(0, len(classes), len(names)), np.array(names, dtype=str), tuple(classes))


KEPT = kept_of(NAMES, CLASSES)
ROW = f'0,a.png,{KEPT.classes[KEPT.targets[0]]},cat,ambiguous,'
OTHER = next(name for name in ('cat', 'ship 🚢') if name != KEPT.classes[KEPT.targets[0]])

text = strategies.text(strategies.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=12)


@given(strategies.lists(text, min_size=1, max_size=8), strategies.lists(text.filter(bool), min_size=2, max_size=5, unique=True), strategies.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back_and_the_csv_module_and_pandas_see_the_same(tmp_path, names, classes, data):
    kept = kept_of(names, classes)
    marks = {}
    for index in data.draw(strategies.permutations(range(len(kept)))):
        verdict = data.draw(strategies.sampled_from([None, *VERDICTS]))
        others = [name for name in kept.classes if name != kept.classes[kept.targets[index]]]
        suggested = data.draw(strategies.sampled_from(['', *others])) if verdict == 'label looks wrong' else ''
        if verdict: marks[index] = mark_image(kept, index, verdict, suggested)
    path = tmp_path/'marks.csv'
    write_marks(path, marks.values())
    found = read_marks(path, kept)
    assert found == marks and list(found) == sorted(marks)
    with open(path, encoding='utf-8', newline='') as file: rows = list(csv.DictReader(file))
    wanted = {'ambiguous': lambda mark: '(unsure)', "model's fault": lambda mark: mark.actual, 'label looks wrong': lambda mark: mark.suggested_label or '(drop)'}
    assert [(int(row['index']), row['name'], row['given'], row['suggested'], row['label']) for row in rows] == [
        (index, marks[index].name, marks[index].actual, marks[index].predicted, wanted[marks[index].verdict](marks[index])) for index in sorted(marks)]
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    assert ','.join(table.columns) == ','.join(LABEL_COLUMNS) and table['label'].tolist() == [row['label'] for row in rows]
    path.write_text(HEADER + '\n', newline='')
    with open(path, 'a', encoding='utf-8', newline='') as file: csv.writer(file).writerows([vars(mark).values() for mark in marks.values()])
    assert read_marks(path, kept) == marks  # as an earlier version wrote them


@pytest.mark.parametrize('line_end', ['\n', '\r\n'])
@pytest.mark.parametrize('start', ['', '\ufeff'])
def test_what_a_spreadsheet_makes_of_it_is_read_too(tmp_path, line_end, start):
    "All cells quoted, a byte-order mark, blank lines, rows in another order"
    (tmp_path/'marks.csv').write_bytes((start + HEADER + line_end*2 + line_end.join([
        f'"3","{NAMES[3]}","{CLASSES[KEPT.targets[3]]}","cat","model\'s fault",""'.replace('big"', 'big""').replace(', "', ', ""'), ROW, '']) + line_end).encode())
    found = read_marks(tmp_path/'marks.csv', KEPT)
    assert [(mark.index, mark.verdict) for mark in found.values()] == [(0, 'ambiguous'), (3, "model's fault")]


BAD = {
    'unknown name': (['9,z.png,cat,cat,ambiguous,'], 2, "no image named 'z.png'"),
    'index of another': ([ROW.replace('0,', '1,', 1)], 2, "index 1 is 'say"),
    'index too large': ([ROW.replace('0,', '6,', 1)], 2, 'from 0 to 5'),
    'index negative': ([ROW.replace('0,', '-1,', 1)], 2, 'whole number'),
    'index not a number': ([ROW.replace('0,', '0.0,', 1)], 2, 'whole number'),
    'index in other digits': ([ROW.replace('0,', '٠,', 1)], 2, 'whole number'),
    'index of a thousand digits': ([ROW.replace('0,', '9'*1000 + ',', 1)], 2, 'whole number'),
    'marked twice': ([ROW, '', ROW], 4, 'first on line 2'),
    'unknown class': ([ROW.replace(',cat,amb', ',cta,amb')], 2, "did you mean 'cat'"),
    'unknown suggestion': ([ROW.replace('ambiguous,', 'label looks wrong,catt')], 2, "did you mean 'cat'"),
    'no predicted class': ([ROW.replace(',cat,amb', ',,amb')], 2, 'unknown class'),
    'class of huge length': ([ROW.replace(',cat,amb', f",{'c'*9999},amb")], 2, 'unknown class'),
    'another label': ([f'0,a.png,{OTHER},cat,ambiguous,'], 2, 'of other data'),
    'wrong verdict': ([ROW.replace('ambiguous', 'ambigous')], 2, "did you mean 'ambiguous'"),
    'suggestion with another verdict': ([f'{ROW}{OTHER}'], 2, 'goes with'),
    'suggestion is the label': ([ROW.replace('ambiguous,', 'label looks wrong,"' + CLASSES[KEPT.targets[0]].replace('"', '""') + '"')], 2, 'label that the image has'),
    'too few cells': ([ROW, '1,b'], 3, '2 cells, not 6'),
    'too many cells': ([ROW + ',1'], 2, '7 cells, not 6'),
    'an open quote': ([ROW, '"1,b'], 3, 'not CSV'),
    'rubbish after a quote': (['"0"x,a.png'], 2, 'not CSV'),
    'an endless cell': (['"' + 'a'*200_000 + '"'], 2, 'not CSV'),
    'after a name of many lines': ([f'2,"{NAMES[2]}",cat,cat,ambiguous,'.replace(',cat,cat', f',{KEPT.classes[KEPT.targets[2]]},cat'), ROW, ROW], 7, 'marked twice')}
BAD['after a name of many lines'][0][0] = '2,"' + NAMES[2] + '","' + CLASSES[KEPT.targets[2]].replace('"', '""') + '",cat,ambiguous,'


@pytest.mark.parametrize('case', BAD)
def test_a_line_that_does_not_fit_is_named_and_nothing_is_applied(tmp_path, case):
    lines, number, message = BAD[case]
    (tmp_path/'marks.csv').write_text('\n'.join([HEADER, *lines]), encoding='utf-8', newline='')
    with pytest.raises(BadInput) as error: read_marks(tmp_path/'marks.csv', KEPT)
    said = str(error.value)
    assert re.search(rf'marks\.csv, line {number}: ', said) and message in said and 'No mark was taken' in said
    assert len(said.splitlines()) <= 5 and len(said) < 700


@pytest.mark.parametrize('content, message', [
    (b'', 'the first line must be'), (b'\n\n', 'the first line must be'), (ROW.encode(), 'the first line must be'),
    (HEADER.upper().encode(), 'the first line must be'),
    (b'\x89PNG\r\n\x1a\n\x00\x00', 'not UTF-8'), (HEADER.encode('latin-1') + b'\xe9', 'not UTF-8'), (b'\x00'*100, 'the first line must be')])
def test_what_is_no_marks_file(tmp_path, content, message):
    (tmp_path/'marks.csv').write_bytes(content)
    with pytest.raises(BadInput, match=message): read_marks(tmp_path/'marks.csv', KEPT)


def test_missing_a_folder_or_huge(tmp_path):
    with pytest.raises(BadInput, match='cannot be read'): read_marks(tmp_path/'none.csv', KEPT)
    with pytest.raises(BadInput, match='cannot be read'): read_marks(tmp_path, KEPT)
    with open(tmp_path/'huge.csv', 'wb') as file: file.truncate(2**28 + 1)
    with pytest.raises(BadInput, match='larger than such a file can be'): read_marks(tmp_path/'huge.csv', KEPT)


def test_marks_outlive_a_model_but_not_its_data(tmp_path):
    other = ClassifiedImages(-KEPT.logits, KEPT.targets, KEPT.names, KEPT.classes)
    assert (other.predicted != KEPT.predicted).any()
    marks = {index: mark_image(KEPT, index, 'ambiguous') for index in range(len(KEPT))}
    write_marks(tmp_path/'marks.csv', marks.values())
    assert read_marks(tmp_path/'marks.csv', other) == marks
    relabelled = ClassifiedImages(KEPT.logits, (KEPT.targets + 1) % 3, KEPT.names, KEPT.classes)
    with pytest.raises(BadInput, match='line 2: .*other data'): read_marks(tmp_path/'marks.csv', relabelled)


def test_names_that_no_file_can_hold_are_written_and_found_again(tmp_path):
    kept = kept_of(['photo\udce9.png', 'b.png'], ('a', 'b'))
    marks = {0: mark_image(kept, 0, 'ambiguous')}
    write_marks(tmp_path/'marks.csv', marks.values())
    assert read_marks(tmp_path/'marks.csv', kept) == marks and marks[0].name == 'photo?.png'


def test_the_columns_are_the_format_and_a_mark_cannot_be_changed(tmp_path):
    write_marks(tmp_path/'none.csv', [])
    assert ','.join(MARK_COLUMNS) == HEADER and (tmp_path/'none.csv').read_bytes().decode() == ','.join(LABEL_COLUMNS) + '\r\n'
    with pytest.raises(AttributeError): Mark(0, 'a', 'b', 'c', 'ambiguous').verdict = 'other'
    with pytest.raises(BadInput, match='no image 6'): mark_image(KEPT, 6, 'ambiguous')
    with pytest.raises(BadInput, match='no image -1'): mark_image(KEPT, -1, 'ambiguous')


LABELS = ','.join(LABEL_COLUMNS)
GIVEN, OTHERS = KEPT.classes[KEPT.targets[0]], [name for name in KEPT.classes if name != KEPT.classes[KEPT.targets[0]]]


@pytest.mark.parametrize('label, wanted', [('', None), ('(unsure)', ('ambiguous', '')), ('(drop)', ('label looks wrong', '')), (GIVEN, ("model's fault", '')), (OTHERS[0], ('label looks wrong', OTHERS[0]))])
def test_a_labels_file_is_a_marks_file(tmp_path, label, wanted):
    with open(tmp_path/'labels.csv', 'w', encoding='utf-8', newline='') as file: csv.writer(file).writerows([LABEL_COLUMNS, [0, 'a.png', GIVEN, OTHERS[0], '0.25', 'wrong', label]])
    found = read_marks(tmp_path/'labels.csv', KEPT)
    assert {index: (mark.verdict, mark.suggested_label) for index, mark in found.items()} == ({} if wanted is None else {0: wanted})
    write_marks(tmp_path/'marks.csv', found.values())
    assert [row.label for row in read_labels(tmp_path/'marks.csv', KEPT.classes)] == [label]*bool(wanted)


@pytest.mark.parametrize('row, message', [
    ([0, 'z.png', GIVEN, '', '', '', OTHERS[0]], "no image named 'z.png'"), ([1, 'a.png', GIVEN, '', '', '', OTHERS[0]], 'index 1 is'),
    ([0, 'a.png', OTHERS[0], '', '', '', '(unsure)'], 'of other data'), ([0, 'a.png', GIVEN, '', '', '', 'catt'], 'unknown class'), ([0, 'a.png', '', '', '', '', 'cat'], 'given label is empty')])
def test_a_row_of_a_labels_file_that_does_not_fit(tmp_path, row, message):
    with open(tmp_path/'labels.csv', 'w', encoding='utf-8', newline='') as file: csv.writer(file).writerows([LABEL_COLUMNS, row])
    with pytest.raises(BadInput, match=f'line 2: .*{message}'): read_marks(tmp_path/'labels.csv', KEPT)
