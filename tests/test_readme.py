"README and docs: their commands parse, their links lead somewhere, their Python names exist, and the README is short"
import ast
import builtins
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from cifar_fastai.cli import COMMANDS, PACKAGES, console_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT/'README.md', ROOT/'SECURITY.md', ROOT/'benchmarks'/'README.md', *sorted((ROOT/'docs').glob('*.md'))]
MORE = [*PAGES, ROOT/'CONTRIBUTING.md'] # in its commands NAME stands for a name


def ids(page): return str(page.relative_to(ROOT))


def commands(text):
    "The words of each line that calls a command of ours, continued lines joined, comments left out"
    lines = text.replace('\\\n', ' ').splitlines() + re.findall(r'`([^`\n]+)`', text)
    for line in lines:
        words = re.match(r'(?:[A-Z_]+=\S+ )*(?:cifar-fastai +|python -m cifar_fastai[. ])(\w.*)', line.strip())
        if words and not ('`' in line or line.startswith('#')): yield shlex.split(words[1], comments=True)


def parser_of(name): return getattr(import_module(f"cifar_fastai.{name}{'.__main__' if name in PACKAGES else ''}"), f'{name}_parser')()


def parse(words):
    "The options that the command's own parser makes of its words, checked by their rules"
    name, *rest = [word for word in words if word not in ('--help', '--version')]
    return parser_of(name).parse_args(rest)


def headings(page):
    "The names by which a page's headings are linked to"
    found = re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.M | re.S), flags=re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in found}


def broken_links(page):
    "Links and pictures of a page that lead nowhere in the checkout"
    text = page.read_text(encoding='utf-8')
    for link in re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r'https?:', link): continue
        path, _, heading = link.partition('#')
        target = page.parent/path if path else page
        if not target.exists() or (heading and heading not in headings(target)): yield link


def python_blocks(text): return re.findall(r'^```python\n(.*?)^```', text, flags=re.M | re.S)


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_every_command_parses(page):
    for words in commands(page.read_text(encoding='utf-8')): parse(words)


@pytest.mark.parametrize('page', MORE, ids=ids)
def test_every_option_that_is_named_exists(page):
    known = {word for parser in [console_parser(), *map(parser_of, COMMANDS)] for word in parser._option_string_actions}
    text = re.sub(r'^```.*?^```|^    .*?$', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
    for code in re.findall(r'`([^`\n]+)`', text):
        if not re.search('benchmarks/|^--multi_gpu$', code): assert set(re.findall(r'(?<!\S)--[a-z][a-z0-9-]*', code)) <= known, code


def test_the_commands_are_found_and_wrong_ones_refused(capsys):
    assert {words[0] for words in commands((ROOT/'README.md').read_text(encoding='utf-8'))} == {'train', 'look', 'report', 'interpret', 'compare', 'search', 'labels', 'predict', 'export'}
    for wrong in ('cifar-fastai train --epoch-count 3', 'python -m cifar_fastai.report', 'cifar-fastai train \\\n  --arch resnet7'):
        with pytest.raises((SystemExit, ValueError)): parse(next(commands(wrong)))


@pytest.mark.parametrize('page', MORE, ids=ids)
def test_every_link_leads_somewhere(page): assert list(broken_links(page)) == []


def test_a_link_to_nowhere_is_seen(tmp_path):
    page = tmp_path/'page.md'
    page.write_text('# One\n[a](#one) [b](page.md#two) ![c](no.png) [d](https://example.org)')
    assert list(broken_links(page)) == ['page.md#two', 'no.png']


def test_the_readme_leads_to_each_page_of_docs():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    for page in (ROOT/'docs').glob('*.md'): assert f'(docs/{page.name}' in text


def test_the_readme_is_short():
    text = re.sub(r'^```.*?^```$', '', (ROOT/'README.md').read_text(encoding='utf-8'), flags=re.M | re.S)
    assert sum(len(line.split()) for line in text.splitlines() if not line.startswith(('    ', '|'))) <= 900


def strange_names(blocks):
    "Names and attributes in blocks of Python that neither they nor the package have"
    ours = import_module('cifar_fastai.all')
    classes = dict(interpretation=[ours.CifarInterpretation], run=[ours.Run], learner=[ours.CifarLearner],
                   loaders=[ours.CifarDataLoaders, ours.TfmdDL])  # DataLoaders hand on what they don't know to their first loader
    known = {*dir(builtins), *ours.__all__}
    for block in blocks:
        nodes = list(ast.walk(ast.parse(block)))
        known |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.names[0].name != '*':
                for alias in node.names: known.add(alias.name) if hasattr(import_module(node.module), alias.name) else (yield alias.name)
        yield from (node.id for node in nodes if isinstance(node, ast.Name) and node.id not in known)
        for node in nodes:
            if not isinstance(node, ast.Attribute): continue
            owners = classes.get(ast.unparse(node.value).rpartition('.')[2], [])
            if owners and not any(hasattr(owner, node.attr) or node.attr in getattr(owner, '__annotations__', {}) for owner in owners): yield ast.unparse(node)


@pytest.mark.parametrize('page', PAGES, ids=ids)
def test_every_name_in_a_python_block_exists(page):
    blocks = python_blocks(page.read_text(encoding='utf-8'))
    if blocks: assert list(strange_names(blocks)) == []


def test_a_strange_name_is_seen():
    block = 'from cifar_fastai.train import tarin\nrun = trian(Recipe())\nrun.interpretation.plot_gradcma(10)\nrun.lerner, run.learner'
    assert sorted(strange_names([block])) == ['run.interpretation.plot_gradcma', 'run.lerner', 'tarin', 'trian']
