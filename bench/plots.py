"""Plots of ratios, drawn where matplotlib is installed (the ``plot`` extra); the numbers are in the JSON anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

GROUP_WIDTH = 0.8


def draw_ratios(
    path: Path,
    title: str,
    ratios: Mapping[str, Mapping[str, float]],
    limits: Sequence[tuple[str, str, float]],
    unit: str = "times bare",
) -> None:
    """Draw one group of bars per shape, one bar per series, and a line where a bar may reach to.

    Args:
        ratios: by shape, then by series.
        limits: shape, series and the most that its ratio may be.
        unit: of the ratios, in words.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'sojourn[plot]')")
        return
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shapes = list(ratios)
    series = list(dict.fromkeys(name for shape in shapes for name in ratios[shape]))
    width = GROUP_WIDTH / len(series)
    for number, name in enumerate(series):
        places = [at - GROUP_WIDTH / 2 + (number + 0.5) * width for at in range(len(shapes))]
        heights = [ratios[shape].get(name, 0.0) for shape in shapes]
        bars = axes.bar(places, heights, width * 0.95, label=name)
        # Inside the bar, where no limit's line crosses it.
        words = [f"{height:.2f}" for height in heights]
        axes.bar_label(bars, words, label_type="center", color="white", fontsize=8)
    for shape, name, most in limits:
        if shape in shapes and name in series:
            place = shapes.index(shape) - GROUP_WIDTH / 2 + (series.index(name) + 0.5) * width
            axes.hlines(most, place - width / 2, place + width / 2, colors="black", linewidth=2)
    axes.set_xticks(range(len(shapes)), shapes)
    axes.set_ylabel(unit)
    axes.set_title(f"{title}; black: the most allowed" if limits else title, fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def draw_times(
    path: Path, title: str, counts: Sequence[float], marks: Sequence[tuple[float, str]], unit: str
) -> None:
    """Draw one bar per second, and a line where something was done.

    Args:
        counts: by second from 0.
        marks: moments in seconds, and what was done.
        unit: of the counts, in words.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'sojourn[plot]')")
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar([second + 0.5 for second in range(len(counts))], counts, 0.9)
    top = max([*counts, 1])
    axes.set_ylim(0, top * 1.35)
    for at, words in marks:
        axes.axvline(at, color="black", linewidth=1, linestyle=":")
        axes.text(at, top * 1.32, f" {words}", rotation=90, va="top", fontsize=8)
    axes.set_xlabel("seconds")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=120)
