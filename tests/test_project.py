"The notebooks are the source: they run, they are clean, and the modules are what they export"
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NBDEV = Path(sys.executable).parent


def copied(folder):
    "The checkout without what it was not committed with"
    ignored = shutil.ignore_patterns('.venv', '.git', 'runs', '__pycache__', '*.egg-info', 'build', 'dist', '.pytest_cache')
    return shutil.copytree(ROOT, folder/'checkout', ignore=ignored)


def differing(one, other, pattern):
    names = sorted({str(path.relative_to(folder)) for folder in (one, other) for path in folder.rglob(pattern) if '__pycache__' not in str(path)})
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
    copy = copied(tmp_path)
    environment = {**os.environ, 'PYTHONPATH': str(copy), 'OMP_NUM_THREADS': '1'}
    environment.pop('CIFAR_FASTAI_DATA', None)
    done = subprocess.run([NBDEV/'nbdev-test', 'nbs', '--n-workers', '2'], cwd=copy, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_a_notebook_imports_only_lower_ones():
    import json
    import re
    order = {}
    for path in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')):
        source = '\n'.join(''.join(cell['source']) for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code')
        order[re.search(r'#\| default_exp (\w+)', source)[1]] = (path.name, source)
    seen = set()
    for module, (name, source) in order.items():
        wanted = set(re.findall(r'^(?:from|import) cifar_fastai\.(\w+)', source, re.M))
        assert wanted <= seen, (name, wanted - seen)
        seen.add(module)


def test_no_module_is_too_long_and_none_imports_everything():
    for path in (ROOT/'cifar_fastai').glob('*.py'):
        text = path.read_text()
        if path.name not in ('_modidx.py', 'all.py'):
            assert len(text.splitlines()) <= 320 and 'import *' not in text, path.name
