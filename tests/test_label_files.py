"Label files: what is written comes back, the csv module sees the same, and what does not fit is refused by its line"
import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from cifar_fastai.base.label_files import DECISIONS, DROP, ISSUES, LABEL_COLUMNS, LabelRow, accept_suggestions, read_label_rows, read_labels, write_labels, write_shares
from cifar_fastai.base.files import read_json
from cifar_fastai.base.messages import BadInput
from cifar_fastai.interpretation.human import load_array
from cifar_fastai.recipes.named import read_recipe

CLASSES = ('cat', '<b>dog</b>, "big"', 'ship 🚢')
NAMES = ('a.png', 'say "b", c.png', 'two\nlines.png')
LABELS = (0, 1, 2)
HEADER = 'index,name,given,suggested,quality,kind,label'
text = strategies.text(strategies.characters(exclude_categories=['Cs'], exclude_characters='\0'), min_size=1, max_size=12)


@given(strategies.lists(text, min_size=1, max_size=6, unique=True), strategies.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back_and_the_csv_module_sees_the_same(tmp_path, names, data):
    rows = [LabelRow(index, name, data.draw(strategies.sampled_from(CLASSES)), data.draw(strategies.sampled_from(['', *CLASSES])),
                     round(data.draw(strategies.floats(0, 1)), 4), data.draw(strategies.sampled_from(['', *ISSUES])),
                     data.draw(strategies.sampled_from(['', *CLASSES, *DECISIONS]))) for index, name in enumerate(names)]
    write_labels(tmp_path/'labels.csv', rows)
    found = read_labels(tmp_path/'labels.csv', CLASSES)
    assert sorted(found, key=lambda row: row.index) == rows and [row.quality for row in found] == sorted(row.quality for row in rows)
    with open(tmp_path/'labels.csv', encoding='utf-8', newline='') as file: table = list(csv.DictReader(file))
    assert [tuple(table[0]), [row['name'] for row in table]] == [LABEL_COLUMNS, [row.name for row in found]]


@pytest.mark.parametrize('content, line, says', [
    (f'{HEADER}\n0,a.png,cat,,1,,\n1,b.png,cat,,1,,\n', 3, "no image named 'b.png'"),
    (f'{HEADER}\n0,a.png,cat,,1,,\n0,a.png,cat,,1,,\n', 3, 'twice, first on line 2'),
    (f'{HEADER}\n0,a.png,cat,,1,,cats\n', 2, "unknown class of the column label 'cats'; did you mean 'cat'"), (f'{HEADER}\n0,a.png,cat,,1,,drop\n', 2, "did you mean '(drop)'"),
    (f'{HEADER}\n0,a.png,cat,dog,1,,\n', 2, "unknown class of the column suggested 'dog'"),
    (f'{HEADER}\n0,a.png,ship 🚢,,1,,\n', 2, "has the label 'cat', not 'ship 🚢'"),
    (f'{HEADER}\n0,a.png,cat,,nan,,\n', 2, "quality 'nan' is not a number from 0 to 1"),
    (f'{HEADER}\n0,a.png,cat,,1,odd,\n', 2, "unknown kind 'odd'"),
    (f'{HEADER}\n0,a.png,cat,,1,\n', 2, '6 cells, not 7'),
    (f'{HEADER}\n-3,a.png,cat,,1,,\n', 2, "index '-3' is not a whole number"),
    (f'{HEADER}\n0,,cat,,1,,\n', 2, 'the name is empty'),
    (f'{HEADER},cow\n', 1, "no class 'cow'"),
    ('name,label,name\n', 1, "the column 'name' is there twice"),
    ('', 1, "the column 'name' is missing"), (',name,label\n0,a.png,cat\n', 1, 'column 1 has no name'),
    ('name,cat,ship 🚢\na.png,0.5,0.2\n', 2, 'add up to 0.7'),
    ('name,label\n"a.png,cat\n', 2, 'not CSV')])
def test_one_bad_line_refuses_the_file_and_is_named(tmp_path, content, line, says):
    (tmp_path/'labels.csv').write_text(content, encoding='utf-8')
    with pytest.raises(BadInput) as caught: read_labels(tmp_path/'labels.csv', CLASSES, NAMES, LABELS)
    assert f'line {line}: ' in str(caught.value) and says in str(caught.value) and 'Nothing was taken' in str(caught.value)


def test_a_name_and_a_label_are_enough_and_columns_of_classes_are_shares(tmp_path):
    (tmp_path/'labels.csv').write_bytes('\ufefflabel,name\r\n\r\ncat,a.png\r\n(drop),"say ""b"", c.png"\r\n'.encode())
    assert [(row.name, row.label) for row in read_labels(tmp_path/'labels.csv', CLASSES, NAMES, LABELS)] == [('a.png', 'cat'), ('say "b", c.png', DROP)]
    (tmp_path/'soft.csv').write_text('name,ship 🚢,cat\na.png,0.25,0.75\n"two\nlines.png",,\n', encoding='utf-8')
    rows, shares = read_label_rows(tmp_path/'soft.csv', CLASSES, NAMES, LABELS)
    assert [line for line, _ in rows] == [2, 3] and shares == [(0.75, 0., 0.25), None]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('mark', ',;\t')
def test_what_a_spreadsheet_saves_is_read(tmp_path, mark, encoding):
    "Rows of empty cells, empty columns at the end, decimal commas, and Excel's first line"
    lines = [['name', 'quality', 'label', ''], ['a.png', '0,25' if mark == ';' else '0.25', 'cat', ''], ['', '', '', ''], ['say "b", c.png', '1', '', '']]
    text = io.StringIO()
    csv.writer(text, delimiter=mark).writerows(lines)
    for first in ('', f'sep={mark}\r\n'):
        (tmp_path/'labels.csv').write_bytes((first + text.getvalue()).encode(encoding))
        assert [(row.name, row.quality, row.label) for row in read_labels(tmp_path/'labels.csv', CLASSES, NAMES, LABELS)] == [('a.png', 0.25, 'cat'), ('say "b", c.png', 1, '')]
    (tmp_path/'labels.csv').write_bytes((f'sep={mark}\r\n' + text.getvalue().replace('cat', 'cow')).encode(encoding))
    with pytest.raises(BadInput, match="line 3: unknown class of the column label 'cow'"): read_labels(tmp_path/'labels.csv', CLASSES)


def test_our_own_files_are_read_whatever_the_classes_are_called(tmp_path):
    classes = ('a;b;c;d', 'e\tf\tg', 'h,i')
    write_shares(tmp_path/'shares.csv', ['x;y.png'], [[0.25, 0.25, 0.5]], classes)
    assert read_label_rows(tmp_path/'shares.csv', classes, ['x;y.png'], [0])[1] == [(0.25, 0.25, 0.5)]


def test_no_file_and_no_text_are_refused(tmp_path):
    with pytest.raises(BadInput, match='cannot be read'): read_labels(tmp_path/'none.csv')
    (tmp_path/'bytes.csv').write_bytes(b'name,label\n\xff\xfe,cat\n')
    with pytest.raises(BadInput, match='not UTF-8'): read_labels(tmp_path/'bytes.csv')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
@pytest.mark.parametrize('read', [read_labels, read_recipe, read_json, lambda path: load_array(path, 'the answers')])
def test_what_has_no_end_is_not_read(tmp_path, read):
    "A pipe would be waited for, and a device fills the memory"
    os.mkfifo(tmp_path/'pipe')
    for path in (tmp_path/'pipe', Path('/dev/zero')):
        with pytest.raises(BadInput, match='cannot be read: it is no plain file'): read(path)


def test_suggestions_are_taken_only_below_the_limit_and_where_nobody_decided():
    rows = [LabelRow(0, 'a', 'cat', 'dog', 0.1), LabelRow(1, 'b', 'cat', 'dog', 0.2), LabelRow(2, 'c', 'cat', 'dog', 0.05, '', 'cat'),
            LabelRow(3, 'd', 'cat', 'cat', 0.01), LabelRow(4, 'e', 'cat', '', 0.01)]
    assert [row.label for row in accept_suggestions(rows, 'quality<0.2')] == ['dog', '', 'cat', '', '']
    assert not any(row.label for row in accept_suggestions(rows[:2], 'quality<1e-3'))
    for bad in ('quality<1.2', 'quality<1e3', 'quality>0.1', 'quality', '0.2'):
        with pytest.raises(BadInput, match='no condition'): accept_suggestions(rows, bad)
