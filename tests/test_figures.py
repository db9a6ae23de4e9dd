"Figures: true colours, nothing cut off or overlapping, named rightly, written whole"
import io
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from PIL import Image
from cifar_fastai.interpretation.charts import overlay, plot_class_accuracy, plot_matrix, plot_reliability
from cifar_fastai.base.figures import plot_images, save_figure
from cifar_fastai.training.curves import plot_curves, plot_lr_find

LONG = ['golden_retriever_of_the_north', 'a$b$c', 'Staffordshire bull terrier', 'ü' * 30, 'cat']


def page_of(figure):
    return np.asarray(Image.open(io.BytesIO(figure.png())).convert('RGB'))


def texts_of(figure):
    drawn = [*figure.texts]
    for legend in figure.legends: drawn += legend.get_texts()
    for axes in figure.axes:
        drawn += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        if axes.axison: drawn += [tick.label1 for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks() if axis.get_visible()]
    return [text for text in drawn if text.get_text().strip() and text.get_visible()]


def check_layout(figure, among=True):
    "Every text lies inside the page; texts overlap neither each other nor a picture"
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts_of(figure)]
    for text, box in zip(texts_of(figure), boxes):
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1, text
    if among:
        array = np.array([box.extents for box in boxes])
        for number, one in enumerate(array):
            apart = (array[:, 2] <= one[0] + 1) | (array[:, 0] >= one[2] - 1) | (array[:, 3] <= one[1] + 1) | (array[:, 1] >= one[3] - 1)
            apart[number] = True
            assert apart.all(), (texts_of(figure)[number], texts_of(figure)[int(np.argmin(apart))])
    return boxes


def axes_page(figure, axes):
    "The part of the page that one picture takes"
    page, box = page_of(figure), axes.get_window_extent()
    rows = slice(round(page.shape[0] - box.y1), round(page.shape[0] - box.y0))
    return page[rows, round(box.x0):round(box.x1)]


@pytest.mark.parametrize('side', [8, 28, 32, 96])
def test_a_pixel_becomes_a_square_of_its_own_colour(side):
    images = np.random.default_rng(0).integers(0, 256, (6, side, side, 3), dtype=np.uint8)
    figure = plot_images(images, ['one\ntwo'] * 6, columns=4, heading='Noise')
    for image, axes in zip(images, figure.axes):
        shown = axes_page(figure, axes)
        times = round(shown.shape[0] / side)
        assert shown.shape == (side * times, side * times, 3) and times >= 1
        np.testing.assert_array_equal(shown, np.kron(image, np.ones((times, times, 1), np.uint8)))


def test_wide_and_large_pictures_keep_their_shape():
    figure = plot_images(np.zeros((2, 300, 600, 3), np.uint8), ['a', 'b'])
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(2 * box.height)
    check_layout(figure)


@pytest.mark.parametrize('columns', [1, 3, 5])
def test_titles_of_a_gallery_stay_in_their_places(columns):
    titles = [f'{one} → {other}\np(predicted) 91.2%\np(actual) 6.1%\nindex 12345' for one, other in zip(LONG, LONG[1:] + LONG[:1])]
    figure = plot_images(np.zeros((5, 32, 32, 3), np.uint8), titles, columns=columns, heading='A heading that is long ' * 8,
                         colour_map='viridis', bar_label='evidence')
    boxes = check_layout(figure)
    for axes in figure.axes[:5]:
        picture = axes.get_window_extent()
        for box in boxes: assert box.y0 >= picture.y1 - 1 or box.y1 <= picture.y0 + 1 or box.x0 >= picture.x1 - 1 or box.x1 <= picture.x0 + 1


def test_names_are_never_read_as_formulas():
    figure = plot_images(np.zeros((1, 32, 32, 3), np.uint8), [r'$\frac{1$ → a_b'], heading=r'$\bad{$')
    figure.png()
    plot_matrix(np.eye(2, dtype=int), [r'$\x{$', 'a_b'], title=r'$\bad{$').png()


def history(epochs):
    step = np.arange(1, epochs + 1)
    return pd.DataFrame(dict(epoch=step, train_loss=2 / step, train_accuracy=1 - 1 / (step + 1), valid_loss=1.9 / step,
                             valid_accuracy=1 - 1 / (step + 2), lr=0.1 * step, seconds=1.))


@pytest.mark.parametrize('valid_is, words', [('holdout', 'hold-out'), ('test', 'test set')])
def test_curves_show_the_history_and_name_what_was_measured(valid_is, words):
    table = history(12)
    figure = plot_curves(table, valid_is)
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    for line, column in zip(lines, ['train_loss', 'valid_loss', 'train_accuracy', 'valid_accuracy', 'lr']):
        np.testing.assert_array_equal(line.get_xydata(), table[['epoch', column]])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[1] == words and 'training' in legend[0]
    assert not any('valid' in text.get_text().lower() for text in texts_of(figure))
    assert words in figure.describe()
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines[:2]}) == 2
    assert lines[0].get_linestyle() != lines[1].get_linestyle() and lines[0].get_marker() != lines[1].get_marker()
    check_layout(figure)


def test_curves_show_what_each_step_used():
    share = np.linspace(0, 1, 40)
    steps = pd.DataFrame(dict(step=np.arange(40), epoch=12*share, lr=0.4*np.sin(share*3), momentum=0.95 - 0.1*np.sin(share*3), loss=2 - share))
    figure = plot_curves(history(12), 'test', steps)
    assert [axes.get_title(loc='left') for axes in figure.axes] == ['Loss', 'Accuracy', 'Learning rate', 'Momentum']
    drawn = {column: next(line for line in figure.axes[place].get_lines() if len(line.get_xdata()) == 40) for place, column in ((0, 'loss'), (2, 'lr'), (3, 'momentum'))}
    for column, line in drawn.items(): np.testing.assert_array_equal(line.get_xydata(), steps[['epoch', column]])
    assert all(axes.get_xlim()[0] == 0 for axes in figure.axes) and figure.axes[2].get_ylim()[0] == 0
    check_layout(figure)
    assert len(plot_curves(history(12), 'test', steps.assign(momentum=0.9)).axes) == 3


@pytest.mark.parametrize('epochs', [0, 1, 200])
def test_curves_of_any_length(epochs):
    check_layout(plot_curves(history(epochs)))


def test_finder_shows_each_suggestion_where_it_is():
    curve = pd.DataFrame(dict(lr=np.geomspace(1e-6, 1, 50), loss=np.r_[np.linspace(2, 1, 49), np.inf]))
    suggestions = dict(valley=1e-3, steep=3e-4, minimum=1e-2, slide=5e-2)
    figure = plot_lr_find(curve, suggestions, 'valley')
    assert [line.get_xdata()[0] for line in figure.axes[0].get_lines()[1:]] == list(suggestions.values())
    assert figure.legends[0].get_texts()[0].get_text() == 'valley 0.001 (taken)'
    assert figure.axes[0].get_xscale() == 'log'
    check_layout(figure)


@pytest.mark.parametrize('count', [2, 10, 100])
def test_matrix_is_legible_and_the_right_way_round(count):
    matrix = np.random.default_rng(0).poisson(0.3, (count, count)) + np.diag([90] * count)
    figure = plot_matrix(matrix, [f'class number {number}' for number in range(count)])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('Predicted', 'Actual')
    found = np.zeros_like(matrix)
    for text in axes.texts: found[int(text.get_position()[1]), int(text.get_position()[0])] = int(text.get_text())
    np.testing.assert_array_equal(found, matrix)
    check_layout(figure)
    assert min(text.get_size() for text in texts_of(figure)) >= 4.5


def test_matrix_numbers_stand_out_from_their_cells():
    figure = plot_matrix(np.diag([1, 5, 10, 100]), list('abcd'))
    image = figure.axes[0].images[0]
    for text in figure.axes[0].texts:
        column, row = (int(place) for place in text.get_position())
        ground = np.dot(image.to_rgba(np.array([[image.get_array()[row, column]]]))[0, 0, :3], (0.2126, 0.7152, 0.0722))
        assert abs(ground - (0 if text.get_color() == 'black' else 1)) > 0.35


@pytest.mark.parametrize('count', [2, 100])
def test_bars_and_reliability_fit_their_pages(count):
    share = np.linspace(0, 1, count)
    table = pd.DataFrame(dict(right=(share * 1000).astype(int), images=1000, accuracy=share, low=share * 0.9, high=share),
                         index=[f'class with a long name {number}' for number in range(count)])
    table.iloc[0] = [0, 0, np.nan, np.nan, np.nan]
    check_layout(plot_class_accuracy(table, 0.5))
    edges = np.linspace(0, 1, 16)
    bins = pd.DataFrame(dict(left=edges[:-1], right=edges[1:], images=[0] * 14 + [5], confidence=[np.nan] * 14 + [0.95],
                             accuracy=[np.nan] * 14 + [0.8], low=[np.nan] * 14 + [0.4], high=[np.nan] * 14 + [0.96]))
    figure = plot_reliability(bins, 0.15)
    check_layout(figure)
    assert '15.00% surer than it is right' in figure.describe()


def test_bars_are_those_of_their_classes_worst_first():
    table = pd.DataFrame(dict(right=[9, 3, 5, 0], images=[10, 10, 10, 0], accuracy=[0.9, 0.3, 0.5, np.nan], low=[0.6, 0.1, 0.2, np.nan],
                              high=[0.98, 0.6, 0.8, np.nan]), index=['ant', 'bee', 'cat', 'dog'])
    axes, = plot_class_accuracy(table, 0.5).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ['bee', 'cat', 'ant', 'dog']
    assert [bar.get_width() for bar in sorted(axes.patches, key=lambda bar: bar.get_y())] == [0.3, 0.5, 0.9, 0] and axes.get_ylim()[0] > axes.get_ylim()[1]
    ends = np.array([[end[0] for end in segment] for segment in axes.collections[0].get_segments()])
    assert [segment[0][1] for segment in axes.collections[0].get_segments()] == [0, 1, 2, 3]
    np.testing.assert_allclose(ends[:3], [(0.1, 0.6), (0.2, 0.8), (0.6, 0.98)])
    assert [text.get_text() for text in axes.texts] == ['30.0% (3/10)', '50.0% (5/10)', '90.0% (9/10)', 'no images']


def test_reliability_shows_accuracy_over_confidence():
    bins = pd.DataFrame(dict(left=[0, 0.5], right=[0.5, 1], images=[3, 5], confidence=[0.4, 0.95], accuracy=[0.3, 0.8], low=[0.1, 0.4], high=[0.7, 0.9]))
    upper, lower = plot_reliability(bins, 0.15).axes
    assert [(bar.get_x(), bar.get_height()) for bar in upper.patches] == [(0, 0.3), (0.5, 0.8)] and [bar.get_height() for bar in lower.patches] == [3, 5]
    np.testing.assert_allclose(upper.collections[0].get_segments(), [[(0.4, 0.1), (0.4, 0.7)], [(0.95, 0.4), (0.95, 0.9)]])
    marks, = (line for line in upper.get_lines() if line.get_marker() == 'D')
    np.testing.assert_allclose(marks.get_xydata(), [(0.4, 0.4), (0.95, 0.95)])


def test_heat_lies_where_it_is_hot_and_a_dead_map_stays_grey():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    heat = np.zeros((2, 8, 12))
    heat[0, 1, 9] = 1
    over = overlay(images, heat, alpha=0.9, colour_map='viridis').astype(int)
    yellow = over[0, :, :, 0] + over[0, :, :, 1] - over[0, :, :, 2]
    assert np.unravel_index(yellow.argmax(), yellow.shape) == (1, 9)
    assert (over[1].max(-1) == over[1].min(-1)).all()


def test_a_file_is_whole_and_says_what_it_shows(tmp_path):
    figure = plot_images(np.zeros((1, 32, 32, 3), np.uint8), ['Ünïcode 猫'])
    path = save_figure(figure, tmp_path / 'figures' / 'a.png')
    with Image.open(path) as image: assert image.info['Description'] == figure.describe() != ''
    before = path.read_bytes()
    def broken(*args, **kwargs): raise OSError(28, 'No space left on device')
    figure.savefig = broken
    with pytest.raises(OSError): save_figure(figure, path)
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ['a.png']


def test_figures_leave_nothing_in_pyplot_and_show_in_a_notebook():
    open_before = pyplot.get_fignums()
    figure = plot_curves(history(3))
    content, metadata = figure._repr_mimebundle_()
    assert content['image/png'].startswith('iVBOR') and metadata['image/png']['alt'] == figure.describe()
    assert pyplot.get_fignums() == open_before
