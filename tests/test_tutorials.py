"The tutorials as they are committed; that they run is in test_project.py"
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]/'nbs'/'tutorials'
NAMES = sorted(path.name for path in FOLDER.glob('*.ipynb'))


def code_cells(name): return [cell for cell in json.loads((FOLDER/name).read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']


def test_there_are_three_and_the_readme_leads_to_each():
    readme = (FOLDER.parents[1]/'README.md').read_text(encoding='utf-8')
    assert len(NAMES) == 3
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


@pytest.mark.parametrize('name', NAMES)
def test_the_first_cell_does_nothing_where_the_package_is(name):
    first = ''.join(code_cells(name)[0]['source'])
    lines = first.splitlines()
    assert lines[1] == "if importlib.util.find_spec('cifar_fastai') is None:" and all(line.startswith('    ') for line in lines[2:])
    assert "%pip install" in lines[-1] and lines[0] == 'import importlib.util, os'
