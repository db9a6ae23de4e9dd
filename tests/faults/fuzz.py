"Fuzzing with hypothesis: whatever goes in, a value comes out or one clean message"
import json

from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from harness import forked
from trials import timed

SCALARS = st.none() | st.booleans() | st.integers(-10, 10**12) | st.floats() | st.text(max_size=12) | st.sampled_from(
    ['auto', 'find', 'cpu', 'cuda:1', 'resnet9', 'sgd', 'one_cycle', 'yes', '0', '-1', '1e400', 'nan', '٣', 'shapes'])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)


def hypothesised(examples, strategy, check):
    "A work for `forked`: runs `check` over examples and prints how many"
    def work():
        seen = [0]
        @settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
        @given(strategy)
        def every(value):
            seen[0] += 1
            check(value)
        every()
        print(f'examples {seen[0]}', flush=True)
    return work


def clean(call):
    "Whether `call` gives a value or a message of one to five lines"
    from cifar_fastai.base.messages import BadInput
    try: call()
    except BadInput as error: assert 1 <= len(str(error).splitlines()) <= 5 or 'argument' in str(error), str(error)


def recipes(examples):
    from cifar_fastai.recipes.recipe import recipe_fields, recipe_from_dict
    names = [field.name for field in recipe_fields()]
    fields = st.dictionaries(st.sampled_from(names) | st.text(max_size=6), JSON, max_size=6)
    return hypothesised(examples, fields | JSON, lambda value: clean(lambda: recipe_from_dict(value)))


def recipe_files(examples, folder):
    from cifar_fastai.recipes.named import read_recipe
    path = folder/'fuzzed.json'
    def check(content):
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        clean(lambda: read_recipe(path))
    return hypothesised(examples, st.binary(max_size=60) | JSON | st.just(b'['*100_000) | st.builds(lambda value: {'recipe': value}, JSON), check)


def command_lines(examples):
    from cifar_fastai.recipes.recipe import recipe_fields
    from cifar_fastai.train import train_parser, recipe_of_words
    options = [f"--{field.name.replace('_', '-')}" for field in recipe_fields()] + ['--recipe', '--out', '--name', '--checkpoint-every', '--resume', '--x', '--']
    words = st.lists(st.sampled_from(options) | st.text(max_size=8) | SCALARS.map(str), max_size=6).filter(lambda words: not {'-h', '--help'} & set(words))
    return hypothesised(examples, words, lambda words: clean(lambda: recipe_of_words(train_parser().parse_args(words))))


def run_files(examples, whole, folder):
    "The small files of a run, each replaced by anything, and no manifest to tell"
    import shutil
    from cifar_fastai.runs.files import read_predictions, read_run
    shutil.copytree(whole, folder/'run')
    (folder/'run'/'manifest.json').unlink()
    names = ('recipe.json', 'metrics.json', 'history.csv', 'predictions.npz')
    kept = {name: (whole/name).read_bytes() for name in names}
    def changed(value):
        name, how, content, at = value
        if how == 'anything': return name, content
        place = at % len(kept[name])
        return name, kept[name][:place] + content[:3] + kept[name][place + 3:]
    def check(value):
        name, content = changed(value)
        (folder/'run'/name).write_bytes(content)
        try: clean(lambda: (read_run(folder/'run'), read_predictions(folder/'run'/'predictions.npz')))
        finally: (folder/'run'/name).write_bytes(kept[name])
    values = st.tuples(st.sampled_from(names), st.sampled_from(['anything', 'in place']), st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), st.integers(0, 10**6))
    return hypothesised(examples, values, check)


def marks(examples):
    import numpy as np
    from cifar_fastai.interpretation.predictions import ClassifiedImages
    from cifar_fastai.interpretation.marks import MARK_COLUMNS, VERDICTS, marks_from_text
    kept = ClassifiedImages(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]), np.array(['a', 'b', 'c', 'd']), ('x', 'y'))
    rows = st.lists(st.tuples(st.integers(-2, 6).map(str) | st.text(max_size=4), st.sampled_from('abcd') | st.text(max_size=4), st.sampled_from('xy') | st.text(max_size=3),
        st.sampled_from('xy') | st.text(max_size=3), st.sampled_from(list(VERDICTS)) | st.text(max_size=5), st.sampled_from(['', 'x', 'y']) | st.text(max_size=4)), max_size=4)
    text = rows.map(lambda rows: '\r\n'.join([','.join(MARK_COLUMNS), *(','.join(row) for row in rows)]) + '\r\n') | st.text(max_size=200)
    return hypothesised(examples, text, lambda text: clean(lambda: marks_from_text(text, kept)))


@timed('fuzzed with hypothesis: recipes, recipe files, command lines, the files of a run, marks: a value or one clean message')
def fuzzed(row, bench, examples):
    folder = bench.place()
    folder.mkdir()
    works = {'recipes': recipes(examples), 'recipe files': recipe_files(examples, folder), 'command lines': command_lines(examples),
             'run files': run_files(examples, bench.whole, folder), 'marks': marks(examples)}
    for name, work in works.items():
        ended = forked(work, bench.folder, limit=600.)
        done = int(ended.out.rpartition('examples ')[2] or 0) if 'examples ' in ended.out else 0
        row.count += done
        row.passed += done
        if ended.status or not done: row.add(False, f'{name}: {ended.status} {ended.err[-1500:]}')
    bench.done(folder)
