"A run taken elsewhere: ONNX, PyTorch, safetensors, a hub, a page; each read without our code where it can be"
import base64
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from cifar_fastai.base.commands import run_command
from cifar_fastai.base.messages import BadInput
from cifar_fastai.export.__main__ import main
from cifar_fastai.export.classifier import Classifier
from cifar_fastai.export.exported import export_run
from cifar_fastai.export.parity import Reference, check_answers
from cifar_fastai.export.portable import Portable, describe_classifier
from cifar_fastai.heatmaps.gradcam import heatmaps
from cifar_fastai.models.networks import network
from cifar_fastai.recipes.recipe import Recipe
from cifar_fastai.train import train

onnx = pytest.importorskip('onnx', reason='onnx is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')



@pytest.fixture(scope='module')
def run(tiny_folder, tmp_path_factory):
    "A finished run with whitening and batch norm, of pictures that are files"
    recipe = Recipe(data=str(tiny_folder), arch='cifarnet', whiten=True, width=8, epochs=1, batch_size=20, progressive=0, precision='fp32', device='cpu')
    return train(recipe, tmp_path_factory.mktemp('runs'), 'mine').path


@pytest.fixture(scope='module')
def out(run, tmp_path_factory):
    "Its exports"
    folder = tmp_path_factory.mktemp('out')
    for to in ('onnx', 'torch', 'safetensors', 'hub'): export_run(run, to, folder, int8=to == 'onnx')
    return folder


@pytest.fixture(scope='module')
def said(run, tiny_folder):
    "Test pictures opened by Pillow alone, and the run's own probabilities"
    kept = np.load(run/'predictions.npz')
    pictures = np.stack([np.asarray(Image.open(tiny_folder/name).convert('RGB')) for name in kept['name']])
    return pictures, softmax(kept['logits'].astype(np.float64), axis=1)


def test_the_onnx_file_says_what_the_run_says_for_any_number_of_pictures(out, said):
    pictures, wanted = said
    session = onnxruntime.InferenceSession(str(out/'model.onnx'))
    for batch in (1, 7, len(pictures)):
        found = np.concatenate([session.run(None, {'pictures': pictures[start:start+batch]})[0] for start in range(0, len(pictures), batch)])
        assert abs(found - wanted).max() < 1e-4 and (found.argmax(1) == wanted.argmax(1)).all()
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known['classes']) == sorted(path.name for path in (Path(json.loads(known['recipe'])['data'])/'train').iterdir())
    assert onnx.load(out/'model.onnx').opset_import[0].version == int(known['opset']) and 'centred square' in known['resizing']
    onnx.checker.check_model(onnx.load(out/'model.onnx'), full_check=True)


def test_the_file_in_whole_numbers_says_what_it_costs(out, said):
    pictures, wanted = said
    session = onnxruntime.InferenceSession(str(out/'model-int8.onnx'))
    found, told = session.run(None, {'pictures': pictures})[0].argmax(1), session.get_modelmeta().custom_metadata_map['int8']
    names = {node.op_type for node in onnx.load(out/'model-int8.onnx').graph.node}
    assert f'{int((found != wanted.argmax(1)).sum())} answers are others' in told and f'of {len(pictures)} test images' in told and 'QuantizeLinear' in names


def test_the_pytorch_file_needs_nothing_of_ours(out, said):
    pictures, wanted = said
    about = {'about.json': ''}
    program = torch.export.load(out/'model.pt2', extra_files=about).module()
    for count in (1, len(pictures)):
        assert abs(program(torch.from_numpy(pictures[:count])).detach().numpy() - wanted[:count]).max() < 1e-4
    assert json.loads(about['about.json'])['test_images'] == len(pictures)


def test_padded_shortcuts_group_norm_temperature_and_heat_are_the_same_outside(tmp_path):
    from cifar_fastai.export.onnx_file import write_onnx
    torch.manual_seed(0)
    model = network('resnet20', 4, 8, 'group').eval()
    with torch.no_grad(): model.linear.weight.mul_(30)  # so that answers differ from picture to picture
    classifier = Classifier(model, ('a', 'b', 'c', 'd'), 32, (.5, .4, .3), (.2, .3, .25), temperature=2.)
    draw = np.random.default_rng(0)
    pictures = np.clip(draw.integers(0, 256, (8, 1, 1, 3)) + draw.integers(-60, 60, (8, 32, 32, 3)), 0, 255).astype(np.uint8)
    wanted = classifier.probabilities(classifier.logits(pictures))
    write_onnx(Portable(classifier, heat=True), describe_classifier(classifier, 'resnet20'), tmp_path/'model.onnx', Reference(pictures, wanted, 'the classifier'))
    shares, maps = onnxruntime.InferenceSession(str(tmp_path/'model.onnx')).run(None, {'pictures': pictures})
    assert abs(shares - wanted).max() < 1e-5 and np.ptp(wanted, 0).max() > 0.05
    images = (torch.from_numpy(pictures).permute(0, 3, 1, 2)/255 - torch.tensor([.5, .4, .3]).view(3, 1, 1))/torch.tensor([.2, .3, .25]).view(3, 1, 1)
    theirs, best = heatmaps(model, images), torch.from_numpy(maps[np.arange(8), shares.argmax(1)]).relu()
    def scaled(values): return (values - values.amin((1, 2), keepdim=True))/(values - values.amin((1, 2), keepdim=True)).amax((1, 2), keepdim=True).clamp(min=1e-12)
    large = torch.nn.functional.interpolate(scaled(best)[:, None], size=32, mode='bilinear')[:, 0]
    assert abs(scaled(large).numpy() - theirs).max() < 1e-3


@pytest.mark.parametrize('to', ['onnx', 'torch'])
def test_a_file_that_says_something_else_gets_no_name(to, run, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Portable, 'shares', lambda self, logits: (logits/self.classifier.temperature).softmax(1)*.999)
    assert run_command(main, [str(run), '--to', to, '--out', str(tmp_path)]) == 1
    text = capfd.readouterr().err
    assert 'does not say what the run says' in text and 'Traceback' not in text and list(tmp_path.iterdir()) == []


def test_without_the_data_the_network_itself_is_asked(run, tmp_path, notices):
    copy = shutil.copytree(run, tmp_path/'run')
    for name in ('recipe.json',):
        about = json.loads((copy/name).read_text())
        about['recipe']['data'] = str(tmp_path/'gone')
        (copy/name).write_text(json.dumps(about))
    (copy/'manifest.json').unlink()
    assert 'drawn pictures, against the network itself' in str(export_run(copy, 'torch'))
    assert "without the run's data" in notices() and (copy/'export'/'model.pt2').is_file()
    with pytest.raises(BadInput, match="int8 needs the run's data"): export_run(copy, 'onnx', int8=True)


def test_answers_are_held_to_each_picture():
    wanted = np.array([[.6, .4], [.50001, .49999]])
    reference = Reference(None, wanted, 'two')
    assert 'the same answers' in check_answers(wanted, reference, 'file')
    for found in (wanted[:, ::-1], wanted + [[2e-4, 0]], np.array([[.6, .4], [.49999, .50001]]), wanted*np.nan, wanted[:1]):
        with pytest.raises(BadInput): check_answers(found, reference, 'file')


# The hub

class Hub(BaseHTTPRequestHandler):
    "As much of a hub as an upload and a download ask for"
    files, asked = {}, []

    def answer(self, content=b'', status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {'Content-Length': len(content), 'Content-Type': 'application/json', **headers}.items(): self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(content)

    def log_message(self, *words): pass

    def do_POST(self):
        length, chunks = self.headers.get('Content-Length'), []
        if length is None:
            while size := int(self.rfile.readline(), 16): chunks.append(self.rfile.read(size)); self.rfile.readline()
            self.rfile.readline()
        body = self.rfile.read(int(length)) if length is not None else b''.join(chunks)
        self.asked.append(self.path)
        if self.path == '/api/repos/create': return self.answer({'url': f'{self.server.address}/ada/cats', 'name': 'ada/cats'})
        if self.path == '/api/validate-yaml': return self.answer({'errors': [], 'warnings': []})
        if '/preupload/' in self.path: return self.answer({'files': [{**file, 'uploadMode': 'regular', 'shouldIgnore': False} for file in json.loads(body)['files']]})
        if '/commit/' in self.path:
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file': self.files[line['value']['path']] = base64.b64decode(line['value']['content'])
            return self.answer({'commitUrl': f'{self.server.address}/ada/cats/commit/{"1"*40}', 'commitOid': '1'*40, 'pullRequestUrl': None})
        self.answer({'error': 'no'}, 404)

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.partition('?')[0].rpartition('/')[2]
        if '/resolve/' in self.path and name in self.files:
            return self.answer(self.files[name], ETag=f'"{hashlib.sha1(self.files[name]).hexdigest()}"', X_Repo_Commit='1'*40)
        if self.path.startswith(('/api/models/ada/cats/revision', '/api/models/ada/cats?')) or self.path == '/api/models/ada/cats':
            return self.answer({'id': 'ada/cats', '_id': '1', 'sha': '1'*40, 'siblings': [{'rfilename': each} for each in self.files], 'private': False, 'tags': [], 'downloads': 0, 'likes': 0})
        if '/tree/' in self.path: return self.answer([{'type': 'file', 'path': each, 'size': len(content), 'oid': '0'*40} for each, content in self.files.items()])
        if self.path.startswith('/api/whoami'): return self.answer({'name': 'ada', 'type': 'user'})
        self.answer({'error': 'no'}, 404, X_Error_Code='EntryNotFound')

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    pytest.importorskip('huggingface_hub', reason='huggingface_hub is not installed')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.address = f'http://127.0.0.1:{server.server_port}'
    Hub.files, Hub.asked = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'ENDPOINT', server.address)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', server.address + '/{repo_id}/resolve/{revision}/{filename}')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('HF_TOKEN', 'hf_test')
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_hub_folder_travels_by_a_hub(hub, run, out, said, tmp_path):
    pictures, wanted = said
    told = str(export_run(run, 'hub', out, push='ada/cats', again=True))
    assert 'uploaded: ' in told and set(hub.files) == {'README.md', 'config.json', 'curves.png', 'model.safetensors'}
    assert hub.files['model.safetensors'] == (out/'hub'/'model.safetensors').read_bytes()
    there = Classifier.from_hub('ada/cats', device='cpu')
    assert abs(there.probabilities(there.logits(pictures)) - wanted).max() < 1e-4
    assert describe_classifier(there, 'mine') == json.loads(hub.files['config.json'])
    with pytest.raises(BadInput, match='cannot be fetched'): Classifier.from_hub('ada/dogs', device='cpu')


def test_the_card_says_what_the_files_say(run, out):
    card, metrics = (out/'hub'/'README.md').read_text(encoding='utf-8'), json.loads((run/'metrics.json').read_text())
    right = round(metrics['test_accuracy']*metrics['test_images'])
    assert f"**{right/metrics['test_images']:.2%}** of {metrics['test_images']} test images right" in card
    assert all(f'`{value}`' in card for value in json.loads((run/'recipe.json').read_text())['data']['fingerprints'].values())
    yaml = pytest.importorskip('yaml')
    head = yaml.safe_load(card.split('---')[1])
    assert head['pipeline_tag'] == 'image-classification' and head['model-index'][0]['results'][0]['metrics'][0]['value'] == pytest.approx(metrics['test_accuracy'], abs=1e-4)
    assert not [path for path in (out/'hub').iterdir() if path.suffix in ('.pkl', '.pth', '.pt', '.bin')]


@pytest.mark.parametrize('fields, metrics, says, not_says', [
    ({'fit': 'squish'}, {}, 'It sees all, squeezed to a square, of a picture', 'It sees the centred square'),
    ({'set_aside': 15}, {}, 'of 15 training images that were set aside right', 'test images right'),
    ({}, {'test_labels': dict(file='mended.csv', images=15, relabelled=2, dropped=0, soft=0, undecided=0)}, 'Test labels were changed, so the accuracy is not comparable', 'set aside')])
def test_the_card_says_how_pictures_are_fitted_and_what_the_accuracy_is_of(fields, metrics, says, not_says, run, tmp_path):
    copy = shutil.copytree(run, tmp_path/'run')
    (copy/'manifest.json').unlink()
    for name, part, new in (('recipe.json', 'recipe', fields), ('metrics.json', None, metrics)):
        content = json.loads((copy/name).read_text())
        (content[part] if part else content).update(new)
        (copy/name).write_text(json.dumps(content))
    card = (export_run(copy, 'hub').path/'README.md').read_text(encoding='utf-8')
    assert says in card and not_says not in card


def test_an_export_with_other_weights_is_refused(out, tmp_path):
    folder = shutil.copytree(out/'weights', tmp_path/'weights')
    config = json.loads((folder/'config.json').read_text())
    for change, text in (({'fingerprint': '0'*64}, 'are not those of its config.json'), ({'schema': 9}, 'of schema 9'), ({'mean': 3}, 'mean is missing or of another kind'), ({'deviation': [0, 0, 0]}, 'deviation is missing'), ({'image_size': 0}, 'image_size is missing'),
                         ({'fit': 'stretch'}, "says two things of how pictures become squares: fit 'stretch', and 'crop'"), ({'recipe': {**config['recipe'], 'fit': 'stretch'}}, 'config.json.*stretch'),
                         ({'recipe': {'arhc': 'resnet9'}}, 'config.json.*unknown recipe field'), ({'temperature': float('nan')}, 'temperature is missing'), ({'ranges': {'integer': 'all'}}, 'ranges is missing'),
                         ({'classes': config['classes'][:1]*len(config['classes'])}, 'classes is missing'), ({'test_accuracy': 'good'}, 'test_accuracy is missing'), ({'data': {}}, 'data.name is missing'), ({'data': None}, 'data is missing')):
        (folder/'config.json').write_text(json.dumps({**config, **change}))
        with pytest.raises(BadInput, match=text): Classifier.from_hub(folder, device='cpu')


# What is refused

def refused(words, capfd, status=1):
    assert run_command(main, [*map(str, words)]) == status
    text = capfd.readouterr().err
    assert 'Traceback' not in text and 1 <= len(text.strip().splitlines()) <= 5
    return text


def test_words_and_places_that_cannot_be(run, out, tmp_path, capfd, monkeypatch):
    before = sorted(path.name for path in out.iterdir())
    assert "'model.onnx' exists" not in refused([run, '--to', 'torch', '--out', out], capfd)
    assert 'exists\nTake it away' in refused([run, '--to', 'onnx', '--out', out], capfd)
    assert "is the name of a file" in refused([run, '--to', 'onnx', '--out', tmp_path/'model.onnx'], capfd, 2)
    assert "'' is not the name of a folder" in refused([run, '--to', 'onnx', '--out', ''], capfd, 2)
    for words in (['--open'], ['--port', '8001']): assert f'{words[0]} is for --serve' in refused([run, '--to', 'safetensors', *words, '--out', tmp_path], capfd, 2)
    assert "unknown format 'tflite'" in refused([run, '--to', 'tflite'], capfd, 2)
    assert '--to is missing' in refused([run], capfd, 2)
    assert '--push is for --to hub' in refused([run, '--to', 'onnx', '--push', 'a/b'], capfd, 2)
    assert 'is no name of a model' in refused([run, '--to', 'hub', '--push', 'a b', '--out', tmp_path], capfd)
    assert 'is not there' in refused([run, '--to', 'web', '--runtime', tmp_path/'lost.tgz', '--out', tmp_path], capfd)
    assert 'is not a package' in refused([run, '--to', 'web', '--runtime', run/'recipe.json', '--out', tmp_path], capfd)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert '--runtime FILE' in refused([run, '--to', 'web', '--out', tmp_path], capfd)
    assert sorted(path.name for path in out.iterdir()) == before and list(tmp_path.iterdir()) == []


def test_runs_that_cannot_travel(run, tmp_path, capfd):
    copy = shutil.copytree(run, tmp_path/'run')
    metrics = json.loads((copy/'metrics.json').read_text())
    (copy/'manifest.json').unlink()
    (copy/'metrics.json').write_text(json.dumps({**metrics, 'status': 'interrupted'}))
    assert 'not finished: its status is interrupted' in refused([copy, '--to', 'onnx'], capfd)
    changed = shutil.copytree(run, tmp_path/'changed')
    content = bytearray((changed/'model.safetensors').read_bytes())
    content[-1] ^= 1
    (changed/'model.safetensors').write_bytes(content)
    assert 'is not what the run wrote' in refused([changed, '--to', 'safetensors'], capfd)
    assert not (copy/'export').exists() and not (changed/'export').exists()


@pytest.mark.parametrize('library', ['onnxscript', 'onnx', 'onnxruntime'])
def test_a_library_that_is_missing_is_named_with_its_command(library, run, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(__import__('sys').modules, library, None)
    text = refused([run, '--to', 'onnx', '--out', tmp_path], capfd)
    assert f'this needs {library}' in text and "pip install 'cifar_fastai[export]'" in text and list(tmp_path.iterdir()) == []


def test_no_hub_is_reached(run, tmp_path, monkeypatch, capfd):
    pytest.importorskip('huggingface_hub', reason='huggingface_hub is not installed')
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    text = refused([run, '--to', 'hub', '--push', 'ada/cats', '--out', tmp_path], capfd)
    assert 'was not uploaded' in text and (tmp_path/'hub'/'config.json').is_file()
