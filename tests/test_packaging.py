"What a person installs: an sdist that builds, a wheel that trains, and every import declared"
import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_project import ROOT, copied

EXTRAS = 'timm', 'export', 'hub', 'tensorboard', 'wandb', 'mlflow', 'trackio', 'search', 'distributed', 'ray', 'slurm'  # whose libraries are imported inside functions, and refused by name where they are missing


def settings():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def build(kind, source, folder):
    "An `sdist` or a `wheel` of the sources in a folder, made by setuptools as pip would, without the network"
    folder.mkdir()
    code = f'from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})'
    done = subprocess.run([sys.executable, '-c', code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(folder.iterdir())


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel, built from an sdist, built from what is committed"
    folder = tmp_path_factory.mktemp('packages')
    sdist = build('sdist', copied(folder), folder/'sdist')
    with tarfile.open(sdist) as archive: archive.extractall(folder/'unpacked')
    return build('wheel', next((folder/'unpacked').iterdir()), folder/'wheel')


@pytest.mark.slow
def test_the_wheel_trains_in_an_environment_of_its_own_outside_the_checkout(wheel, tiny_folder, tmp_path):
    venv.create(tmp_path/'venv', symlinks=True)
    programs = tmp_path/'venv'/('Scripts' if os.name == 'nt' else 'bin')
    python = programs/Path(sys.executable).name
    python = python if python.exists() else programs/'python'
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'FASTAI_HOME': str(tmp_path/'home')}
    environment.pop('PYTHONPATH', None)
    subprocess.run([sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--no-index', wheel], env=environment, check=True)
    ours = subprocess.run([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], env=environment, capture_output=True, text=True).stdout.strip()
    (Path(ours)/'theirs.pth').write_text('\n'.join({sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}))  # the requirements, as they are here
    command = ['train', '--recipe', 'demo', '--data', tiny_folder, '--epochs', '1', '--width', '4', '--device', 'cpu', '--name', 'first']
    done = subprocess.run([programs/'cifar-fastai', *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(r'^epoch 1/1  train', done.stdout, re.M), done.stdout + done.stderr
    page = (tmp_path/'runs'/'first'/'report.html').read_text(encoding='utf-8')
    for asset in (ROOT/'cifar_fastai'/'views'/'assets').glob('report*.css'): assert asset.read_text(encoding='utf-8').strip()[:200] in page
    where = subprocess.run([python, '-m', 'cifar_fastai', '--version'], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert where.stdout == f"cifar_fastai {settings()['version']}\n"
    where = subprocess.run([python, '-c', 'import cifar_fastai; print(cifar_fastai.__file__)'], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(ours)


def test_the_wheel_holds_every_module_and_asset_and_says_who_it_is(wheel):
    committed = {str(path.relative_to(ROOT)) for path in (ROOT/'cifar_fastai').rglob('*') if path.is_file() and '__pycache__' not in path.parts} - {'cifar_fastai/_modidx.py'}  # nbdev writes it, and nobody reads it
    with zipfile.ZipFile(wheel) as archive: held = {name for name in archive.namelist() if '.dist-info/' not in name}
    assert held == committed
    metadata = metadata_of(wheel)
    assert metadata['Version'] == settings()['version'] and metadata['Requires-Python'] == settings()['python_requires']
    tested = {f'Programming Language :: Python :: {minor}' for minor in settings()['python_tested'].split()}
    assert tested <= set(metadata.get_all('Classifier')) and 'License :: OSI Approved :: Apache Software License' in metadata.get_all('Classifier')


def test_the_address_in_settings_becomes_the_links(tmp_path):
    copy = copied(tmp_path)
    text = (copy/'settings.ini').read_text(encoding='utf-8')
    (copy/'settings.ini').write_text(re.sub(r'^url =.*$', 'url = https://example.org/ours', text, flags=re.M), encoding='utf-8')
    links = metadata_of(build('wheel', copy, tmp_path/'wheel')).get_all('Project-URL')
    assert 'Homepage, https://example.org/ours' in links and 'Changelog, https://example.org/ours/blob/main/CHANGELOG.md' in links


def imported():
    "The distributions that the package imports, anywhere, and a module that does"
    homes, found = importlib.metadata.packages_distributions(), {}
    for path in (ROOT/'cifar_fastai').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level: names = [node.module]
            else: continue
            for name in {name.partition('.')[0] for name in names} - {'cifar_fastai'} - sys.stdlib_module_names:
                found[canonicalize_name(homes.get(name, [name])[0])] = path.name
    return found


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    def named(text): return {canonicalize_name(Requirement(word).name) for word in text.split()}
    core, optional = named(settings()['requirements']), named(settings()['notebook_requirements'])
    found, extras = imported(), set().union(*(named(settings()[f'{extra}_requirements']) for extra in EXTRAS))
    extras |= {name.removesuffix('-skinny') for name in extras}  # mlflow-skinny is imported as mlflow
    assert {name: path for name, path in found.items() if name not in core | extras and not (name in optional and path in ('explorer.py', 'controls.py'))} == {}
    assert core <= set(found)


def test_the_changelog_and_the_citation_are_of_this_version():
    version, text = settings()['version'], (ROOT/'CITATION.cff').read_text(encoding='utf-8')
    assert f'\nversion: {version}\n' in text and f"\ntitle: {settings()['name']}\n" in text
    assert re.search(r'^## \[(.+?)\]', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)[1] == version


def test_the_changelog_leads_to_modules_that_exist():
    text = (ROOT/'CHANGELOG.md').read_text(encoding='utf-8').partition('### Moved')[2].partition('\n## ')[0]
    rows = re.findall(r'^\| (`.+?) \| (.+?) \|$', text, re.M)
    assert len(rows) > 30
    modules = {'.'.join(path.relative_to(ROOT/'cifar_fastai').with_suffix('').parts) for path in (ROOT/'cifar_fastai').rglob('*.py')}
    for old, new in rows[1:]:
        names = re.findall('`(.+?)`', new)
        if 'and the same name' in new: names = [names[0] + name for name in re.findall('`(.+?)`', old)]
        elif new == 'where they were': names = re.findall('`(.+?)`', old)
        for name in names: assert name in modules or name.rpartition('.')[0] in modules, name
