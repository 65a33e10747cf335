"""An image and any network, in; its label image, out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from cellpost._arrays import Array, Arrays, dtype_name, to_host
from cellpost._pipeline import pipelined
from cellpost._progress import Tell, tell_nobody, told
from cellpost.augment.view import View
from cellpost.augment.views import Views
from cellpost.labels import integer
from cellpost.models import Head, as_predictor
from cellpost.normalize import Normalization
from cellpost.properties import properties
from cellpost.segment_heads import Ensemble, InstanceHead, MapHead
from cellpost.segment_source import Source
from cellpost.tile_size import TILE_STEP, choose_tile_size, needs_sliding
from cellpost.tiles_grid import Padding, TileGrid
from cellpost.tiles_stitcher import name_tile
from cellpost.tiles_weights import Window

__all__ = ["NoCellsError", "segment"]

_NEARLY_ALL = 99.0  # percentile
_N_COARSE = 9  # tiles that are looked at for the size of cells
_LARGEST_TILE = 2048  # that a rule chooses


class NoCellsError(ValueError):
    """There are no whole cells to choose the tiles by."""


def segment(
    image: Array,
    model: Any,
    *,
    head: Head = "flows",
    tile: int | Sequence[int] | Literal["train4ever", "cell_size"] = 512,
    overlap: float | Sequence[float] | None = None,
    overlap_px: int | Sequence[int] | None = None,
    batch_size: int = 4,
    channel_axis: int | None = None,
    normalize: str | Normalization | None = None,
    limits: Any = None,
    scale: float = 1.0,
    model_diameter: float | None = None,
    augment: str | Iterable[View] | None = None,
    average: Literal["logits", "probabilities"] = "logits",
    weights: Sequence[float] | None = None,
    window: Window | Array = "gaussian",
    window_sigma: float = 0.125,
    padding: Padding = "constant",
    keys: Sequence[str] | None = None,
    device: Any = None,
    amp: bool = False,
    postprocess: Callable[..., Any] | None = None,
    progress: bool | Callable[[int, int], None] = False,
    **head_options: Any,
) -> Any:
    """Segment an image of any size with any network: tiles, network, blending, labels.

    Parameters
    ----------
    image : (H, W), (H, W, C) or (C, H, W) array
        Any real dtype; NumPy, PyTorch, CuPy, JAX or DLPack, or what NumPy can read slices of
        (zarr, h5py, dask). Volumes, with three numbers for `tile`: (D, H, W) and a channel axis.
        Never written to.
    model : torch.nn.Module, onnxruntime.InferenceSession, callable, or a list of these
        Called with batches (n, C, h, w), as `as_predictor` says; a function with arrays of the
        library of `image`, and its outputs are copied, unless ``as_predictor(function, head=...,
        owns_output=True)`` says that they are new; with ``margin=...`` outputs are smaller than
        tiles, and these reach so much further. Of several networks all see each tile.
    head : {"flows", "hover", "instances", "labels"}
        What comes out. ``"flows"``: dY, dX and the cells' logit, for `follow_flows`. ``"hover"``:
        the nuclei's probability, horizontal and vertical map (3 channels); or background, nuclei,
        both maps and any types (4 or more), for `hover_watershed`. ``"instances"``: for each tile
        what `as_detections` reads, with masks. ``"labels"``: label images.
    tile : int, one per axis, or {"train4ever", "cell_size"}
        Side of the tiles that the network sees, in pixels; or chosen. ``"train4ever"``: the whole
        image at once, and tiles of `choose_tile_size` if `needs_sliding` says so. ``"cell_size"``:
        the whole cells in up to 9 tiles of 512 tell the diameter, and that the tiles and, with
        `model_diameter`, the scale; the overlap is more than 99 of 100 of them are long, too, but
        at most half a tile.
    overlap, overlap_px
        As of `TileGrid`, of the tiles without the margin; 0.6 if neither is given.
    batch_size : int
        Tiles that a network sees together, 1 or more.
    channel_axis : int, optional
        Which axis of `image` are the channels. If not given: with one axis more than space has, the
        first or the last, whichever has at most 4 values; an error if both or neither has.
    normalize : {"mediar", "vsm"} or Normalization, optional
        Measured on the whole image, as `normalization` says. If not given, values stay as they are,
        as float32.
    limits : array-like, optional
        (lower, upper) or one pair per channel, for `normalize` to use instead of measuring.
    scale : float
        The network sees the image resized by this, finite, > 0; labels have the image's size.
    model_diameter : float, optional
        Diameter of the cells that the network was trained on, in pixels, for ``"cell_size"``.
    augment : {"flips", "d4", "sartorius", ...}, Views or iterable of View, optional
        Views of each tile that the network sees, turned back and averaged (of instances: pooled,
        and the best one of each kept). The image alone if not given.
    average : {"logits", "probabilities"}
        What of the cells' logit is averaged over views and networks, as of `Views.mean`.
    weights : sequence of float, optional
        What each network counts in the mean, finite, > 0.
    window, window_sigma
        How maps are blended, as of `stitch`.
    padding : {"constant", "edge", "reflect", "wrap"}
        What is beyond the image, where that is smaller than the tile: 0 after the normalisation, or
        as of `TileGrid.extract`.
    keys, device, amp
        As of `as_predictor`.
    postprocess : callable, optional
        What makes labels, or what else is to be returned; called with the head options. With
        ``"flows"`` and ``"hover"`` instead of `follow_flows` or `hover_watershed`, with the whole
        map, (K, H, W): ``lambda maps: maps`` gives it. With ``"instances"`` instead of
        `paste_masks`, with the merged `Detections`, which need no masks then, and (H, W). It has to
        give labels, or a tuple that begins with them, where ``tile="train4ever"`` counts these.
    progress : bool or callable
        True: a bar on stderr. A function: called with the tiles done and the number of all.
    **head_options
        Keyword arguments of `follow_flows` or `hover_watershed`; of `merge_detections` and
        `paste_masks` for instances and labels. Checked before the network runs, but for those of
        maps that are given to `postprocess`.

    Returns
    -------
    (H, W) or (D, H, W) array
        Labels, int32 if not said otherwise, 1 to n without gaps; of the library and on the device
        of `image` (NumPy for what is read lazily). With ``return_report=True``: ``(labels,
        report)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the network raises such, or its output has another size,
        number, dtype or number of channels than it should, or NaN: the tile is named.
    NoCellsError
        A ValueError: if no cells are there to choose the tiles by, with ``"cell_size"``.
    RuntimeError
        If the network raises another error: the tiles are named, and its error is the cause.

    See Also
    --------
    TileGrid, Stitcher, as_predictor, Views, choose_tile_size

    Notes
    -----
    The steps are public, and nothing more than this: ``TileGrid.extract``, the network,
    `stitch`, and the head's function, on the whole map. So with ``"flows"`` and ``"hover"`` neither
    tile nor batch size cuts a cell, and where the network's answer at a pixel hangs on nothing
    beyond its tile, the labels are those of the image in one piece. With ``"instances"`` and
    ``"labels"`` the overlap has to be larger than the largest cell: one that no tile sees whole
    stays in parts; the report counts those that a tile's border cuts. Reading ahead and blending
    run in threads beside the network; on a GPU all of it on the caller's stream.

    Memory: the result, the whole map (4 bytes a channel and pixel), and
    ``ceil(tile / stride) + 1`` rows of tiles. With `normalize` or a scale the image as float32
    besides, unless it is read lazily: then tiles are normalised as they are read, and an image is
    read whole only where limits are to be measured or it is to be resized.

    Examples
    --------
    >>> import numpy as np, cellpost
    >>> def network(tiles):  # flows to the middle of each 16 x 16 square
    ...     n, _, h, w = tiles.shape
    ...     to = 8 - np.arange(w) % 16
    ...     flow = np.broadcast_to(to, (n, h, w)).astype(np.float32)
    ...     return np.stack([flow.swapaxes(1, 2), flow, tiles[:, 0]], axis=1)
    >>> image = np.ones((64, 96), np.float32)
    >>> cellpost.segment(image, network, tile=32, overlap=0.5, flow_threshold=0).max()
    np.int32(24)
    """
    models = model if isinstance(model, (list, tuple)) else [model]
    if len(models) == 0:
        raise ValueError("model: expected one or more; got none")
    n_axes = _n_axes(tile)
    if head is None or (n_axes == 3 and head in ("hover", "instances", "labels")):
        expected = "'flows' for a volume" if n_axes == 3 else "the name of one"
        raise ValueError(f"head: expected {expected}; got {head!r}")
    networks = Ensemble(
        [as_predictor(one, head=head, keys=keys, device=device, amp=amp) for one in models],
        [1.0] * len(models) if weights is None else weights,
        Views("identity" if augment is None else augment),
        average,
    )
    size = _positive("batch_size", batch_size)
    resize = View(scale=scale)
    scale = resize.scale
    by_cells = isinstance(tile, str) and tile == "cell_size"
    if by_cells and scale != 1:
        raise ValueError(f"scale: expected 1 with tile='cell_size', which chooses it; got {scale}")
    if model_diameter is not None and not by_cells:
        raise ValueError(
            f"model_diameter: expected None unless tile is 'cell_size'; got {model_diameter!r}"
        )
    if n_axes == 3 and scale != 1:
        raise ValueError(f"scale: expected 1 for a volume; got {scale}")
    source = Source(image, channel_axis, n_axes, normalize, limits)
    seen = source.seen

    margin = networks.margin
    if postprocess is not None and not callable(postprocess):
        raise TypeError(f"postprocess: expected a function or None; got {postprocess!r}")
    if postprocess is not None and head == "labels":
        raise ValueError(f"postprocess: expected None with head {head!r}; got {postprocess!r}")

    def made_of(
        seen: Any,
        shape: tuple[int, ...],
        tell: Tell,
        postprocess: Callable[..., Any] | None = postprocess,
        options: dict[str, Any] = head_options,
        **layout: Any,
    ) -> Any:
        grid = TileGrid(seen.shape[1:], **layout)
        sink: MapHead | InstanceHead
        if head in ("flows", "hover"):
            sink = MapHead(grid, head, window, window_sigma, options, postprocess)
        else:
            sink = InstanceHead(grid, head, options, postprocess)
        places = _widened(grid, margin)
        _run(seen, places, networks, sink, size, padding, tell)
        return sink.labels(shape)

    layout: dict[str, Any] = {"tile": tile, "overlap": overlap, "overlap_px": overlap_px}
    if not isinstance(tile, str):
        layout["tile"] = _without_margin(tile, margin)
    if 0 in source.shape:  # no rule says anything of it
        layout["tile"] = _LARGEST_TILE if isinstance(tile, str) else tile
    elif isinstance(tile, str) and tile == "train4ever":
        layout["tile"] = choose_tile_size(source.shape).tile
        TileGrid(source.shape, **layout)  # or an error, before the network has seen it all
        if scale != 1:
            seen = source.resized(resize.shape(source.shape))
        if not needs_sliding(source.shape):
            # What the strides of networks divide; the image is padded to it.
            sides = [-(-n // TILE_STEP) * TILE_STEP for n in seen.shape[1:]]
            found = made_of(seen, source.shape, tell_nobody, tile=sides)
            if not needs_sliding(source.shape, _largest_label(found)):
                with told(progress, "tiles") as tell:
                    tell(1, 1)
                return source.result(found)
    elif isinstance(tile, str) and tile == "cell_size":
        # Errors, before the network has seen anything.
        TileGrid((1, 1), tile=_LARGEST_TILE, overlap=overlap, overlap_px=overlap_px)
        choose_tile_size(source.shape, tile, diameter=1.0, model_diameter=model_diameter)
        # Of maps the options are the function's own.
        usual = {} if postprocess is not None and head != "instances" else head_options
        diameter, extent = _cells(seen, partial(made_of, postprocess=None, options=usual))
        chosen = choose_tile_size(
            source.shape, tile, diameter=diameter, model_diameter=model_diameter
        )
        layout["tile"], resize = chosen.tile, View(scale=chosen.scale)
        if overlap is None and overlap_px is None:
            reach = min(math.ceil(extent * resize.scale) + 1, chosen.tile // 2)
            layout["overlap_px"] = max(chosen.overlap_px or 0, reach)
        if resize.scale != 1:
            seen = source.resized(resize.shape(source.shape))
    elif scale != 1:
        seen = source.resized(resize.shape(source.shape))
    with told(progress, "tiles") as tell:
        return source.result(made_of(seen, source.shape, tell, **layout))


def _without_margin(tile: int | Sequence[int], margin: int) -> Any:
    """Sides of what the network tells of a tile."""
    sides: list[int] = [integer("tile", n) for n in np.atleast_1d(np.asarray(tile, object))]
    if margin and min(sides) <= 2 * margin:
        raise ValueError(
            f"tile: expected more than twice the networks' margin of {margin}; got {tile!r}"
        )
    inner = [n - 2 * margin for n in sides]
    return inner[0] if np.ndim(tile) == 0 else inner


def _widened(grid: TileGrid, margin: int) -> TileGrid:
    """The grid of what networks see, where they tell of `grid`."""
    if margin == 0:
        return grid
    tile = [side + 2 * margin for side in grid.tile]
    return TileGrid.at(grid.shape, tile, [(starts - margin).tolist() for starts in grid.starts])


# ---- the work -----------------------------------------------------------------------------------


def _run(
    seen: Any,
    grid: TileGrid,
    networks: Ensemble,
    sink: MapHead | InstanceHead,
    batch_size: int,
    padding: Padding,
    tell: Tell,
) -> None:
    """Read the tiles, let the networks see them, and put their outputs into the sink."""

    def indices_of(k: int) -> NDArray[np.int64]:
        return np.arange(k * batch_size, min((k + 1) * batch_size, len(grid)))

    def read(k: int) -> Array:
        tiles = grid.extract(seen, indices_of(k), padding=padding)
        if dtype_name(tiles) != "float32":
            xp = array_namespace(tiles)
            tiles = xp.astype(tiles, xp.float32)
        return tiles

    def predict(k: int, tiles: Array) -> Any:
        try:
            return sink.take(indices_of(k), sink.predict(tiles, networks))
        except (TypeError, ValueError) as error:
            # Not its own class, which may want to be made of more than a message.
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{error}; in {where(k)}") from error
        except Exception as error:
            raise RuntimeError(f"model: {error!r} in {where(k)}") from error

    def where(k: int) -> str:
        return ", ".join(name_tile(grid, i) for i in indices_of(k).tolist())

    for done in pipelined(-(-len(grid) // batch_size), read, predict, sink.finish):
        tell(min(done * batch_size, len(grid)), len(grid))


def _cells(seen: Any, labels_of: Callable[..., Any]) -> tuple[float, float]:
    """Diameter of typical cells, and how far nearly all reach along an axis, in pixels.

    Of those in a few tiles all over the image that no tile cuts.
    """
    shape = tuple(seen.shape[1:])
    tile = choose_tile_size(shape, "cell_size", diameter=1.0).tile * 2
    places = TileGrid(shape, tile=tile, overlap=0)  # the last ones are whole, too
    chosen = np.unique(np.linspace(0, len(places) - 1, _N_COARSE).round().astype(int))
    found: list[NDArray[np.float64]] = []
    extents: list[NDArray[np.float64]] = []
    for i in chosen.tolist():
        window = (slice(None), *places[i])
        part = seen[window]
        size = tuple(part.shape[1:])
        labels = labels_of(part, size, tell_nobody, tile=tile, overlap=0.5)
        cells = properties(to_host(_labels(labels)))
        low, high = cells["bbox"][:, :2], cells["bbox"][:, 2:]
        begin, end = (np.array([getattr(p, at) for p in places[i]]) for at in ("start", "stop"))
        is_cut = ((low == 0) & (begin > 0)).any(1) | ((high == size) & (end < shape)).any(1)
        found.append(2 * np.sqrt(cells["area"][~is_cut] / math.pi))
        extents.append((high - low).max(1)[~is_cut])
    diameters = np.concatenate(found)
    if len(diameters) == 0:
        raise NoCellsError(
            f"tile: expected whole cells in the {len(chosen)} tiles that 'cell_size' looks at; "
            "got none: give the size of the tiles"
        )
    return float(np.median(diameters)), float(np.percentile(np.concatenate(extents), _NEARLY_ALL))


def _labels(found: Any) -> Array:
    return found[0] if isinstance(found, tuple) else found


def _largest_label(found: Any) -> int:
    labels = _labels(found)
    try:
        is_integer = "int" in dtype_name(Arrays(labels=labels)["labels"])
    except TypeError:
        is_integer = False
    if not is_integer:
        raise ValueError(
            "postprocess: expected labels, or a tuple that begins with them, with "
            f"tile='train4ever', which counts them; got {type(labels).__name__}"
        )
    return int(labels.max()) if 0 not in labels.shape else 0


# ---- arguments ----------------------------------------------------------------------------------


def _n_axes(tile: Any) -> int:
    if not isinstance(tile, str) and np.ndim(tile) != 0 and len(tile) not in (2, 3):
        raise ValueError(f"tile: expected one number, or one for each of 2 or 3 axes; got {tile!r}")
    return 2 if isinstance(tile, str) or np.ndim(tile) == 0 else len(tile)


def _positive(name: str, value: Any) -> int:
    n = integer(name, value)
    if n < 1:
        raise ValueError(f"{name}: expected 1 or more; got {n}")
    return n
