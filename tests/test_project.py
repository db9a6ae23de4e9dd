"The notebooks are the source: they run, they are clean, and the modules are what they export"
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NBDEV = Path(sys.executable).parent


def copied(folder):
    "The checkout without what it was not committed with"
    ignored = shutil.ignore_patterns('.venv', '.git', '__pycache__', '*.egg-info', 'build', 'dist', '.pytest_cache')
    def left_out(place, names): return ignored(place, names) | ({'runs'} & set(names) if Path(place) != ROOT/'cifar_fastai' else set())
    return shutil.copytree(ROOT, folder/'checkout', ignore=left_out)


def test_git_leaves_no_module_out():
    if not (ROOT/'.git').exists(): pytest.skip('not a checkout')
    modules = '\n'.join(str(path.relative_to(ROOT)) for path in (ROOT/'cifar_fastai').rglob('*.py') if path.name != '_modidx.py')
    ignored = subprocess.run(['git', 'check-ignore', '--no-index', '--stdin'], input=modules, cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout == '', ignored.stderr


def differing(one, other, pattern):
    names = sorted({str(path.relative_to(folder)) for folder in (one, other) for path in folder.rglob(pattern) if '__pycache__' not in str(path) and path.name != '_modidx.py'})
    return [name for name in names if not ((one/name).is_file() and (other/name).is_file() and (one/name).read_bytes() == (other/name).read_bytes())]


@pytest.mark.slow
def test_modules_are_what_the_notebooks_export_and_notebooks_are_clean(tmp_path):
    copy = copied(tmp_path)
    shutil.rmtree(copy/'cifar_fastai')
    (copy/'cifar_fastai').mkdir()
    shutil.copy(ROOT/'cifar_fastai'/'__init__.py', copy/'cifar_fastai')
    subprocess.run([NBDEV/'nbdev-export'], cwd=copy, check=True)
    subprocess.run([NBDEV/'nbdev-clean'], cwd=copy, check=True)
    assert differing(ROOT/'cifar_fastai', copy/'cifar_fastai', '*.py') == []
    assert differing(ROOT/'nbs', copy/'nbs', '*.ipynb') == []


@pytest.mark.slow
def test_every_notebook_runs(tmp_path):
    "In one process, so that torch and fastai are imported once"
    checkout = copied(tmp_path)
    environment = {**os.environ, 'PYTHONPATH': str(checkout), 'OMP_NUM_THREADS': '1'}
    environment.pop('CIFAR_FASTAI_DATA', None)
    code = 'import gc, os, cifar_fastai.all; from nbdev.test import nbdev_test; gc.freeze(); nbdev_test(n_workers=0); os._exit(0)'  # at a usual exit each notebook's shell collects garbage, a second each
    done = subprocess.run([sys.executable, '-c', code], cwd=checkout, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


BELOW = {  # which wings a wing may import; a door, alone at the root, may import all of them
    'base': '', 'recipes': 'base', 'heatmaps': 'base', 'data': 'base recipes', 'models': 'base recipes', 'interpretation': 'base recipes heatmaps', 'labels': 'base recipes heatmaps interpretation',
    'training': 'base recipes data models', 'profiling': 'base recipes data models training',
    'runs': 'base recipes heatmaps data models interpretation training profiling',
    'views': 'base recipes heatmaps interpretation runs',
    'comparison': 'base recipes heatmaps data models interpretation labels training profiling runs views',
    'search': 'base recipes heatmaps data models interpretation labels training profiling runs views comparison',
    'export': 'base recipes heatmaps data models interpretation training runs views'}
DOORS = {'look', 'train', 'interpret', 'report', 'compare', 'profile', 'explore', 'predict', 'cli', 'all', '__main__'}


def notebooks(examples=False):
    "Module and exported source of each library notebook, in reading order; with `examples` all of its code"
    for path in sorted((ROOT/'nbs').glob('[0-9]*/*.ipynb')):
        cells = [''.join(cell['source']) for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code']
        module = re.search(r'#\| default_exp ([\w.]+)', '\n'.join(cells))
        assert module, f'{path} exports nowhere'
        yield module[1], '\n'.join(cell for cell in cells if examples or cell.startswith('#| export'))


def imported(source, modules):
    "The modules of ours that a source imports, also inside its functions and by way of their packages"
    code = '\n'.join('pass' if line.lstrip().startswith(('%', '!')) else line for line in source.splitlines())
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom): names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
        else: continue
        yield from (name.removeprefix('cifar_fastai.') for name in names if name.removeprefix('cifar_fastai.') in modules)


def broken_rules(found, order_only=False):
    "Imports that lead up, or into a wing that is closed to the importer; `found` has modules and sources in reading order"
    modules, seen = {module for module, _ in found}, set()
    for module, source in found:
        wing = '' if module.endswith('.__main__') else module.rpartition('.')[0]  # the door of a wing
        for name in set(imported(source, modules)):
            other = name.rpartition('.')[0]
            if order_only: allowed = True
            elif not other: allowed = not wing
            else: allowed = not wing or other == wing or other in BELOW[wing].split()
            if not allowed or (name not in seen and name != module): yield f'{module} imports {name}'
        seen.add(module)


def test_who_may_import_whom():
    found = list(notebooks())
    wings = {module.rpartition('.')[0] for module, _ in found}
    assert wings - {''} == set(BELOW) and {module for module, _ in found if '.' not in module} == DOORS
    assert list(broken_rules(found)) == []


def test_examples_import_only_what_comes_before():
    assert list(broken_rules(list(notebooks(examples=True)), order_only=True)) == []


def test_the_rule_of_imports_sees_what_breaks_it():
    up = [('base.files', 'def f():\n    from cifar_fastai.runs.files import load_run'), ('runs.files', '')]
    across = [('training.learner', ''), ('views.pages', 'from cifar_fastai.training import learner')]
    door = [('train', ''), ('runs.files', 'import cifar_fastai.train')]
    later = [('base.files', 'from cifar_fastai.base.messages import BadInput'), ('base.messages', '')]
    for found in (up, across, door, later): assert len(list(broken_rules(found))) == 1
    assert [len(list(broken_rules(found, order_only=True))) for found in (across, later)] == [0, 1]


def test_the_folders_of_notebooks_are_the_wings():
    for path in sorted((ROOT/'nbs').glob('[0-9]*/*.ipynb')):
        module = re.search(r'#\| default_exp ([\w.]+)', path.read_text())[1]
        folder, name = path.parent.name.partition('_')[2], path.stem.partition('_')[2]
        assert module in ((name, f'{name}.__main__') if folder == 'doors' else (f'{folder}.{name}',))


def shown(path):
    "The text and the pictures that a notebook was committed with"
    cells = [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == 'code']
    for output in (output for cell in cells for output in cell['outputs']):
        for kind, content in {'text/plain': output.get('text', ''), **output.get('data', {})}.items(): yield kind, ''.join(content)


@pytest.mark.parametrize('path', sorted((ROOT/'nbs').glob('[0-9]*/*.ipynb')), ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_every_notebook_shows_an_example_and_no_place_of_the_machine(path):
    found = list(shown(path))
    assert found, 'no output is kept: nbdev-test PATH --save --n-workers 0 keeps it, nbdev-clean tidies it'
    assert all(kind.startswith('text/') or kind in ('image/png', 'image/svg+xml') for kind, _ in found)
    assert not any(re.search('/tmp/|/home/|/root/|site-packages|Warning: ', content) for kind, content in found if kind.startswith('text/'))


def test_wings_are_empty_and_no_module_is_too_long_or_imports_everything():
    for path in (ROOT/'cifar_fastai').rglob('*.py'):
        text = path.read_text()
        if path.name == '__init__.py': assert path.parent == ROOT/'cifar_fastai' or not text.strip(), path
        elif path.name not in ('_modidx.py', 'all.py'):
            assert len(text.splitlines()) <= 300 and 'import *' not in text, path


def test_the_package_says_what_it_is_and_its_version():
    code = 'import json, sys, cifar_fastai; print(json.dumps([cifar_fastai.__doc__, cifar_fastai.__version__, sorted(sys.modules)]))'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    outside = json.loads(subprocess.run([sys.executable, '-S', '-c', code], env=environment, capture_output=True, text=True, check=True).stdout)
    wanted = re.search(r'^version = (\S+)$', (ROOT/'settings.ini').read_text(encoding='utf-8'), re.M)[1]
    assert outside[1] == wanted  # without site-packages: a checkout that nobody installed
    introduction = next(cell for cell in json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells'] if cell['id'] == '10000002')
    assert outside[0] == ''.join(introduction['source']).removeprefix('#| export\n\n')
    assert 'numpy' not in outside[2]
    with pytest.raises(ImportError): from cifar_fastai import nothing


def test_the_planted_faults_fit_the_package():
    "`tests/planted.py` replaces texts of the modules; a change of theirs is a change of its list"
    from planted import stale
    from planted_faults import FAULTS
    assert not [f'{fault.name}: {why}' for fault in FAULTS if (why := stale(fault))]
