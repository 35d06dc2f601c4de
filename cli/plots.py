"""Figures of trajectories over time, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidConfig, MissingPackage, WrongKind
from .whole_file import whole_file

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

FORMATS = (".png", ".pdf", ".svg")
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#3b6ea8", "#d1802c", "#4b8f5c", "#b8433f", "#7a5a9e", "#6b6b6b"
_SHADE = "#e9e6df"
_PICOSECOND = 1000.0
_SAME = 1e-9


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, drawn without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("Drawing needs matplotlib.", found=str(error), hint="pip install matplotlib") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure to a file.

    Raises
    ------
    InvalidConfig
        If the suffix names no format.
    StoreWriteFailed
        If the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise InvalidConfig(
            "The name does not say what to draw.", key=path, expected=", ".join(FORMATS), found=path.suffix or "none"
        )
    with whole_file(path, "figure") as part:
        figure.savefig(part, dpi=dpi)


# --- trajectories ------------------------------------------------------------------------------------------------


def trajectory_figure(dataset: xr.Dataset, title: str) -> Figure:
    """Energy, temperature, pressure, cell and volume over time, with the equilibration shaded.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of kind ``trajectory``.
    title : str
        Stands above.

    Raises
    ------
    WrongKind
        If it is no trajectory.
    """
    if dataset.attrs.get("kind") != "trajectory":
        raise WrongKind(
            "This cannot be drawn.", key=title, expected="kind trajectory", found=f"kind {dataset.attrs.get('kind')}"
        )
    wanted = [n for n in dataset.variables if dataset[n].dims[:1] == ("frame",) and "atom" not in dataset[n].dims]
    values = {str(name): dataset[name].to_numpy() for name in wanted}
    n_atoms = dataset.sizes["atom"]
    panels: list[tuple[Callable[..., None], tuple[Any, ...]]] = [(_energies, (values, n_atoms))]
    panels.append((_temperature, (values,)))
    if "pressure" in values:
        panels.append((_pressure, (values, dataset.attrs)))
    if np.abs(values["cell"]).max(initial=0.0) > 0:
        panels += [(_cell, (values["cell"],)), (_volume, (values,))]
    scale, unit = (_PICOSECOND, "ps") if values["time"].max(initial=0.0) >= 2 * _PICOSECOND else (1.0, "fs")
    time = values["time"] / scale
    figure = new_figure(8.0, 1.1 + 1.75 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (draw, arguments) in zip(axes, panels, strict=True):
        draw(axis, time, *arguments)
        dress(axis)
        _shade(axis, time, values["equilibration"], label=axis is axes[0])
    axes[-1].set_xlabel(f"time ({unit})")
    if len(time) > 1:
        axes[-1].set_xlim(time[0], time[-1])
    figure.align_ylabels(list(axes))
    figure.suptitle(_title(title, dataset.attrs, n_atoms, len(time)), fontsize=10, x=0.01, ha="left")
    return figure


def _mean(values: Mapping[str, Array], name: str, unit: str, digits: int) -> str:
    """The mean over the production, for a legend."""
    kept = values[name][values["equilibration"] == 0]
    return f"\nmean {kept.mean():.{digits}f} {unit}" if kept.size > 1 else ""


def _title(title: str, attributes: Mapping[str, Any], n_atoms: int, n_frames: int) -> str:
    how = " ".join(str(attributes[name]) for name in ("ensemble", "algorithm") if name in attributes)
    return f"{title}\n{how + ', ' if how else ''}{n_atoms} atoms, {n_frames} frames"


def dress(axis: Axes) -> None:
    """Give a panel the look of all our figures."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.yaxis.label.set_fontsize(9)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.margins(y=0.12)


def _shade(axis: Axes, time: Array, equilibration: Array, *, label: bool) -> None:
    """Shade the frames of equilibration, up to the first frame of production."""
    marked = np.flatnonzero(equilibration)
    if not marked.size:
        return
    last = int(marked[-1])
    end = time[min(last + 1, len(time) - 1)]
    axis.axvspan(time[0], end, color=_SHADE, zorder=0, linewidth=0)
    if label:
        axis.text(time[0], 1.02, " equilibration", transform=axis.get_xaxis_transform(), fontsize=7.5, color=GREY)


def _legend(axis: Axes) -> None:
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.4)


def _line(axis: Axes, time: Array, values: Array, color: str, label: str | None = None, **style: Any) -> None:
    marker = "o" if len(time) <= 60 and "linestyle" not in style else None
    axis.plot(time, values, color=color, label=label, linewidth=1.2, marker=marker, markersize=2.6, **style)


def _energies(axis: Axes, time: Array, values: Mapping[str, Array], n_atoms: int) -> None:
    potential, kinetic = values["energy"], values["kinetic_energy"]
    scale = 1000.0 / max(n_atoms, 1)
    _line(axis, time, (potential - potential[:1]) * scale, BLUE, "potential")
    _line(axis, time, (potential + kinetic - potential[:1] - kinetic[:1]) * scale, GREY, "total")
    conserved = values.get("conserved_energy")
    if conserved is not None and np.isfinite(conserved).all():
        _line(axis, time, (conserved - conserved[:1]) * scale, RED, "conserved", linestyle="--")
    axis.set_ylabel("energy − first\n(meV/atom)")
    _legend(axis)


def _temperature(axis: Axes, time: Array, values: Mapping[str, Array]) -> None:
    _line(axis, time, values["temperature"], ORANGE, "kinetic" + _mean(values, "temperature", "K", 1))
    if "target_temperature" in values:
        _line(axis, time, values["target_temperature"], GREY, "target", linestyle="--")
    axis.set_ylabel("temperature\n(K)")
    _legend(axis)


def _pressure(axis: Axes, time: Array, values: Mapping[str, Array], attributes: Mapping[str, Any]) -> None:
    _line(axis, time, values["pressure"], GREEN, "pressure" + _mean(values, "pressure", "GPa", 3))
    if "pressure_GPa" in attributes:
        axis.axhline(float(attributes["pressure_GPa"]), color=GREY, linestyle="--", linewidth=1.2, label="target")
    axis.set_ylabel("pressure\n(GPa)")
    _legend(axis)


def _cell(axis: Axes, time: Array, cells: Array) -> None:
    lengths = np.linalg.norm(cells, axis=2)
    start = np.where(lengths[:1] > 0, lengths[:1], 1.0)
    names = [f"{name} ({lengths[0, i]:.2f} Å)" for i, name in enumerate("abc")]
    for i, color in enumerate((BLUE, ORANGE, GREEN)):
        _line(axis, time, 100.0 * (lengths[:, i] / start[:, i] - 1.0), color, names[i])
    axis.set_ylabel("cell lengths\n(% of first)")
    _flat_is_flat(axis, lengths / start)
    _legend(axis)


def _volume(axis: Axes, time: Array, values: Mapping[str, Array]) -> None:
    volume = np.abs(np.linalg.det(values["cell"]))
    _line(axis, time, volume, PURPLE, "volume" + _mean({**values, "volume": volume}, "volume", "Å³", 1))
    axis.set_ylabel("volume\n(Å³)")
    _flat_is_flat(axis, volume / max(volume[0], _SAME), volume[0])
    _legend(axis)


def _flat_is_flat(axis: Axes, relative: Array, value: float | None = None) -> None:
    """Give a constant quantity a range, so that rounding is not drawn as motion."""
    if relative.size and np.ptp(relative, axis=0).max() < _SAME:
        center, half = (0.0, 1.0) if value is None else (value, 0.02 * value)
        axis.set_ylim(center - half, center + half)
