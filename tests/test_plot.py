"""Every figure draws, says what it draws, stays small, and gives the same bytes each time."""

import io
import itertools
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from nbclient import NotebookClient

from utils import draw, plot
from utils.train import History

LIMIT = 200_000  # bytes of SVG


@pytest.fixture(autouse=True)
def _styled():
    with plt.rc_context():
        plot.style()
        yield
    plt.close("all")


def history(epochs=5, **missing):
    falling = list(np.linspace(2, 0.5, epochs))
    rising = list(np.linspace(0.2, 0.9, epochs))
    lists = {"loss": falling, "val_loss": falling, "train_accuracy": rising, "val_accuracy": rising}
    return {**lists, **missing}


def diagram():
    fig, ax = plot.canvas(6, 4)
    plot.box(ax, 2, 3, "3×3 conv", color=plot.COLORS[0])
    plot.arrow(ax, (2, 2.6), (2, 1.25), "64 channels", bend=0.2)
    plot.circle(ax, 2, 1)
    plot.path(ax, [(2, 3.8), (4, 3.8), (4, 1), (2.25, 1)], text="identity")
    return fig


RANDOM = np.random.default_rng(0)
RUNS = RANDOM.random((3, 20))
FILTERS, LARGE = RANDOM.random((64, 7, 7)), RANDOM.random((60, 60))
PHOTOS = RANDOM.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)  # noise, the worst case
FIGURES = {
    "curves": lambda: plot.curves({"a": history(30), "b": history(30)}),
    "curves of six": lambda: plot.curves({f"m{i}": history(200) for i in range(6)}, ("error",)),
    "band": lambda: plot.mean_band({"a": RUNS, "b": RUNS + 1}, percent=True),
    "dots": lambda: plot.dot_range({"a": [0.9, 0.91], "b": [0.8]}, percent=True),
    "bars": lambda: plot.bars({"parameters": {"x": 9408}, "MACs": {"x": 2e9, "y": 5}}),
    "one bar": lambda: plot.bars({"x": 0}, xlabel="MACs"),
    "heat": lambda: plot.heat(np.tri(8) - np.triu(np.full((8, 8), np.nan), 1), label="weight"),
    "heat, large": lambda: plot.heat(LARGE),
    "confusion": lambda: plot.heat(np.eye(3, dtype=int), ["cat"] * 3, ["horse"] * 3, fmt="d"),
    "photographs": lambda: plot.image_grid(PHOTOS, titles=["automobile"] * 24),
    "filters": lambda: plot.image_grid(torch.as_tensor(FILTERS), columns=16),
    "diagram": diagram,
}


def svg(figure):
    file = io.BytesIO()
    figure.savefig(file, format="svg", **plot.SAVE)
    return file.getvalue()


@pytest.mark.parametrize("name", FIGURES)
def test_draws_small_and_the_same_bytes_each_time(name):
    figure = FIGURES[name]()
    assert isinstance(figure, plt.Figure)
    assert figure.number in plt.get_fignums()  # so that the inline backend shows it, once
    first = svg(figure)
    assert svg(FIGURES[name]()) == first
    assert len(first) < LIMIT
    assert b"<dc:date>" not in first


def test_the_same_bytes_in_another_process():
    code = (
        "import sys, matplotlib; matplotlib.use('Agg'); from utils import plot; plot.style();"
        "f = plot.bars({'a': 1, 'b': 2}); f.savefig(sys.stdout.buffer, format='svg', **plot.SAVE)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout == svg(plot.bars({"a": 1, "b": 2}))


def test_a_notebook_shows_one_svg_of_stable_bytes():
    cell = "plot.dot_range({'a': [1, 2]});"
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("from utils import plot\nplot.style()"),
            nbformat.v4.new_code_cell(cell),
            nbformat.v4.new_code_cell(cell),
        ]
    )
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    NotebookClient(notebook, timeout=120).execute()
    (first,), (second,) = (c.outputs for c in notebook.cells[1:])
    assert "image/svg+xml" in first.data
    assert "image/png" not in first.data
    assert first.data["image/svg+xml"] == second.data["image/svg+xml"]
    assert "<dc:date>" not in first.data["image/svg+xml"]
    # Cells are SVG in the book's dark mode, so the ground must be opaque where it is not inverted.
    assert re.search(r'style="fill: #ffffff"', first.data["image/svg+xml"])


def test_style_changes_nothing_but_settings():
    backend = plt.get_backend()
    plot.style()
    assert plt.get_backend() == backend
    assert plt.rcParams["svg.hashsalt"]
    assert not plt.get_fignums()


def lines_of(ax):
    return [(line.get_linestyle(), list(line.get_ydata())) for line in ax.lines]


def test_curves_draw_training_dashed_and_validation_solid():
    figure = plot.curves({"a": history(3, train_accuracy=[0.1, 0.2, 0.3])}, ("accuracy", "error"))
    accuracy, error = figure.axes
    assert lines_of(accuracy) == [("--", [10, 20, 30]), ("-", pytest.approx([20, 55, 90]))]
    assert lines_of(error)[0] == ("--", [90, 80, 70])
    assert "dashed: training" in figure.get_supxlabel()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a"]


def test_curves_take_a_history_and_a_record():
    lists = history()
    fields = {**lists, "lr": [0.1] * 5, "seconds": [1.0] * 5}
    ours = History(**fields, config={})
    arrays = {key: np.array(values) for key, values in lists.items()}
    for given in (ours, fields, arrays):
        figure = plot.curves({"a": given}, ("loss",))
        assert lines_of(figure.axes[0])[1][1] == lists["val_loss"]


def test_curves_leave_out_what_is_missing():
    figure = plot.curves({"a": history(val_loss=[], train_accuracy=None)})
    assert [len(ax.lines) for ax in figure.axes] == [1, 1]
    only = plot.curves({"a": {"val_loss": [1.0]}}, ("loss",))
    assert only.axes[0].lines[0].get_marker() == "o"  # a single epoch is a dot
    assert not only.get_supxlabel()


def test_band_is_what_its_note_says():
    runs = np.array([[1.0, 2], [3, 6]])
    for spread, low, note in (
        ("range", [1, 2], "lowest to highest"),
        ("std", [2 - 2**0.5, 4 - 8**0.5], "± one standard"),
    ):
        figure = plot.mean_band({"a": runs}, x=[0.1, 0.2], spread=spread)
        ax = figure.axes[0]
        assert list(ax.lines[0].get_ydata()) == [2, 4]
        assert ax.collections[0].get_datalim(ax.transData).y0 == pytest.approx(min(low))
        assert note in figure.get_supxlabel()
    assert not plot.mean_band({"a": runs[0]}).get_supxlabel()


def test_dots_show_every_seed_and_the_mean():
    figure = plot.dot_range({"a": torch.tensor([0.9, 0.92])}, percent=True)
    ax = figure.axes[0]
    assert ax.texts[0].get_text() == "91.0 ± 1.4"
    assert list(ax.lines[1].get_xdata()) == pytest.approx([90, 92])
    assert plot.dot_range({"a": [0.5]}).axes[0].texts[0].get_text() == "0.5"


def test_bars_line_rows_up_across_panels():
    figure = plot.bars({"parameters": {"a": 1, "b": 2}, "MACs": {"b": 3}})
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert [p.get_width() for p in figure.axes[1].patches] == [0, 3]


@pytest.mark.parametrize(
    ("number", "text"),
    [(9408, "9,408"), (0, "0"), (0.25, "0.25"), (11_689_512, "11.69 M"), (1.814e9, "1.81 G")],
)
def test_numbers_for_narrow_places(number, text):
    assert plot.human(number) == text


def test_heat_leaves_nan_empty_and_writes_numbers():
    figure = plot.heat([[0.1, np.nan], [0.5, 0.9]], rows=["r0", "r1"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.10", "0.50", "0.90"]
    assert not plot.heat(np.ones((3, 13))).axes[0].texts


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8, 3), (2, 8, 8), (2, 1, 8, 8)])
def test_photographs_in_every_layout(shape):
    images = torch.rand(shape).bfloat16().requires_grad_()
    figure = plot.image_grid(images, titles=["a", "b"])
    shown = figure.axes[1].images[0].get_array()
    expected = images[1].detach().float().numpy()
    expected = expected.transpose(1, 2, 0) if shape[1] == 3 else expected
    assert np.array_equal(np.asarray(shown), expected.squeeze())
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.curves({}), "histories is empty"),
        (lambda: plot.curves({"a": {}}), "histories hold no numbers"),
        (lambda: plot.curves({"a": history()}, ("acc",)), "metrics is a tuple of loss, accuracy"),
        (lambda: plot.curves({"a": history()}, "loss"), "metrics is a tuple"),
        (lambda: plot.curves({str(i): history() for i in range(7)}), "7 lines .* at most 6"),
        (lambda: plot.mean_band({}), "runs is empty"),
        (lambda: plot.mean_band({"a": []}), "runs\\['a'\\] is empty"),
        (lambda: plot.mean_band({"a": [[1, 2]]}, x=[1]), "expected \\(seeds, 1\\)"),
        (lambda: plot.mean_band({"a": [1, 2]}, spread="sem"), "'range' or 'std'"),
        (lambda: plot.dot_range({}), "groups is empty"),
        (lambda: plot.dot_range({"a": []}), "groups\\['a'\\] is empty"),
        (lambda: plot.bars({}), "values is empty"),
        (lambda: plot.bars({"MACs": {}}), "values is empty"),
        (lambda: plot.heat([]), "matrix has two axes"),
        (lambda: plot.heat([[1, 2]], rows=["a", "b"]), "1 rows, but 2 names"),
        (lambda: plot.image_grid([]), "images is empty"),
        (lambda: plot.image_grid(np.zeros((2, 4, 8, 8))), "images have the shape"),
        (lambda: plot.image_grid(np.full((1, 8, 8), 1.5)), "uint8 or floats 0..1; got 1.50"),
        (lambda: plot.image_grid(np.full((1, 8, 8), np.nan)), "uint8 or floats 0..1"),
        (lambda: plot.image_grid(np.zeros((2, 8, 8)), titles=["a"]), "2 images need 2 titles"),
    ],
)
def test_bad_input_is_one_clear_sentence_and_no_figure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert not plt.get_fignums()


# Colour, after WCAG 2 (contrast), CSS filter effects (hue-rotate) and Machado, Oliveira and
# Fernandes 2009 (colour blindness, severity 1).
BLIND = {
    "nobody": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
ROTATE = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])


def linear(rgb):
    rgb = np.asarray(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    dark, light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light + 0.05) / (dark + 0.05)


def in_dark_mode(color):
    return np.clip(ROTATE @ (1 - np.asarray(to_rgb(color))), 0, 1)


def lab(rgb, blindness):
    seen = np.clip(np.asarray(BLIND[blindness]) @ linear(rgb), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(xyz @ seen / [0.9505, 1, 1.0888])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("color", [*plot.COLORS, plot.INK, plot.MUTED])
def test_colors_stand_out_in_light_and_dark(color):
    assert contrast(to_rgb(color), (1, 1, 1)) >= 3.5
    assert contrast(in_dark_mode(color), (0, 0, 0)) >= 6


@pytest.mark.parametrize("mode", [to_rgb, in_dark_mode])
@pytest.mark.parametrize("blindness", BLIND)
def test_colors_differ_for_everybody(blindness, mode):
    pairs = itertools.combinations(plot.COLORS, 2)
    apart = min(np.linalg.norm(lab(mode(a), blindness) - lab(mode(b), blindness)) for a, b in pairs)
    assert apart > (25 if blindness == "nobody" else 10)  # 2.3 is just noticeable


def test_heat_numbers_can_be_read():
    from utils.pictures import BLUES

    for value in np.linspace(0, 1, 50):
        text = "white" if value > 0.58 else plot.INK
        assert contrast(BLUES(value)[:3], to_rgb(text)) >= 3.5


def test_plot_passes_on_what_draw_has():
    assert plot.box is draw.box
    assert all(hasattr(plot, name) for name in plot.__all__)
