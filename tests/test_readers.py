"Image folders and official versions, written here byte by byte or by other libraries, against what is read"
import io
import os
import pickle
import struct
import sys
import tarfile
import unicodedata
import zipfile
from subprocess import run

import numpy as np
import pytest
from PIL import Image

from cifar_fastai.data.archives import open_files
from cifar_fastai.data.formats import open_picture
from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.sources import read_files

TEN = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
HUNDRED = [f'fine_{number}' for number in range(100)]


def read(path, image_size='auto'): return read_files(open_files(path), image_size)


def refused(path, contains):
    with pytest.raises(BadInput, match=contains) as caught: read(path)
    assert 1 <= len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


def noise(*shape, seed=0): return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- official versions -------------------------------------------------------------------------------------------

def python2(value):
    "`value` as Python 2 and its numpy pickled it, opcode by opcode (protocol 2)"
    if isinstance(value, dict): return b'}('+b''.join(python2(item) for pair in value.items() for item in pair)+b'u'
    if isinstance(value, list): return b']('+b''.join(map(python2, value))+b'e'
    if isinstance(value, bytes): return b'T'+struct.pack('<i', len(value))+value
    if isinstance(value, int): return b'J'+struct.pack('<i', value)
    kind = b'cnumpy\ndtype\n'+python2(value.dtype.str[1:].encode())+b'K\0K\1\x87R(K\3'+python2(b'|')+b'NNN'+python2(-1)*2+b'K\0tb'
    shape = b'('+b''.join(map(python2, value.shape))+b't'
    array = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85'+python2(b'b')+b'\x87R'
    return array+b'(K\1'+shape+kind+b'\x89'+python2(value.tobytes())+b'tb'


def as_bytes(value): # text as Python 2 had it
    if isinstance(value, dict): return {as_bytes(key): as_bytes(item) for key, item in value.items()}
    if isinstance(value, list): return [as_bytes(item) for item in value]
    return value.encode() if isinstance(value, str) else value


WRITERS = {f'python3-{protocol}': lambda value, protocol=protocol: pickle.dumps(value, protocol) for protocol in range(6)}
WRITERS['python3-bytes'] = lambda value: pickle.dumps(as_bytes(value), 2)
WRITERS['python2'] = lambda value: b'\x80\2'+python2(as_bytes(value))+b'.'


def planes(images): return np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images])


def write_python(folder, batches, hundred=False, dumps=WRITERS['python2']):
    "batches: name → (images, labels)"
    folder.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        data = {'batch_label': name, ('fine_labels' if hundred else 'labels'): [int(label) for label in labels], 'data': planes(images),
                'filenames': [f'{name}_{row}.png' for row in range(len(labels))]}
        if hundred: data['coarse_labels'] = [int(label)//5 for label in labels]
        (folder/name).write_bytes(dumps(data))
    meta = {'fine_label_names': HUNDRED, 'coarse_label_names': HUNDRED[:20]} if hundred else {'label_names': TEN, 'num_vis': 3072}
    (folder/('meta' if hundred else 'batches.meta')).write_bytes(dumps(meta))


def write_binary(folder, batches, hundred=False):
    folder.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        rows = []
        for image, label in zip(images, labels):
            rows.append(bytes([label//5, label] if hundred else [label]))
            for channel in range(3): rows.append(bytes(int(value) for value in image[..., channel].flat))
        (folder/f'{name}.bin').write_bytes(b''.join(rows))
    (folder/('fine_label_names.txt' if hundred else 'batches.meta.txt')).write_text('\n'.join(HUNDRED if hundred else TEN)+'\n\n')


def ten(rows=(7, 3, 5)):
    random = np.random.default_rng(1)
    counts = dict(data_batch_1=rows[0], data_batch_2=rows[1], data_batch_10=2, test_batch=rows[2])
    return {name: (noise(count, 32, 32, 3, seed=index), random.integers(0, 10, count)) for index, (name, count) in enumerate(counts.items())}


def hundred():
    return {'train': (noise(9, 32, 32, 3), np.arange(9)*11), 'test': (noise(4, 32, 32, 3, seed=3), np.array([99, 0, 5, 44]))}


def check(data, batches, classes):
    assert np.array_equal(data.images, np.concatenate([images for images, _ in batches.values()]))
    assert np.array_equal(data.labels, np.concatenate([labels for _, labels in batches.values()]))
    assert data.labels.dtype == np.int64 and data.images.dtype == np.uint8
    assert data.classes == tuple(classes)
    assert list(data.names) == [f'{name}/{row}' for name, (images, _) in batches.items() for row in range(len(images))]
    assert data.train_count == sum(len(labels) for name, (_, labels) in batches.items() if not name.startswith('test'))


def test_the_writer_of_python2_writes_what_numpy_reads(tmp_path):
    write_python(tmp_path/'set', ten())
    data = pickle.loads((tmp_path/'set'/'data_batch_1').read_bytes(), encoding='bytes')
    assert np.array_equal(data[b'data'], planes(ten()['data_batch_1'][0])) and data[b'data'].dtype == np.uint8


@pytest.mark.parametrize('writer', WRITERS)
def test_python_version(tmp_path, writer):
    write_python(tmp_path/'cifar-10-batches-py', ten(), dumps=WRITERS[writer])
    check(read(tmp_path), ten(), TEN)
    write_python(tmp_path/'x'/'cifar-100-python', hundred(), True, dumps=WRITERS[writer])
    check(read(tmp_path/'x'/'cifar-100-python'), hundred(), HUNDRED)


def test_binary_version(tmp_path):
    write_binary(tmp_path/'a'/'cifar-10-batches-bin', ten())
    check(read(tmp_path/'a'), ten(), TEN)
    write_binary(tmp_path/'b'/'cifar-100-binary', hundred(), True)
    check(read(tmp_path/'b'), hundred(), HUNDRED)


def test_labels_and_pixels_may_be_arrays_of_any_order(tmp_path):
    write_python(tmp_path/'set', ten())
    images, labels = ten()['data_batch_1']
    for value in (labels.astype('>i4'), list(labels.astype(np.int64)), labels.astype(np.uint8)):
        (tmp_path/'set'/'data_batch_1').write_bytes(pickle.dumps({'data': np.asfortranarray(planes(images)), 'labels': value}, 4))
        check(read(tmp_path), ten(), TEN)


@pytest.mark.parametrize('form', ['tgz', 'zip'])
def test_versions_in_archives_agree(tmp_path, form):
    write_python(tmp_path/'cifar-10-batches-py', ten())
    write_binary(tmp_path/'cifar-10-batches-bin', ten())
    prints = []
    for version in ('cifar-10-batches-py', 'cifar-10-batches-bin'):
        path = tmp_path/f'{version}.{form}'
        if form == 'tgz':
            with tarfile.open(path, 'w:gz') as archive: archive.add(tmp_path/version, version)
        else:
            with zipfile.ZipFile(path, 'w') as archive:
                for file in (tmp_path/version).iterdir(): archive.write(file, f'{version}/{file.name}')
        check(read(path), ten(), TEN)
        prints.append(read(path).fingerprints)
    assert prints[0] == prints[1] and prints[0]['train'] != prints[0]['test']
    refused(tmp_path, 'holds 2 data sets: cifar-10-batches-bin, cifar-10-batches-py')


class Runs:
    def __init__(self, function, *arguments): self.call = function, arguments
    def __reduce__(self): return self.call


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_with_code_does_not_run(tmp_path, protocol):
    made = tmp_path/'made'
    for function, *arguments in [(os.system, f'touch {made}'), (os.mkdir, str(made)), (eval, f'open({str(made)!r}, "w")'),
                                 (exec, f'open({str(made)!r}, "w")'), (getattr, Runs(__import__, 'os'), 'system')]:
        for name in ('data_batch_1', 'test_batch', 'batches.meta'):
            folder = tmp_path/f'{len(os.listdir(tmp_path))}'
            write_python(folder, ten())
            (folder/name).write_bytes(pickle.dumps({'data': Runs(function, *arguments), 'labels': [1]}, protocol))
            message = refused(folder, 'nothing of it was run')
            assert name in message and not made.exists()
    (tmp_path/'code.pkl').write_bytes(pickle.dumps(Runs(os.mkdir, str(made))))
    refused(tmp_path/'code.pkl', 'neither a folder nor a whole archive')
    assert not made.exists()
    pickle.loads((tmp_path/'code.pkl').read_bytes()) # the same bytes do run elsewhere
    assert made.exists()


def test_damaged_official_files_are_named(tmp_path):
    def changed(name, data):
        folder = tmp_path/str(len(os.listdir(tmp_path)))
        write_python(folder, ten())
        (folder/name).write_bytes(data) if data is not None else (folder/name).unlink()
        return folder
    whole = WRITERS['python2']({'data': planes(noise(2, 32, 32, 3)), 'labels': [1, 2]})
    for data in (whole[:-900], b'', b'words', WRITERS['python2']({'labels': [1, 2]}), WRITERS['python2']({'data': noise(2, 3071), 'labels': [1, 2]}),
                 WRITERS['python2']({'data': noise(2, 3072), 'labels': [1]}), pickle.dumps({'data': noise(1, 3072), 'labels': [[1]]}),
                 pickle.dumps({'data': Runs(bytes, 10**15), 'labels': [1]}), pickle.dumps({'data': [[0]*3072], 'labels': [1]}), pickle.dumps({'data': noise(1, 3072)*1., 'labels': [1]})):
        assert 'data_batch_2' in refused(changed('data_batch_2', data), 'not a (whole )?batch')
    refused(changed('data_batch_2', WRITERS['python2']({'data': noise(1, 3072), 'labels': [10]})), 'a label 10')
    refused(changed('test_batch', None), 'lacks test_batch')
    refused(changed('batches.meta', None), 'lacks batches.meta')
    write_binary(tmp_path/'bin', ten())
    with (tmp_path/'bin'/'test_batch.bin').open('ab') as file: file.write(b'x')
    assert 'test_batch.bin' in refused(tmp_path/'bin', 'not whole')


def test_official_images_can_be_resized(tmp_path):
    write_binary(tmp_path/'set', ten())
    data = read(tmp_path, 16)
    first = Image.fromarray(ten()['data_batch_1'][0][0]).resize((16, 16), Image.Resampling.BILINEAR)
    assert data.images.shape[1:] == (16, 16, 3) and np.array_equal(data.images[0], first)


# ---- image folders -----------------------------------------------------------------------------------------------

def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    picture.save(path, **options)


def pets(folder, size=10):
    "Three training and two test images of noise"
    for seed, name in enumerate(['train/cat/1.png', 'train/cat/2.png', 'train/dog/1.png', 'test/cat/1.png', 'test/dog/1.png']):
        save(folder/name, noise(size, size, 3, seed=seed))
    return folder


def test_a_folder(tmp_path):
    data = read(pets(tmp_path/'pets'))
    assert np.array_equal(data.images, np.stack([noise(10, 10, 3, seed=seed) for seed in range(5)]))
    assert data.classes == ('cat', 'dog') and list(data.labels) == [0, 0, 1, 0, 1] and data.train_count == 3
    assert list(data.names) == ['train/cat/1.png', 'train/cat/2.png', 'train/dog/1.png', 'test/cat/1.png', 'test/dog/1.png']
    assert data.notes == ()


@pytest.mark.parametrize('test', ['test', 'valid', 'val', 'Test'])
def test_names_of_the_test_folder_and_depth(tmp_path, test):
    pets(tmp_path/'download'/'pets')
    (tmp_path/'download'/'pets'/'test').rename(tmp_path/'download'/'pets'/test)
    data = read(tmp_path)
    assert data.names[-1] == f'{test}/dog/1.png' and data.train_count == 3


def test_archives_of_a_folder_agree_with_it(tmp_path):
    pets(tmp_path/'pets')
    with tarfile.open(tmp_path/'pets.tar.gz', 'w:gz') as archive: archive.add(tmp_path/'pets', '.')
    with zipfile.ZipFile(tmp_path/'pets.zip', 'w') as archive:
        for file in sorted((tmp_path/'pets').rglob('*'), reverse=True): archive.write(file, 'pets'/file.relative_to(tmp_path/'pets'))
    whole = read(tmp_path/'pets')
    for name in ('pets.tar.gz', 'pets.zip'):
        data = read(tmp_path/name)
        assert data.fingerprints == whole.fingerprints and list(data.names) == list(whole.names)


def test_every_mode_becomes_rgb(tmp_path):
    "Each expected pixel is worked out by hand"
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    palette = Image.fromarray(grey % 3, 'P')
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    half = np.dstack([np.full((8, 8, 3), 100, np.uint8), np.full((8, 8), 128, np.uint8)])
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    pictures = {
        'grey.png': (grey, np.stack([grey]*3, -1)),
        'deep.png': (grey.astype(np.uint16)*1024+200, np.stack([grey*4]*3, -1)),
        'deep.tif': (grey.astype(np.uint16)*1024+7, np.stack([grey*4]*3, -1)),
        'half.png': (half, np.full((8, 8, 3), round((100*128+255*127)/255))),
        'clear.webp': (np.zeros((8, 8, 4), np.uint8), np.full((8, 8, 3), 255)),
        'forgotten.png': (np.dstack([noise(8, 8, 3, seed=7), np.zeros((8, 8), np.uint8)]), noise(8, 8, 3, seed=7)), # nothing but transparent, with colours
        'palette.gif': (palette, colours[grey % 3]),
        'palette.png': (palette, colours[grey % 3]),
        'bits.bmp': (Image.fromarray(grey > 30), np.stack([(grey > 30)*255]*3, -1)),
        'ink.tif': (Image.new('CMYK', (8, 8), (0, 255, 255, 0)), np.broadcast_to([255, 0, 0], (8, 8, 3))),
    }
    pets(tmp_path, 8)
    for name, (picture, _) in pictures.items(): save(tmp_path/'train'/'cat'/name, picture, **({'lossless': True} if 'webp' in name else {}))
    data = read(tmp_path)
    for name, (_, wanted) in pictures.items():
        found = data.images[list(data.names).index(f'train/cat/{name}')]
        assert np.abs(found.astype(int)-wanted).max() <= (1 if name == 'half.png' else 0), name
    assert len(data.notes) == 1
    for words in ('2 16-bit', '2 with a palette', '2 with transparency', '1 wholly transparent', '1 grey', '1 black and white', '1 CMYK'):
        assert words in data.notes[0], data.notes


def test_odd_sizes(tmp_path):
    pets(tmp_path, 12)
    wide = np.zeros((12, 40, 3), np.uint8)
    wide[:, 14:26] = noise(12, 12, 3, seed=9) # the centred square
    save(tmp_path/'train'/'cat'/'wide.png', wide)
    save(tmp_path/'train'/'cat'/'large.png', noise(12, 12, 3, seed=8).repeat(2, 0).repeat(2, 1))
    data = read(tmp_path)
    find = {name: image for name, image in zip(data.names, data.images)}
    assert data.images.shape[1:] == (12, 12, 3)
    assert np.array_equal(find['train/cat/wide.png'], wide[:, 14:26])
    averaged = noise(12, 12, 3, seed=8)
    assert np.corrcoef(find['train/cat/large.png'].flat, averaged.flat)[0, 1] > .9
    assert data.notes == ('converted to 12×12 RGB: 2 of another size',)


@pytest.mark.parametrize('sides, wanted', [([32]*5, 32), ([200]*5, 128), ([20, 20, 30, 500, 600], 30), ([3]*5, 8)])
def test_auto_size_is_the_median_shorter_side(tmp_path, sides, wanted):
    for side, name in zip(sides, ['train/a/1.png', 'train/b/1.png', 'test/a/1.png', 'test/b/1.png', 'train/a/2.png']):
        save(tmp_path/name, noise(side, side+7, 3, seed=side))
    assert read(tmp_path).image_size == wanted
    assert read(tmp_path, 24).image_size == 24


@pytest.mark.parametrize('form', ['png', 'tif', 'webp'])
def test_a_picture_turned_by_its_camera_is_upright(tmp_path, form):
    pets(tmp_path)
    upright = noise(10, 10, 3, seed=5)
    exif, turned = Image.Exif(), {2: upright[:, ::-1], 3: np.rot90(upright, 2), 4: upright[::-1], 5: upright.transpose(1, 0, 2),
                                  6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1)} # EXIF 2.3, tag 0x0112
    for orientation, stored in turned.items():
        exif[0x0112] = orientation
        save(tmp_path/'train'/'cat'/f'{orientation}.{form}', np.ascontiguousarray(stored), exif=exif, **({'lossless': True} if form == 'webp' else {}))
    data = read(tmp_path)
    for orientation in turned: assert np.array_equal(data.images[list(data.names).index(f'train/cat/{orientation}.{form}')], upright), orientation
    assert '7 turned by their camera' in data.notes[0]


def test_any_unicode_and_hidden_files(tmp_path):
    names = ['猫', 'chien d’été', 'кот 😺', unicodedata.normalize('NFD', 'é')]
    for name in names:
        for part in ('train', 'test'): save(tmp_path/part/name/f'{name} 1.png', noise(8, 8, 3))
    (tmp_path/'train'/'.hidden').mkdir()
    (tmp_path/'train'/'猫'/'._1.png').write_bytes(b'no image')
    (tmp_path/'train'/'猫'/'.DS_Store').write_bytes(b'no image')
    (tmp_path/'train'/'猫'/'Thumbs.db').write_bytes(b'no image')
    bad = os.fsencode(tmp_path)+b'/train/'+'猫'.encode()+b'/\xff\xfe.png'
    with open(bad, 'wb') as file: Image.fromarray(noise(8, 8, 3)).save(file, 'png')
    data = read(tmp_path)
    assert data.classes == tuple(sorted(unicodedata.normalize('NFC', name) for name in names))
    assert len(data.names) == 9
    [name.encode('utf8') for name in data.names]
    assert data.notes == ("left out 3 files: 3 hidden, or made by a system or a program (such as 'train/猫/.DS_Store')",
                          "copies: 4 of 4 test images are copies of images to train on, such as test/chien d’été/chien d’été 1.png = train/chien d’été/chien d’été 1.png; "
                          "9 pictures lie in two classes, such as train/chien d’été/chien d’été 1.png = train/é/é 1.png")


def test_bad_folders(tmp_path):
    def made(*names):
        folder = tmp_path/str(len(os.listdir(tmp_path)))
        for name in names: save(folder/name, noise(8, 8, 3))
        return folder
    flat = refused(made('cat/1.png', 'dog/1.png'), 'no train/ in this folder')
    assert 'train/ and test/' in flat and 'If its 2 folders of images (cat, dog) are the classes: --test-share 0.2' in flat
    assert 'If its' not in refused(made('cat/1.png'), 'no train/ in this folder')
    refused(made('train/cat/1.png', 'test/cat/1.png'), "one class, 'cat'")
    refused(made('train/cat/1.png', 'train/dog/1.png'), 'no images under test/')
    refused(made('train/1.png', 'train/2.png', 'test/1.png'), 'no images under train/<class>/')
    assert "'cow'" in refused(made('train/cat/1.png', 'train/dog/1.png', 'test/cow/1.png'), 'a class that train/ lacks')
    assert list(read(made('train/cat/1.png', 'train/dog/1.png', 'test/cat/1.png')).labels) == [0, 1, 0]


def test_the_first_file_of_a_process_is_an_image_too():
    "Pillow fills its table of endings late"
    run([sys.executable, '-c', 'from cifar_fastai.data.pictures import is_image; assert is_image("1.webp") and not is_image("1.txt")'], check=True)


def test_images_that_cannot_be_read_are_named(tmp_path):
    pets(tmp_path/'a')
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, 'jpeg')
    huge = b'\x89PNG\r\n\x1a\n'+struct.pack('>I4sIIBBBBBI', 13, b'IHDR', 30000, 30000, 8, 2, 0, 0, 0, 0)
    postscript = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n' # Pillow would start a program for it
    other = io.BytesIO()
    Image.fromarray(noise(8, 8, 3)).save(other, 'DDS') # a format that Pillow reads, and nobody means
    for content in (b'', b'words', postscript, other.getvalue(), buffer.getvalue()[:900], (tmp_path/'a'/'test'/'dog'/'1.png').read_bytes()[:-40], huge):
        (tmp_path/'a'/'train'/'cat'/'3.png').write_bytes(content)
        assert '/train/cat/3.png' in refused(tmp_path/'a', 'cannot be read')
    save(tmp_path/'a'/'train'/'cat'/'3.png', noise(8, 8, 3))
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path/'a'/'train'/'cat'/'4.tif')
    assert '/train/cat/4.tif' in refused(tmp_path/'a', 'not numbers')
    bands = [(256, 3, 8), (257, 3, 8), (258, 3, 16), (262, 3, 1), (273, 4, 200), (277, 3, 13), (279, 4, 1664)] # TIFF 6.0: 13 bands of 16 bits, as of a satellite
    head = b'II*\0' + struct.pack('<IH', 8, len(bands)) + b''.join(struct.pack('<HHII', tag, kind, 1, value) for tag, kind, value in bands)
    (tmp_path/'a'/'train'/'cat'/'4.tif').write_bytes(head.ljust(1864, b'\0'))
    assert '/train/cat/4.tif' in refused(tmp_path/'a', 'TIFF pictures of a kind')


@pytest.mark.filterwarnings("ignore")
def test_a_photo_of_108_million_pixels_is_read():
    buffer = io.BytesIO()
    Image.new('1', (12_000, 9_000)).save(buffer, 'png')
    assert open_picture(buffer.getvalue(), 'photo.png', lambda picture: picture.size) == (12_000, 9_000)
