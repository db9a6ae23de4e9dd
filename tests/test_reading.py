"Folders that people have, made here file by file, against what is read of them"
import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from cifar_fastai.base.messages import BadInput
from cifar_fastai.data.archives import MAYBE_MADE, open_files
from cifar_fastai.data.columns import read_table
from cifar_fastai.data.images import split
from cifar_fastai.data.layouts import UNLABELLED, pass_over_made
from cifar_fastai.data.sources import load_images, read_files


def read(path, **asked): return read_files(open_files(path), **asked)


def refused(path, contains, **asked):
    with pytest.raises(BadInput, match=contains) as caught: read(path, **asked)
    assert 1 <= len(str(caught.value).splitlines()) <= 5
    return caught.value


def picture(*seed, size=8): return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def plain(folder, classes=('cat', 'dog'), train=3, test=2, splits=('train', 'test'), form='png'):
    for which, (part, count) in enumerate(zip(splits, (train, test))):
        for kind, title in enumerate(classes):
            (folder/part/title).mkdir(parents=True, exist_ok=True)
            for number in range(count): picture(which, kind, number).save(folder/part/title/f'{number}.{form}')
    return folder


def rows(data): return {(row['split'], row['class']): row for row in data.read['rows']}


# ---- identity ----------------------------------------------------------------------------------------------------

def test_same_times_sizes_and_names_are_not_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    first, second = plain(tmp_path/'a'/'pets', form='bmp'), tmp_path/'b'/'pets'
    shutil.copytree(first, second)
    for path in second.rglob('*.bmp'): Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    for path in tmp_path.rglob('*.bmp'): os.utime(path, (1, 1))
    one, other = load_images(first), load_images(second)
    assert one.fingerprints != other.fingerprints and np.array_equal(one.images, 255 - other.images)
    shutil.rmtree(first)
    shutil.move(second, first)
    assert load_images(first).fingerprints == other.fingerprints


def test_a_second_folder_of_a_split_is_a_copy_only_by_its_bytes(tmp_path):
    plain(tmp_path, form='bmp')
    shutil.copytree(tmp_path/'train', tmp_path/'Training')
    assert len(read(tmp_path).labels) == 10
    path = tmp_path/'Training'/'cat'/'0.bmp'
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    refused(tmp_path, 'two folders for one split')


def test_a_known_folder_is_not_read_for_its_key(tmp_path, monkeypatch):
    from cifar_fastai.data import cache
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    monkeypatch.setattr(cache, 'RECENT', -10**12)
    path = plain(tmp_path/'pets')
    key = cache.source_digest(path)
    def never(*_): raise AssertionError('read again')
    monkeypatch.setattr(cache, 'folder_digest', never)
    assert cache.source_digest(path) == key
    (path/'train'/'cat'/'new.txt').write_text('x')
    with pytest.raises(AssertionError): cache.source_digest(path)


def test_tables_beside_the_one_that_was_named_are_read_anew_when_they_change(tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    (tmp_path/'pets').mkdir()
    for number in range(8): picture(number).save(tmp_path/'pets'/f'{number}.png')
    def write(name, titles, start): (tmp_path/name).write_text('file,label\n' + ''.join(f'{start + at}.png,{title}\n' for at, title in enumerate(titles)))
    write('train.csv', 'abab', 0)
    for titles in ('abab', 'baba'):
        write('test.csv', titles, 4)
        data = load_images(tmp_path/'pets', labels=str(tmp_path/'train.csv'))
        assert [data.classes[data.labels[list(data.names).index(f'{number}.png')]] for number in range(4, 8)] == list(titles)


# ---- names, links, machine-made folders --------------------------------------------------------------------------

def test_names_that_are_no_unicode_stay_apart(tmp_path):
    plain(tmp_path, ('a', 'b', 'c'))
    for part in ('train', 'test'):
        for title, raw in zip('abc', (b'\xb9\xb7', b'\xd1\xf2', b'\xca\xf3')): os.rename(tmp_path/part/title, os.path.join(os.fsencode(tmp_path/part), raw))
    data = read(tmp_path)
    assert np.bincount(data.labels).tolist() == [5, 5, 5] and data.classes == ('\\xb9\\xb7', '\\xca\\xf3', '\\xd1\\xf2')
    [title.encode('utf8') for title in (*data.classes, *data.names)]


def test_links_are_followed_and_loops_are_not(tmp_path):
    plain(tmp_path/'real')
    (tmp_path/'linked'/'train').mkdir(parents=True)
    (tmp_path/'linked'/'test').symlink_to(tmp_path/'real'/'test')
    for title in ('cat', 'dog'): (tmp_path/'linked'/'train'/title).symlink_to(tmp_path/'real'/'train'/title)
    (tmp_path/'real'/'train'/'cat'/'up').symlink_to(tmp_path/'real')
    data = read(tmp_path/'linked')
    assert (data.train_count, len(data.labels)) == (6, 10) and data.read['left_out'] == {'a link back to a folder above it': {'files': 1, 'such_as': ['train/cat/up']}}
    assert data.fingerprints == read(tmp_path/'real').fingerprints


@pytest.mark.parametrize('made', ['.DS_Store', '@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg', 'Thumbs.db', 'desktop.ini', '._0.png', '.thumbnails/0.png', '$RECYCLE.BIN/0.png',
                                  'lost+found/0.png', '.git/0.png', '.Trash/0.png', '.ipynb_checkpoints/0.png', '__MACOSX/0.png', 'thumbs/0.png', '@SynoEAStream/0.png', 'CVS/0.png', '~snapshot/0.png', 'site-packages/0.png'])
def test_what_systems_leave_is_counted_and_no_class(tmp_path, made):
    wanted = read(plain(tmp_path/'pets')).fingerprints
    places = ['', 'train', 'train/cat', 'test'] if made.split('/')[0].lower() not in MAYBE_MADE else ['', 'train/cat', 'test/dog']
    for place in places:
        (tmp_path/'pets'/place/made).parent.mkdir(parents=True, exist_ok=True)
        picture(9).save(tmp_path/'pets'/place/made, 'png')
    with zipfile.ZipFile(tmp_path/'pets.zip', 'w') as archive:
        for path in sorted((tmp_path/'pets').rglob('*')): archive.write(path, path.relative_to(tmp_path))
    for path in (tmp_path/'pets', tmp_path/'pets.zip'):
        data = read(path)
        assert data.fingerprints == wanted and sum(about['files'] for about in data.read['left_out'].values()) == len(places)


@pytest.mark.parametrize('title', ['thumbs', 'Thumbnails', 'CVS', 'node_modules'])
@pytest.mark.parametrize('splits', [('train', 'test'), ('.', '.'), ('set/train', 'set/test')])
def test_a_class_may_be_called_like_a_folder_of_a_program(tmp_path, title, splits):
    plain(tmp_path, ('fists', title), splits=splits)
    (tmp_path/splits[0]/'fists'/title).mkdir()
    picture(9).save(tmp_path/splits[0]/'fists'/title/'small.png')
    data = read(tmp_path, test_share=0.3 if splits[0] == '.' else 0.)
    assert data.classes == tuple(sorted(('fists', title))) and f"read as a class beside 'fists': '{title}'" in data.notes[0]
    assert [about for about in data.read['left_out'].values()] == [{'files': 1, 'such_as': [os.path.normpath(f'{splits[0]}/fists/{title}/small.png')]}]


@pytest.mark.parametrize('others', ['photos/cat/1.png photos/dog/1.png', 'train/cat/1.png train/dog/1.png test/cat/1.png', 'cat/front/1.png cat/back/1.png dog/front/1.png', 'cat/images/1.png dog/images/1.png', '1.png 2.png', 'photos/1.png photos/2.png'])
def test_small_copies_of_pictures_are_no_class(tmp_path, others):
    places = {os.path.dirname(name) for name in others.split()} if 'cat/front' in others else {'cat'} if 'cat/images' in others else {''}
    names = [*others.split(), *(os.path.join(place, 'thumbs/1.png') for place in places)]
    for number, name in enumerate(names):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path/name)
    files = open_files(tmp_path)
    assert pass_over_made(files) == [] and sorted(files.sizes) == sorted(others.split()) and sorted(files.passed) == sorted(name for name in names if 'thumbs' in name)


def test_a_folder_called_like_one_of_a_program_may_hold_the_whole_data_set(tmp_path):
    plain(tmp_path/'thumbnails')
    assert len(read(tmp_path).labels) == 10 and len(read(tmp_path/'thumbnails').labels) == 10


# ---- classes that vanish -----------------------------------------------------------------------------------------

def heic(path): path.write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(200))


@pytest.mark.parametrize('inside', ['nothing', 'heic', 'text', 'dangling files', 'dangling folder', 'hidden', 'icloud'])
def test_a_class_of_which_nothing_is_left_is_refused(tmp_path, inside):
    plain(tmp_path)
    for part in ('train', 'test'):
        bird = tmp_path/part/'bird'
        if inside == 'dangling folder': bird.symlink_to(tmp_path/'nowhere')
        else: bird.mkdir()
        for number in range(4):
            if inside == 'heic': heic(bird/f'{number}.HEIC')
            if inside == 'text': (bird/f'{number}.txt').write_text('words')
            if inside == 'dangling files': (bird/f'{number}.png').symlink_to(tmp_path/'nowhere.png')
            if inside == 'hidden': picture(number).save(bird/f'._{number}.png')
            if inside == 'icloud': (bird/f'.{number}.png.icloud').write_bytes(b'bplist00')
    assert ('train/bird/ has 4 files, of which 4 are placeholders of iCloud' if inside == 'icloud' else 'train/bird') in str(refused(tmp_path, 'nothing is left'))


def test_a_class_that_is_halved_is_named_with_its_counts(tmp_path):
    plain(tmp_path)
    for number in range(3): heic(tmp_path/'train'/'dog'/f'{number}.heic')
    data = read(tmp_path)
    assert 'dog in train/ 3 of 6' in data.notes[0] and '3 HEIC' in data.notes[1]
    assert rows(data)['train', 'dog']['left_out'] == {next(iter(data.read['left_out'])): 3}
    shutil.rmtree(tmp_path/'test'/'dog')
    assert "test/ has no images of 1 of 2 classes: 'dog'" in read(tmp_path).notes[0]


def test_a_class_that_lacks_pictures_behind_links_is_named_with_its_counts(tmp_path):
    plain(tmp_path)
    for number in range(3): (tmp_path/'train'/'dog'/f'link{number}.png').symlink_to(tmp_path/'nowhere.png')
    (tmp_path/'test'/'dog'/'deeper').mkdir()
    os.mkfifo(tmp_path/'test'/'dog'/'deeper'/'pipe.png')
    data = read(tmp_path)
    assert 'dog in train/ 3 of 6, dog in test/ 2 of 3' in data.notes[0] and rows(data)['train', 'dog']['left_out'] == {'a link that leads nowhere': 3}


def test_pictures_without_an_ending_or_with_another_are_read(tmp_path):
    plain(tmp_path)
    wanted = read(tmp_path).images
    for path in (tmp_path/'train'/'cat').iterdir(): path.rename(path.with_suffix(''))
    for path in (tmp_path/'train'/'dog').iterdir(): path.rename(path.with_suffix('.jpg_large'))
    assert np.array_equal(read(tmp_path).images, wanted)
    for form, options in (('gif', {}), ('webp', {'lossless': True}), ('bmp', {}), ('tiff', {})):
        for path in sorted((tmp_path/'test'/'cat').iterdir()):
            image = Image.open(path).convert('RGB')
            path.unlink()
            image.save(path.with_suffix('.jpg'), form, **options)
        assert read(tmp_path).images.shape == wanted.shape


def test_what_only_begins_like_a_picture_is_named_and_stops_nothing(tmp_path):
    plain(tmp_path)
    (tmp_path/'train'/'cat'/'cars.txt').write_text('BMW is a maker of cars, and this is a note about it.')
    picture(1).save(tmp_path/'train'/'cat'/'raw.dng', 'tiff')
    assert rows(read(tmp_path))['train', 'cat']['left_out'] == {'of another kind (.txt)': 1, 'camera raw files, or TIFF pictures with the ending .dng: these are read as .tif': 1}


def test_pictures_without_endings_have_classes_in_names_tables_and_folders_too(tmp_path):
    for number in range(8):
        for place in (tmp_path/'names'/f"{('cat', 'dog')[number % 2]}_{number}", tmp_path/'table'/f'{number}', tmp_path/'folders'/('cat', 'dog')[number % 2]/f'{number}'):
            place.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(place, 'png')
    (tmp_path/'table'/'t.csv').write_text('file,label\n' + ''.join(f"{number},{('cat', 'dog')[number % 2]}\n" for number in range(8)))
    for name, labels in (('names', 'names'), ('table', ''), ('folders', '')):
        data = read(tmp_path/name, labels=labels, test_share=0.3)
        assert data.classes == ('cat', 'dog') and len(data.labels) == 8
    refused(tmp_path/'folders', 'cat, dog(.|\n)*--test-share')


def test_pictures_that_lie_side_by_side_have_no_classes(tmp_path):
    for number in range(6): picture(number).save(tmp_path/f'{number}.png')
    refused(tmp_path, 'no folders of classes(.|\n)*--labels FILE', test_share=0.3)
    (tmp_path/'labels.xlsx').write_bytes(b'PK')
    refused(tmp_path, 'If labels.xlsx says the classes: save it as .csv')


def test_all_damaged_files_are_named_at_once(tmp_path):
    plain(tmp_path)
    whole = (tmp_path/'train'/'cat'/'0.png').read_bytes()
    for name, data in {'train/cat/a.png': b'', 'train/dog/b.png': whole[:-60], 'test/cat/c.jpg': b'words'}.items(): (tmp_path/name).write_bytes(data)
    error = refused(tmp_path, '3 images')
    assert all(name in str(error) for name in ('train/cat/a.png', 'train/dog/b.png', 'test/cat/c.jpg'))
    assert error.read['damaged'].keys() == {'train/cat/a.png', 'train/dog/b.png', 'test/cat/c.jpg'}


# ---- ranges, modes, pages ----------------------------------------------------------------------------------------

def grey(*seed): return np.random.default_rng(seed).integers(0, 256, (8, 8))


def without_sign(values):
    "A TIFF of 32 bits, which Pillow does not write: TIFF 6.0"
    entries = [(256, 3, values.shape[1]), (257, 3, len(values)), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (278, 4, len(values)), (279, 4, values.nbytes), (339, 3, 1)]
    head = b'II*\0' + struct.pack('<IH', 8, len(entries)) + b''.join(struct.pack('<HHII', tag, kind, 1, value) for tag, kind, value in entries)
    return head.ljust(200, b'\0') + values.astype('<u4').tobytes()


@pytest.mark.parametrize('kind, make', [
    ('8 bits in 32', lambda values: values.astype(np.int32)), ('8 bits in 16', lambda values: values.astype(np.uint16)), ('12 bits in 16', lambda values: (values*16 + 9).astype(np.uint16)),
    ('16 bits', lambda values: (values*256 + 9).astype(np.uint16)), ('real numbers to 1', lambda values: (values/255).astype(np.float32)), ('real numbers to 255', lambda values: values.astype(np.float32)),
    ('below nothing', lambda values: (values*10 - 1000).astype(np.int32)), ('32 bits without a sign', lambda values: values.astype(np.uint32)*16843009)])
def test_a_range_is_what_the_files_hold(tmp_path, kind, make):
    for which, part in enumerate(('train', 'test')):
        for label, title in enumerate(('cat', 'dog')):
            (tmp_path/part/title).mkdir(parents=True)
            for number in range(3):
                values = grey(which, label, number)
                values[0, :2] = 0, 255
                made = make(values)
                if made.dtype == np.uint32: (tmp_path/part/title/f'{number}.tif').write_bytes(without_sign(made))
                else: Image.fromarray(made).save(tmp_path/part/title/f'{number}.tif')
    data = read(tmp_path)
    found = {name: image[..., 0] for name, image in zip(data.names, data.images)}
    values = grey(0, 1, 2)
    values[0, :2] = 0, 255
    assert np.abs(found['train/dog/2.tif'].astype(int) - values).max() <= 1 and len(data.notes) == 1 and '12 ' in data.notes[0]


def test_what_is_flat_dark_or_has_more_pages_is_said(tmp_path):
    plain(tmp_path)
    Image.new('RGB', (8, 8), 'red').save(tmp_path/'train'/'cat'/'flat.png')
    Image.fromarray(grey(1).astype(np.uint8)//17).save(tmp_path/'train'/'cat'/'dark.png')
    picture(1).save(tmp_path/'train'/'dog'/'pages.tif', save_all=True, append_images=[picture(2), picture(3)])
    picture(4).convert('P').save(tmp_path/'train'/'dog'/'moves.gif', save_all=True, append_images=[picture(5).convert('P')])
    data = read(tmp_path)
    assert rows(data)['train', 'cat']['found']['of one colour'] == 1 and rows(data)['train', 'cat']['found']['nearly black'] == 1
    assert sum(count for what, count in rows(data)['train', 'dog']['found'].items() if 'pages' in what) == 2
    assert np.array_equal(data.images[list(data.names).index('train/dog/pages.tif')], np.asarray(picture(1)))


def test_a_set_of_pictures_that_are_all_black_is_refused(tmp_path):
    plain(tmp_path)
    for path in tmp_path.rglob('*.png'):
        Image.new('RGB', (8, 8)).save(path.with_suffix('.tif'), save_all=True, append_images=[picture(1)])
        path.unlink()
    refused(tmp_path, 'all 10 pictures are the same(.|\n)*more pages')


def test_colour_of_16_bits_is_said_to_lose_eight(tmp_path):
    def part(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    rows = b''.join(b'\0' + row.tobytes() for row in np.random.default_rng(0).integers(0, 2**16, (8, 8, 3)).astype('>u2'))
    (plain(tmp_path)/'train'/'cat'/'deep.png').write_bytes(b'\x89PNG\r\n\x1a\n' + part(b'IHDR', struct.pack('>IIBBBBB', 8, 8, 16, 2, 0, 0, 0)) + part(b'IDAT', zlib.compress(rows)) + part(b'IEND', b''))
    assert '1 of 16-bit colour, of which 8 are kept' in read(tmp_path).notes[0]


@pytest.mark.parametrize('form', ['png', 'jpg', 'webp'])
def test_odd_notes_never_cost_a_picture(tmp_path, form):
    wanted = picture(3)
    options = {'quality': 100, 'subsampling': 0} if form == 'jpg' else {'lossless': True} if form == 'webp' else {}
    plain(tmp_path)
    for number, notes in enumerate([b'Exif\0\0' + b'\x124Vx'*8, b'Exif\0\0II*\0\xff\xff\xff\xff', b'', b'Exif\0\0MM\0*']):
        wanted.save(tmp_path/'train'/'cat'/f'odd{number}.{form}', **options, exif=notes)
    data = read(tmp_path)
    for number in range(4): assert np.abs(data.images[list(data.names).index(f'train/cat/odd{number}.{form}')].astype(int) - np.asarray(wanted)).max() < 20


# ---- copies ------------------------------------------------------------------------------------------------------

def test_copies_are_counted_by_their_pixels(tmp_path):
    plain(tmp_path)
    Image.open(tmp_path/'train'/'cat'/'0.png').save(tmp_path/'test'/'cat'/'again.bmp')
    shutil.copy(tmp_path/'train'/'cat'/'1.png', tmp_path/'train'/'dog'/'from_cat.png')
    shutil.copy(tmp_path/'train'/'dog'/'1.png', tmp_path/'train'/'dog'/'twice.png')
    data = read(tmp_path)
    found = rows(data)
    assert found['test', 'cat']['found'] == {'copies of images to train on': 1}
    assert found['train', 'cat']['found'] == {'in two classes': 1} and found['train', 'dog']['found'] == {'in two classes': 1, 'twice in their class': 1}
    assert data.read['copied_test_images'] == [list(data.names[data.test_positions]).index('test/cat/again.bmp')]
    assert 'copies: 1 of 5 test images' in data.notes[-1] and '2 pictures lie in two classes' in data.notes[-1]
    shutil.copytree(tmp_path/'test', tmp_path/'valid')
    assert 'copies: 1 of 5 valid and 5 of 5 test images are copies of images to train on' in read(tmp_path).notes[-1]


# ---- layouts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('splits', [('training', 'testing'), ('Training', 'Testing'), ('train', 'validation'), ('TRAIN', 'Val'), ('train_set', 'test_set'), ('seg_train/seg_train', 'seg_test/seg_test'), ('train2017', 'val2017'), ('train/train', 'test/test'),
                                    ('train/images', 'test/images'), ('train-160', 'val-160'), ('train1', 'test1'), ('data.train', 'data.test'), ('trn', 'tst'), ('TrainingSet', 'TestSet'), ('train', 'eval'),
                                    ('asl_alphabet_train', 'asl_alphabet_test'), ('DATASET_TRAIN', 'DATASET_TEST'), ('train/data/images', 'test/data/images')])
def test_splits_by_other_names(tmp_path, splits):
    plain(tmp_path, splits=splits)
    (tmp_path/splits[0].split('/')[0]/'notes.txt').write_text('x')
    data = read(tmp_path)
    assert data.train_count == 6 and data.classes == ('cat', 'dog') and len(data.test_positions) == 4


def test_three_splits_are_used_for_what_they_are(tmp_path):
    plain(tmp_path)
    plain(tmp_path, splits=('other', 'valid'), test=3)
    shutil.rmtree(tmp_path/'other')
    data = read(tmp_path)
    assert [len(part) for part in (data.train_positions, data.valid_positions, data.test_positions)] == [6, 6, 4]
    assert data.fingerprints.keys() == {'train', 'valid', 'test'}


@pytest.mark.parametrize('others', [('validation', 'evaluation'), ('val', 'holdout'), ('eval', 'test')])
def test_an_evaluation_set_is_for_testing_unless_there_is_a_test_set(tmp_path, others):
    plain(tmp_path, splits=('training', others[0]), test=3)
    plain(tmp_path, splits=('training', others[1]))
    data = read(tmp_path)
    assert [len(part) for part in (data.train_positions, data.valid_positions, data.test_positions)] == [6, 6, 4]
    assert all(name.startswith(f'{others[1]}/') for name in data.names[data.test_positions])


def test_a_class_may_be_called_like_a_split(tmp_path):
    plain(tmp_path, ('steam_train', 'crash_set', 'car'), splits=('.', '.'))
    refused(tmp_path, 'car, crash_set, steam_train(.|\n)*--test-share')
    assert read(tmp_path, test_share=0.3).classes == ('car', 'crash_set', 'steam_train')
    (tmp_path/'labels.csv').write_text('file,label\n' + '\n'.join(f'{path.relative_to(tmp_path)},{path.parent.name}' for path in tmp_path.rglob('*.png')))
    assert read(tmp_path, test_share=0.3, labels='labels.csv').classes == ('car', 'crash_set', 'steam_train')


@pytest.mark.parametrize('trained, tested', [(('Cat', 'Dog'), ('cat', 'DOG')), (('cat ', 'dog.'), ('cat', 'dog')), (('0', '1'), ('00', '1.0')), (('great dane', 'pug'), ('Great_Dane', 'pug'))])
def test_a_class_that_is_written_otherwise_in_another_split(tmp_path, trained, tested):
    plain(tmp_path, trained, splits=('train', 'train'))
    plain(tmp_path, tested, splits=('test', 'test'))
    data = read(tmp_path)
    assert data.classes == trained and data.labels.tolist() == [0, 0, 0, 1, 1, 1]*2 and f"'{tested[0]}' for '{trained[0]}'" in data.notes[0]
    if trained[0] == 'Cat':
        plain(tmp_path, ('CAT',), splits=('train', 'train'))
        refused(tmp_path, "lacks: 'cat'") # either may be meant


def test_a_table_beside_means_the_class_that_is_written_alike(tmp_path):
    plain(tmp_path, ('Cat', 'cat', 'dog'), splits=('train', 'train'))
    (tmp_path/'test').mkdir()
    for number in range(6): picture(5, number).save(tmp_path/'test'/f'{number}.png')
    (tmp_path/'test.csv').write_text('file,label\n' + ''.join(f'{number}.png,{("Cat", "cat", "DOG")[number % 3]}\n' for number in range(6)))
    data = read(tmp_path)
    assert [data.classes[data.labels[list(data.names).index(f'test/{number}.png')]] for number in range(6)] == ['Cat', 'cat', 'dog']*2


def test_a_file_that_may_not_be_read_stops_nothing_that_does_not_need_it(tmp_path, monkeypatch, notices):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    (plain(tmp_path/'pets')/'notes.txt').write_text('x')
    def open_file(path, *asked, whole=Path.open, **options):
        if path.name == denied: raise PermissionError(13, 'Permission denied', str(path))
        return whole(path, *asked, **options)
    monkeypatch.setattr(Path, 'open', open_file)
    denied = 'notes.txt'
    assert len(load_images(tmp_path/'pets').labels) == 10
    denied = '2.png'
    with pytest.raises(BadInput, match='train/cat/2.png cannot be read: Permission denied\nMake it readable'): load_images(tmp_path/'pets', 16)


def test_a_folder_called_like_a_split_beside_the_classes(tmp_path):
    plain(tmp_path/'some', splits=('.', '.'), train=4)
    for number in range(4): (tmp_path/'some'/'test').mkdir(exist_ok=True), picture(9, number).save(tmp_path/'some'/'test'/f'{number}.png')
    data = read(tmp_path/'some', test_share=0.3)
    assert data.classes == ('cat', 'dog') and data.read['left_out'][UNLABELLED]['files'] == 4 and 'called like a split, and no class: test/' in data.notes[0]
    (tmp_path/'some'/'test').rename(tmp_path/'some'/'unlabeled')
    assert read(tmp_path/'some', test_share=0.3).read['left_out'][UNLABELLED]['files'] == 4
    (tmp_path/'some'/'unlabeled').rename(tmp_path/'some'/'test')
    shutil.rmtree(tmp_path/'some'/'dog')
    assert read(tmp_path/'some', test_share=0.3).classes == ('cat', 'test')
    plain(tmp_path/'none', splits=('valid', 'test'))
    for share in (0., 0.3): refused(tmp_path/'none', "has 'test', 'valid', and no train/", test_share=share)


@pytest.mark.parametrize('splits', [('train', 'test'), ('.', '.')])
def test_pictures_and_their_masks_are_no_classes(tmp_path, splits):
    plain(tmp_path, ('images', 'masks'), splits=splits)
    refused(tmp_path, "'images', 'masks' are no classes(.|\n)*--labels FILE", test_share=0.3 if splits[0] == '.' else 0.)


def test_splits_in_the_folders_of_the_classes(tmp_path):
    for title in ('cat', 'dog'): plain(tmp_path/title, ('',))
    (tmp_path/'README').write_text('x')
    data = read(tmp_path)
    assert (data.classes, data.labels.tolist(), data.train_count) == (('cat', 'dog'), [0, 0, 0, 1, 1, 1, 0, 0, 1, 1], 6) and data.names[6] == 'cat/test/0.png'
    for old, new in (('cat', 'images'), ('dog', 'masks')): (tmp_path/old).rename(tmp_path/new)
    refused(tmp_path, 'no images under train') # a layout for segmentation


@pytest.mark.parametrize('beside', [{'readme.txt': 'x'}, {'meta/train.txt': 'cat/0\ndog/1', 'LICENSE': 'x'}, {'Annotation/cat/0': '<xml>'}, {'images.txt': '1 cat/0.png\n2 cat/1.png\n3 dog/0.png\n4 dog/1.png'},
                                    {'exif.csv': 'file,camera\ncat/0.png,Canon\ncat/1.png,Nikon\ndog/0.png,Canon\ndog/1.png,Nikon'}, {'sample_submission.csv': 'id,label\n0,a\n1,b\n2,b'}])
def test_what_lies_beside_a_folder_of_classes(tmp_path, beside):
    plain(tmp_path/'images', splits=('.', '.'))
    for name, text in beside.items():
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).write_text(text)
    data = read(tmp_path, test_share=0.3)
    assert data.classes == ('cat', 'dog') and len(data.labels) == 6 and sum(about['files'] for about in data.read['left_out'].values()) == len(beside)
    refused(tmp_path, 'cat, dog(.|\n)*--test-share')


def test_a_file_called_like_one_of_the_official_data_sets(tmp_path):
    (plain(tmp_path)/'train.bin').write_bytes(b'weights')
    assert len(read(tmp_path).labels) == 10


def test_the_classes_of_a_split_may_be_in_a_table(tmp_path):
    "As in Tiny ImageNet, and in the traffic signs of GTSRB"
    plain(tmp_path/'tiny', ('n01', 'n02'), splits=('train', 'train'))
    for part, count in (('val', 6), ('test', 2)):
        (tmp_path/'tiny'/part/'images').mkdir(parents=True)
        for number in range(count): picture(part == 'val', number, 5).save(tmp_path/'tiny'/part/'images'/f'{part}_{number}.JPEG')
    (tmp_path/'tiny'/'words.txt').write_text('n01\tgoldfish\nn02\tsalamander')
    (tmp_path/'tiny'/'val'/'val_annotations.txt').write_text(''.join(f"val_{number}.JPEG\t{('n02', 'n01')[number % 2]}\t0\t32\t44\t62\n" for number in range(5)))
    data = read(tmp_path/'tiny')
    assert {name: data.classes[label] for name, label in zip(data.names, data.labels) if name.startswith('val')} == {f'val/images/val_{number}.JPEG': ('n02', 'n01')[number % 2] for number in range(5)}
    assert data.read['left_out']['without a row in val/val_annotations.txt']['files'] == 1 and 'val_annotations.txt' in data.notes[0]
    plain(tmp_path/'signs', ('00', '01', '02'), splits=('Train', 'Train'))
    (tmp_path/'signs'/'Test').mkdir()
    for number in range(6): picture(7, number).save(tmp_path/'signs'/'Test'/f'{number:05}.png')
    (tmp_path/'signs'/'sample_submission.csv').write_text('Path,ClassId\n' + ''.join(f'{number:05}.png,{number % 2}\n' for number in range(6)))
    refused(tmp_path/'signs', 'no images under test/')
    (tmp_path/'signs'/'Test.csv').write_text('Width,ClassId,Path\n' + ''.join(f'{number % 3},{number % 3},Test/{number:05}.png\n' for number in range(6)))
    for boxes in ('', ' 10 20 30 40'): # ImageNet has boxes behind the class
        (tmp_path/'tiny'/'val'/'val_annotations.txt').write_text('ImageId,PredictionString\n' + ''.join(f"val_{number},{('n02', 'n01')[number % 2]}{boxes}\n" for number in range(6)))
        assert len(read(tmp_path/'tiny').test_positions) == 6
    data = read(tmp_path/'signs')
    assert data.classes == ('00', '01', '02') and [data.labels[list(data.names).index(f'Test/{number:05}.png')] for number in range(6)] == [0, 1, 2]*2


def test_an_unlabelled_test_set_is_for_predict(tmp_path):
    plain(tmp_path, splits=('train', 'valid'))
    (tmp_path/'test'/'unknown').mkdir(parents=True)
    picture(9).save(tmp_path/'test'/'unknown'/'1.png')
    data = read(tmp_path)
    assert len(data.test_positions) == 4 and 'predict' in data.notes[0]
    shutil.rmtree(tmp_path/'valid')
    refused(tmp_path, '--test-share')
    assert len(read(tmp_path, test_share=0.34).test_positions) == 2


def test_a_test_set_is_drawn_in_each_class_and_copies_stay_on_one_side(tmp_path):
    plain(tmp_path, splits=('.', 'none'), train=10, test=0)
    shutil.rmtree(tmp_path/'none')
    for number in range(4): shutil.copy(tmp_path/'cat'/'0.png', tmp_path/'cat'/f'copy{number}.png')
    refused(tmp_path, '--test-share')
    data = read(tmp_path, test_share=0.2)
    assert np.bincount(data.labels[data.test_positions]).tolist() == [3, 2] and data.notes[0].startswith('5 test images were drawn')
    sides = {position < data.train_count for position, name in enumerate(data.names) if name == 'cat/0.png' or 'copy' in name}
    assert len(sides) == 1 and data.read['copied_test_images'] == []
    for image, name in zip(data.images, data.names): assert np.array_equal(image, np.asarray(Image.open(tmp_path/name)))
    assert read(tmp_path, test_share=0.2).fingerprints == data.fingerprints
    refused(plain(tmp_path/'whole'), 'Leave the option out', test_share=0.2)


TABLES = {
    'commas': 'name,label\n{rows}', 'bom and semicolons': '\ufefffile;class\n{rows}', 'tabs': 'image\tbreed\n{rows}', 'absolute': 'filepath,category\n{rows}', 'no head': '{rows}',
    'more columns': 'number,image_id,size,label\n{rows}', 'no endings': 'id,label\n{rows}'}


@pytest.mark.parametrize('form', TABLES)
def test_labels_in_a_table(tmp_path, form):
    (tmp_path/'pets'/'train').mkdir(parents=True)
    (tmp_path/'pets'/'test').mkdir()
    lines, wanted = [], {}
    for number in range(12):
        name, title = f"{'train' if number < 8 else 'test'}/p{number}.png", ('cat', 'dog')[number % 2]
        picture(number).save(tmp_path/'pets'/name)
        wanted[name] = title
        shown = f'/home/ann/pets/{name}' if form == 'absolute' else name[:-4] if form == 'no endings' else name
        cells = [str(number), shown, '8', title] if form == 'more columns' else [shown, title]
        lines.append({'bom and semicolons': ';', 'tabs': '\t'}.get(form, ',').join(cells))
    (tmp_path/'labels.csv').write_text(TABLES[form].format(rows='\r\n'.join(lines) + '\r\n'), encoding='utf8')
    data = read(tmp_path/'pets', labels=str(tmp_path/'labels.csv'))
    assert {name: data.classes[label] for name, label in zip(data.names, data.labels)} == wanted and data.train_count == 8
    shutil.move(tmp_path/'labels.csv', tmp_path/'pets'/'labels.csv')
    assert read(tmp_path/'pets').fingerprints == data.fingerprints


def test_a_table_may_say_the_splits_and_is_refused_where_it_is_not_plain(tmp_path):
    for number in range(6): picture(number).save(tmp_path/f'{number}.png')
    def table(text, **asked):
        (tmp_path/'t.csv').write_text(text)
        return read(tmp_path, labels='t.csv', **asked)
    lines = [f"{number}.png,{'ab'[number % 2]},{('train', 'train', 'train', 'train', 'test', 'test')[number]}" for number in range(6)]
    assert table('\n'.join(['file,label,split', *lines])).train_count == 4
    data = table('\n'.join(['file,label,split', *lines, '9.png,a,train', '0.png,a,train']))
    assert '9.png' in data.notes[0] and data.train_count == 4
    for text, message in [('\n'.join(['file,label,split', *lines, '0.png,b,train']), 'two classes'), ('file,one,two\n0.png,a,b\n1.png,b,a', '--label-column one'),
                          ('file,label\nnothing.png,a\nno.png,b', 'names no file'), ('\n'.join(['file,label', *(line.rpartition(',')[0] for line in lines)]), '--test-share')]:
        with pytest.raises(BadInput, match=message): table(text)
    with pytest.raises(BadInput, match='no such file'): read(tmp_path, labels='nowhere.csv')


def lines_of(*titles, form='{name},{title}'): return '\n'.join(form.format(name=f'{number}.png', title=title) for number, title in enumerate(titles))


@pytest.mark.parametrize('text, wanted', [
    (lines_of(*'abab', 'a b', 'b', form='{name} {title}').replace('a b', 'a'), 'ababab'), # a list with spaces
    ('image,mel,nevus\n' + lines_of(*['1.0,0.0', '0,1']*3), ['mel', 'nevus']*3), # a column for each class
    ('\n'.join(f'{number}.png\tn{number % 2}\t0\t{number}\t62' for number in range(6)), ['n0', 'n1']*3), # boxes beside the class, no head
    ('path,class,fold\n' + lines_of(*[f"{'ab'[number % 2]},{number}" for number in range(6)]), 'ababab'), # folds are not splits
    ('image,finding\n' + lines_of(*['"tench, Tinca"', 'missile']*2, *['"projectile, missile"']*2), ['tench, Tinca', 'missile']*2 + ['projectile, missile']*2),
    ('image, finding\n' + lines_of(*['"crane, bird"', '"crane, machine"']*3, form='{name}, {title}'), ['crane, bird', 'crane, machine']*3),
    (lines_of(*'ababab').replace('.png', ''), 'ababab'), # no head, and no endings
    ('Labels of May,,\nfile,label,\n' + lines_of(*'ababab', form='{name},{title},'), 'ababab'), # a title above
    ('url,label\n' + lines_of(*'ababab', form='https://example.com/my%20set/{name}?w=200&s=1#top,{title}'), 'ababab'),
    (lines_of('great dane', 'poodle', *['great dane']*3, 'poodle', form='{name} {title}'), ['great dane', 'poodle', *['great dane']*3, 'poodle']),
    (lines_of(*'ababab', form='{name} {title} 5'), 'ababab'), # three columns
    ('image;x, y, z;label\n' + lines_of(*'ababab', form='{name};1,5;{title}'), 'ababab'), # commas in the numbers of another country
    ('sep=;\nfile;label\n' + lines_of(*'ababab', form='{name};{title}'), 'ababab'), ('file,label,,\n' + lines_of(*'ababab', form='{name},{title},,'), 'ababab'), # Excel
    ('file,label\n' + lines_of(*'ababab').replace('.png', '.PNG'), 'ababab'), ('file,label\n' + lines_of(*'ababab').replace('.png', '.jpg'), 'ababab'),
    ('id,class_id,labels\n' + lines_of(*['0,a', '1,b']*3), 'ababab'), # the class twice
    ('file,label,split\n' + lines_of(*['a,', 'b,']*3), 'ababab'), # nothing in a column
    ('file,label\n' + lines_of('a', 'nan', *'abab')[:-8] + '\n5.png,<NA>', {0: 'a', 2: 'a', 3: 'b', 4: 'a'}), ('file,label\n' + lines_of('a', 'N/A', *'ab', '#N/A', 'NA'), {0: 'a', 2: 'a', 3: 'b'}), ('file,a,b\n' + lines_of('1,0', '0,1', '0,0', '0,1', '1,0'), {0: 'a', 1: 'b', 3: 'b', 4: 'a'})])
def test_tables_as_people_write_them(tmp_path, text, wanted):
    for number in range(6): picture(number).save(tmp_path/f'{number}.png')
    (tmp_path/'t.txt').write_text(text)
    data = read(tmp_path, labels='t.txt', test_share=0.3)
    assert {name: data.classes[label] for name, label in zip(data.names, data.labels)} == {f'{number}.png': title for number, title in (wanted.items() if isinstance(wanted, dict) else enumerate(wanted))}


@pytest.mark.parametrize('name, content', [('t.json', json.dumps({f'{number}.png': 'ab'[number % 2] for number in range(6)})), ('t.json', json.dumps({'labels': [[f'x/{number}.png', number % 2] for number in range(6)]})),
                                           ('t.json', '\n'.join(json.dumps({'file_name': f'{number}.png', 'label': number % 2}) for number in range(6))),
                                           ('t.json', json.dumps({f'{number}.png': {'label': number % 2, 'by': 'ann'} for number in range(6)})),
                                           ('t.json', json.dumps({'file': {str(number): f'{number}.png' for number in range(6)}, 'label': {str(number): number % 2 for number in range(6)}})), # pandas
                                           ('t.jsonl', '\n'.join(json.dumps({'file_name': f'{number}.png', 'label': ['ab'[number % 2]]}) for number in range(6)))])
def test_tables_in_json(tmp_path, name, content):
    for number in range(6): picture(number).save(tmp_path/f'{number}.png')
    (tmp_path/name).write_text(content)
    data = read(tmp_path, labels=name, test_share=0.3)
    assert all(label == int(name[0]) % 2 for name, label in zip(data.names, data.labels)) and len(data.labels) == 6


@pytest.mark.parametrize('titles', [('007', '7'), ('1', '1.0'), ('Cat', 'cat'), ('cat', 'cat.'), ('fish', '\ufb01sh')])
def test_classes_that_are_nearly_written_alike_are_named(tmp_path, titles):
    plain(tmp_path, (*titles, 'dog'))
    assert f"differ only in case, blanks, signs for blanks, dots at an end, or the zeros of a number: {titles[0]!r}, {titles[1]!r}" in read(tmp_path).notes[0]


def test_names_in_a_table_of_another_system(tmp_path):
    "The accents of macOS, the letters of Windows, and a name that is in two splits"
    for part in ('train', 'test'):
        (tmp_path/part).mkdir()
        for number in range(4): picture(part == 'test', number).save(tmp_path/part/f'cafe\u0301{number}.png')
    for encoding in ('utf8', 'cp1252', 'utf-16', 'utf-16-le', 'utf-16-be'):
        (tmp_path/'t.csv').write_bytes(('file,label,split\n' + ''.join(f"café{number}.png,{('thé', 'tea')[number % 2]},{part}\n" for part in ('train', 'test') for number in range(4))).encode(encoding))
        data = read(tmp_path, labels='t.csv')
        assert (data.classes, data.labels.tolist(), data.train_count) == (('tea', 'thé'), [0, 0, 1, 1]*2, 4)


def test_a_row_of_a_folder_that_is_not_there_is_no_other_picture(tmp_path):
    plain(tmp_path, splits=('.', '.'), train=4)
    shutil.rmtree(tmp_path/'cat')
    (tmp_path/'dog'/'0.png').rename(tmp_path/'dog'/'image.png') # called like the column
    names = [f'dog/{name}.png,{kind}' for name, kind in (('image', 'pug'), ('1', 'beagle'), ('2', 'pug'), ('3', 'beagle'))]
    (tmp_path/'t.csv').write_text('\n'.join(['image,breed', *names, *(f'cat/{number}.png,tabby' for number in range(4))]))
    data = read(tmp_path, labels='t.csv', test_share=0.3)
    assert data.classes == ('beagle', 'pug') and len(data.labels) == 4 and 'names 4 files that are not there' in data.notes[0]


@pytest.mark.parametrize('head', [',id,label', 'index,image,label', 'label,id', 'Unnamed: 0,name,class'])
def test_the_number_of_a_row_is_no_name(tmp_path, head):
    for number in range(8):
        picture(number).save(tmp_path/f'{number}.png')
        (tmp_path/f'{number}.txt').write_text('a caption')
    cells = [f"{number % 2},{number}" if head == 'label,id' else f"{7 - number},{number},{number % 2}" for number in range(8)]
    gone = ['0,9'] if head == 'label,id' else ['3,9,0'] # a file that is not there
    (tmp_path/'t.csv').write_text('\n'.join([head, *cells, *gone]))
    data = read(tmp_path, labels='t.csv', test_share=0.3)
    assert {name: data.classes[label] for name, label in zip(data.names, data.labels)} == {f'{number}.png': str(number % 2) for number in range(8)}
    (tmp_path/'t.csv').write_text('\n'.join(['one,two,label', *(f"{7 - number},{number},{number % 2}" for number in range(8))]))
    refused(tmp_path, "in two columns: 'one', 'two'", labels='t.csv', test_share=0.3)


def test_a_column_may_say_which_images_are_for_training(tmp_path):
    for number in range(6): picture(number).save(tmp_path/f'{number}.png')
    (tmp_path/'t.csv').write_text('file,label,is_training_image\n' + lines_of(*['a,1', 'b,1', 'a,1', 'b,1', 'a,0', 'b,0']))
    assert read(tmp_path).train_count == 4
    (tmp_path/'t.csv').write_text('file,label,Data Split\n' + lines_of(*['a,TRAIN', 'b,Training', 'a,VAL', 'b,val', 'a,Test', 'b,test']))
    assert (lambda data: (data.train_count, data.valid_count))(read(tmp_path)) == (2, 2)


def test_masks_beside_the_pictures_are_no_pictures_of_the_class(tmp_path):
    for number in range(8):
        for place in (f'images/{("pug", "beagle")[number % 2]}_{number}.jpg', f'annotations/{("pug", "beagle")[number % 2]}_{number}.png'):
            (tmp_path/place).parent.mkdir(exist_ok=True)
            picture(number).save(tmp_path/place)
    refused(tmp_path, 'such as masks', labels='names', test_share=0.3)
    assert read(tmp_path/'images', labels='names', test_share=0.3).classes == ('beagle', 'pug')
    for path in (tmp_path/'annotations').iterdir(): path.rename(path.with_stem(f'{path.stem}_mask'))
    (tmp_path/'t.csv').write_text('mask,image,label\n' + ''.join(f'{name}_mask.png,{name}.jpg,{name[:3]}\n' for name in (path.stem for path in (tmp_path/'images').iterdir())))
    assert {Path(name).suffix for name in read(tmp_path, labels='t.csv', test_share=0.3).names.tolist()} == {'.jpg'}
    plain(tmp_path/'scans')
    picture(9).save(tmp_path/'scans'/'train'/'cat'/'1_mask.png')
    assert "called like masks of others" in read(tmp_path/'scans').notes[0]


@pytest.mark.parametrize('text, said', [
    ('image,finding\n' + lines_of('cat', 'dog', '"cat,dog"', 'cat', 'dog', 'cat'), 'several classes'), ('image,labels\n' + lines_of('cat', 'dog', 'dog cat', 'cat', 'dog', 'cat'), 'several classes'),
    ('image,age\n' + lines_of(*[number + 0.5 for number in range(12)]), 'measured or counted'), ('image,label,split\n' + lines_of(*['a,train', 'b,spare']*3), "split 'spare'"),
    ('image,label\n' + lines_of(*['crane, bird', 'crane, machine']*3), 'quotes'), ('image,cat,dog\n' + lines_of('1,0', '0,1', '1,1'), 'several classes'),
    ('image,age\n' + lines_of(*range(20, 32)), 'measured or counted'), ('image,title\n' + lines_of(*'abcdefghijkl'), 'another value for each'),
    ('image,label\n' + lines_of(*[0, 1, 2, -1]*3), 'has -1 beside 0 to 2'), ('id,label,Confidence\n' + lines_of(*['cat,1', 'dog,0', 'dog,1']*4), "column 'Confidence' which classes"), ('image,label,label\n' + lines_of(*['a,x', 'b,y']*3), "2 columns called 'label'"), ('image,label\n0.png,a\0\n1.png,b', 'is no text'),
    ('id,label\n0000,a\n0001,b', "The files are called such as '0.png', '1.png'"), ('PK\3\4\0', 'a workbook of Excel: save it as .csv'),
    ('image,label\n0.png,"a\n1.png,b\n2.png,a\n3.png,"b"\n' + lines_of(*'ab'), 'line break(.|\n)*quote'), ('lesion,image,dx,sex\n' + '\n'.join(f'L{number},{number},{("nv", "mel")[number % 2]},{("m", "f")[number//6]}' for number in range(12)), '--label-column dx')])
def test_what_is_no_class_is_refused(tmp_path, text, said):
    for number in range(12): picture(number).save(tmp_path/f'{number}.png')
    (tmp_path/'t.csv').write_text(text)
    refused(tmp_path, said, labels='t.csv', test_share=0.3)


@pytest.mark.parametrize('column, values, asked', [('kind', range(12), ''), ('age', range(20, 32), 'age'), ('label', range(20, 32), ''), ('label', (-1, 1), ''), ('label', (-1, 0), '')])
def test_numbers_are_classes_where_that_is_plain(tmp_path, column, values, asked):
    values = [*values]*(24//len(values))
    for number in range(24): picture(number).save(tmp_path/f'{number}.png')
    (tmp_path/'t.csv').write_text(f'image,{column},Confidence\n' + lines_of(*[f'{value},0.{number}' for number, value in enumerate(values)]))
    data = read(tmp_path, labels='t.csv', label_column=asked or (column if column == 'kind' else ''), test_share=0.4)
    assert sorted(map(int, data.classes)) == sorted({*values})
    (tmp_path/'t.csv').write_text(f'image,{column}\n' + lines_of(*values))
    assert read(tmp_path, labels='t.csv', label_column=asked, test_share=0.4).classes == data.classes


def test_a_table_for_each_split_means_the_pictures_of_that_split(tmp_path):
    for part in ('train', 'test'):
        (tmp_path/part).mkdir()
        for number in range(4): picture(part == 'train', number).save(tmp_path/part/f'{number}.png')
        (tmp_path/f'{part}.csv').write_text('file,label\n' + lines_of(*('abab' if part == 'train' else 'bbaa')))
    data = read(tmp_path)
    assert {name: data.classes[label] for name, label in zip(data.names, data.labels)} == {f'{part}/{number}.png': title for part, titles in (('train', 'abab'), ('test', 'bbaa')) for number, title in enumerate(titles)}


def test_a_table_beside_the_folders_of_classes(tmp_path):
    "It numbers these, or has other classes in folders that are parts of one set"
    plain(tmp_path/'numbered', splits=('.', '.'), train=4)
    (tmp_path/'numbered'/'default.txt').write_text(''.join(f'{title}/{number}.png {label}\n' for label, title in enumerate(('cat', 'dog')) for number in range(4)))
    assert read(tmp_path/'numbered', test_share=0.3).classes == ('cat', 'dog')
    plain(tmp_path/'parts', ('images_part_1', 'images_part_2'), splits=('.', '.'), train=4)
    names = [f'images_part_{part}/{number}.png' for part in (1, 2) for number in range(4)]
    (tmp_path/'parts'/'about.csv').write_text('file,dx,sex\n' + ''.join(f'{name},{("nv", "mel")[at % 2]},{("m", "f")[at//2 % 2]}\n' for at, name in enumerate(names)))
    refused(tmp_path/'parts', '--label-column dx', test_share=0.3)
    assert read(tmp_path/'parts', labels='about.csv', label_column='dx', test_share=0.3).classes == ('mel', 'nv')


@pytest.mark.parametrize('names', [('train.csv', 'test.csv'), ('train_labels.txt', 'test_labels.txt'), ('train/_classes.csv', 'test/_classes.csv')])
@pytest.mark.parametrize('labels', [True, False])
def test_a_table_for_each_split(tmp_path, names, labels):
    for part, name in zip(('train', 'test'), names):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        place = (tmp_path/name).parent if '/' in name else tmp_path/'images'
        place.mkdir(exist_ok=True)
        for number in range(4): picture(part == 'train', number).save(place/f'{part}{number}.png')
        (tmp_path/name).write_text('file,label\n' + lines_of(*'abab').replace('\n', f'\n{part}').join([part, '']))
    data = read(tmp_path, **({'labels': names[0]} if labels else {}))
    assert (data.labels.tolist(), data.train_count) == ([0, 0, 1, 1]*2, 4)
    assert all(('train' in name) == (at < 4) for at, name in enumerate(data.names))


def test_a_list_without_classes_beside_a_table_gives_none(tmp_path):
    for number in range(6): picture(number).save(tmp_path/f'{number}.png')
    (tmp_path/'train.csv').write_text('file,label\n' + lines_of(*'abab'))
    (tmp_path/'test.csv').write_text('file\n4.png\n5.png')
    data = read(tmp_path, labels='train.csv', test_share=0.5)
    assert len(data.labels) == 4 and data.read['left_out']['without a row in train.csv']['files'] == 2
    assert any('no class is taken from the table beside it: test.csv' in note for note in data.notes)


def test_what_tables_say_beside_the_classes_is_no_class(tmp_path):
    "Captions as Hugging Face keeps them, and the notes of Roboflow's export above its tables"
    plain(tmp_path/'hub')
    for part in ('train', 'test'):
        (tmp_path/'hub'/part/'metadata.csv').write_text('file_name,text\n' + ''.join(f'{path.relative_to(tmp_path/"hub"/part)},a picture {at}\n' for at, path in enumerate((tmp_path/'hub'/part).rglob('*.png'))))
    assert read(tmp_path/'hub').classes == ('cat', 'dog')
    for part in ('train', 'test'):
        (tmp_path/'flow'/part).mkdir(parents=True)
        for number in range(4): picture(part == 'train', number).save(tmp_path/'flow'/part/f'{part}{number}.jpg')
        (tmp_path/'flow'/part/'_classes.csv').write_text('filename, cat, dog\n' + ''.join(f'{part}{number}.jpg, {number % 2}, {1 - number % 2}\n' for number in range(4)))
    (tmp_path/'flow'/'README.roboflow.txt').write_text('Pets, v1\nexported, in 2024\n')
    data = read(tmp_path/'flow')
    assert (data.classes, data.labels.tolist(), data.train_count) == (('cat', 'dog'), [0, 0, 1, 1]*2, 4)
    (tmp_path/'flow'/'train'/'_classes.csv').write_text('filename, cat, dog\ntrain0.jpg, 1, 1\ntrain1.jpg, 0, 1\n')
    (tmp_path/'flow'/'test'/'_classes.csv').unlink()
    refused(tmp_path/'flow', 'several classes')


def test_what_is_to_be_done_is_said(tmp_path):
    (tmp_path/'train').mkdir()
    for number in range(8): picture(number).save(tmp_path/'train'/f'{("cat", "dog")[number % 2]}.{number}.jpg')
    (tmp_path/'sampleSubmission.csv').write_text('id,label\n' + ''.join(f'{("cat", "dog")[number % 2]}.{number},{number % 2}\n' for number in range(8)))
    refused(tmp_path, "cat', 'dog'(.|\n)*--labels names")
    (tmp_path/'packed').mkdir()
    (tmp_path/'packed'/'train.zip').write_bytes(b'PK')
    refused(tmp_path/'packed', 'train.zip.: unpack')
    (tmp_path/'train'/'metadata.parquet').write_bytes(b'PAR1')
    refused(tmp_path, 'If train/metadata.parquet says the classes: save it as .csv')


def test_hugging_face_and_labels_in_names(tmp_path):
    for part in ('train', 'test'):
        (tmp_path/'hub'/part).mkdir(parents=True)
        for number in range(4): picture(part == 'train', number).save(tmp_path/'hub'/part/f'{number}.png')
        (tmp_path/'hub'/part/'metadata.csv').write_text('file_name,label\n' + ''.join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(4)))
    data = read(tmp_path/'hub')
    assert (data.classes, data.labels.tolist(), data.train_count) == (('a', 'b'), [0, 0, 1, 1]*2, 4)
    (tmp_path/'flat').mkdir()
    for number in range(10): picture(number).save(tmp_path/'flat'/f"{('cat.{}', 'great_dane_{}', 'cat ({})', 'great_dane-{}', 'cat_{}')[number % 5].format(number)}.jpg")
    data = read(tmp_path/'flat', labels='names', test_share=0.25)
    assert data.classes == ('cat', 'great_dane') and np.bincount(data.labels).tolist() == [6, 4]


# ---- hold-outs ---------------------------------------------------------------------------------------------------

def test_a_hold_out_that_nobody_typed_is_as_good_as_the_data_allow(tmp_path):
    data = read(plain(tmp_path, tuple(f'kind{number:02}' for number in range(40)), train=5, test=1))
    train, held = split(data, 0, 20, 0, about=True)
    assert len(held) == 40 and set(data.labels[train]) == set(data.labels[held]) == set(range(40))
    one = read(plain(tmp_path/'one', train=1, test=1))
    with pytest.raises(BadInput, match='no class has two') as caught: split(one, 0, 1, 0, about=True)
    assert '--' not in str(caught.value)


# ---- any tree of folders -----------------------------------------------------------------------------------------

CONTENTS = {'picture': lambda number: encoded(picture(number)), 'grey': lambda number: encoded(picture(number).convert('L')), 'animated': lambda number: encoded(picture(number), 'gif', save_all=True, append_images=[picture(number + 1)]),
            'deep': lambda number: encoded(Image.fromarray(grey(number).astype(np.uint16)*16), 'tiff'), 'text': lambda number: b'words %d' % number, 'heic': lambda number: b'\0\0\0\x18ftypheic' + bytes(90)}


def encoded(image, form='png', **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


ENTRIES, SHARES = (st.lists(st.tuples(st.sampled_from(['train', 'train', 'test', 'valid', 'extra', '.hidden', '@eaDir', '']), st.sampled_from(['cat', 'dog', 'cat', 'dog/b', 'Cat', b'\xb9\xb7', '@eaDir', '.git', '']),
                          st.sampled_from(['1.png', '2.jpg', '3', 'x.txt', '._1.png', 'Thumbs.db', '4.HEIC', '\n.png', b'\xff.png', 'link', 'up']), st.sampled_from(sorted(CONTENTS))), max_size=6),
       st.sampled_from([0., 0.3]))


def check_tree(entries, share):
    "Make a folder of these files, and hold what is read of it against what is there"
    with tempfile.TemporaryDirectory() as folder:
        root = os.fsencode(os.path.join(folder, 'set'))
        plain(Path(os.fsdecode(root)), splits=('train', 'test') if not share else ('.', '.'))
        for number, (part, title, name, content) in enumerate(entries):
            place = b'/'.join(map(os.fsencode, filter(None, (os.fsdecode(root), part, title))))
            with suppress(FileExistsError, NotADirectoryError): os.makedirs(place)
            path = os.path.join(place, os.fsencode(name))
            if os.path.lexists(path) or not os.path.isdir(place): continue
            if name == 'link': os.symlink(b'nowhere', path)
            elif name == 'up': os.symlink(b'..', path)
            else:
                with open(path, 'wb') as file: file.write(CONTENTS[content](100 + number))
        there = sum(len(names) for _, _, names in os.walk(root)) + sum(os.path.islink(os.path.join(place, name)) for place, names, _ in os.walk(root) for name in names)
        try: data = read(os.fsdecode(root), test_share=share)
        except BadInput as error:
            assert 1 <= len(str(error).splitlines()) <= 5
            return
        read_in, left = len(data.labels), sum(about['files'] for about in data.read['left_out'].values())
        assert read_in + left == there and read_in == sum(row['images'] for row in data.read['rows'])
        assert all(row['files'] == row['images'] + sum(row['left_out'].values()) for row in data.read['rows'])
        assert len(data.notes) <= 4 and json.dumps(data.read).encode() and all(name.encode('utf8') for name in data.names)


def test_a_name_with_a_line_break_does_not_break_the_message():
    check_tree([('train', 'cat', '\n.png', 'heic'), ('train', 'dog', '\n.png', 'heic')], 0.)


@settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(ENTRIES, SHARES)
def test_every_file_of_any_tree_is_read_or_counted_with_a_reason(entries, share): check_tree(entries, share)


@pytest.mark.parametrize('text', ['{}', '[]', 'null', '3', '["a.png"]', '{"a": {}}'])
def test_a_table_in_json_without_rows_is_told_so(text):
    with pytest.raises(BadInput, match='labels.json is no table: it holds no rows'): read_table(text.encode(), 'labels.json')
