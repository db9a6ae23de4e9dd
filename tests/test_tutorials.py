"The tutorials as they are committed; that they run is in test_project.py"
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]/'nbs'/'tutorials'
NAMES = sorted(path.name for path in FOLDER.glob('*.ipynb'))


def code_cells(name): return [cell for cell in json.loads((FOLDER/name).read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']


def test_there_are_four_and_the_readme_leads_to_each():
    readme = (FOLDER.parents[1]/'README.md').read_text(encoding='utf-8')
    assert len(NAMES) == 4
    for name in NAMES: assert f'(nbs/tutorials/{name})' in readme


@pytest.mark.parametrize('name', NAMES)
def test_it_is_an_article_with_pictures_and_exports_nothing(name):
    cells = code_cells(name)
    source = '\n'.join(''.join(cell['source']) for cell in cells)
    assert '#|' not in source
    outputs = [output for cell in cells for output in cell['outputs']]
    assert sum('image/png' in output.get('data', {}) for output in outputs) >= 1
    assert not any(output['output_type'] == 'error' for output in outputs)
    assert (FOLDER/name).stat().st_size < 2.5e6


@pytest.mark.parametrize('name', NAMES)
def test_the_output_names_no_machine_and_warns_of_nothing(name):
    text = json.dumps([[{kind: value for kind, value in output.get('data', {}).items() if not kind.startswith('image')}, output.get('text')]
                       for cell in code_cells(name) for output in cell['outputs']])
    assert not re.search(r'(?<![\w.])/(home|root|tmp|work|usr|Users)/|[A-Z]:\\\\|Warning|localhost', text)


def first_cell(): return ''.join(code_cells(NAMES[0])[0]['source'])


def installs(folder, monkeypatch, address=''):
    "What the first cell hands to pip where the package is missing, in that folder"
    monkeypatch.chdir(folder)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    code = re.sub(r"^    %pip install --quiet '\{project\}'$", '    asked.append(project)', first_cell(), flags=re.M)
    asked = []
    exec(code.replace("address = ''", f'address = {address!r}'), {'asked': asked})
    return asked


@pytest.mark.parametrize('name', NAMES)
def test_the_first_cell_is_the_same_everywhere_and_knows_the_address_of_the_project(name):
    assert ''.join(code_cells(name)[0]['source']) == first_cell()
    url = re.search(r'^url = *(.*)$', (FOLDER.parents[1]/'settings.ini').read_text(encoding='utf-8'), re.M)[1]
    assert f'address = {url!r}  #' in first_cell()


def test_the_first_cell_does_nothing_where_the_package_is():
    exec(re.sub('^ *%pip .*$', '    raise AssertionError', first_cell(), flags=re.M), {})


def test_the_first_cell_takes_a_wheel_then_a_checkout_then_the_address(tmp_path, monkeypatch):
    (tmp_path/'nbs'/'tutorials').mkdir(parents=True)
    with pytest.raises(AssertionError, match='Put its wheel beside this notebook'): installs(tmp_path, monkeypatch)
    assert installs(tmp_path, monkeypatch, 'https://example.org/x') == ['cifar_fastai[notebook] @ git+https://example.org/x']
    (tmp_path/'cifar_fastai').mkdir()
    (tmp_path/'cifar_fastai'/'all.py').touch()
    assert installs(tmp_path/'nbs'/'tutorials', monkeypatch, 'https://example.org/x') == [f'{tmp_path}[notebook]']
    wheel = tmp_path/'nbs'/'tutorials'/'cifar_fastai-0.1.0-py3-none-any.whl'
    wheel.touch()
    assert installs(wheel.parent, monkeypatch) == [f'{wheel}[notebook]']
