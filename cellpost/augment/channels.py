"""What the channels of a network's maps hold, and what becomes of them when the image is turned.

A channel is ``"scalar"`` (its value does not depend on the frame), ``"logit"`` (such a value, of
which the sigmoid is a probability), ``"y"`` or ``"x"`` (components, along these axes, of a vector
in the plane) or ``"z"`` (the component out of the plane, which a turn in the plane leaves alone).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["CHANNELS", "KINDS", "channel_kinds", "turned_channels"]

KINDS = ("scalar", "logit", "y", "x", "z")
CHANNELS = {
    "flows": ("y", "x", "logit"),
    "flows3d": ("z", "y", "x", "logit"),
    "hover": ("scalar", "x", "y"),
    "hover_softmax": ("scalar", "scalar", "x", "y"),
}


def channel_kinds(channels: str | Iterable[str]) -> tuple[str, ...]:
    """The kind of each channel.

    Parameters
    ----------
    channels : str or iterable of str
        ``"flows"``, ``"flows3d"``, ``"hover"``, ``"hover_softmax"``, or one of ``"scalar"``,
        ``"logit"``, ``"y"``, ``"x"``, ``"z"`` for each channel, with as many x as y.

    Returns
    -------
    tuple of str
        One kind for each channel.

    Raises
    ------
    TypeError
        If `channels` is no iterable.
    ValueError
        If a name or a kind is unknown, there is none, or a y has no x or an x no y.

    Examples
    --------
    >>> from cellpost.augment.channels import channel_kinds
    >>> channel_kinds("flows")
    ('y', 'x', 'logit')
    """
    presets, kinds = (", ".join(map(repr, names)) for names in (CHANNELS, KINDS))
    if isinstance(channels, str):
        if channels not in CHANNELS:
            raise ValueError(
                f"channels: expected one of {presets}, or for each channel one of {kinds}; "
                f"got {channels!r}"
            )
        return CHANNELS[channels]
    if not isinstance(channels, Iterable):
        raise TypeError(f"channels: expected a name or a kind for each channel; got {channels!r}")
    chosen = tuple(channels)
    if not chosen:
        raise ValueError("channels: expected one kind or more; got none")
    for i, kind in enumerate(chosen):
        if kind not in KINDS:
            raise ValueError(f"channels[{i}]: expected one of {kinds}; got {kind!r}")
    n_y, n_x = chosen.count("y"), chosen.count("x")
    if n_y != n_x:
        raise ValueError(f"channels: expected as many 'x' as 'y'; got {n_y} 'y' and {n_x} 'x'")
    return chosen


def turned_channels(
    kinds: Sequence[str], *, transposed: bool, reverse_y: bool, reverse_x: bool
) -> list[tuple[int, bool]]:
    """Where each channel comes from when the image is transposed, then reversed along y and x.

    Parameters
    ----------
    kinds : sequence of str
        As `channel_kinds` gives them. The k-th ``"y"`` and the k-th ``"x"`` are one vector.
    transposed, reverse_y, reverse_x : bool
        What is done to the image, in this order.

    Returns
    -------
    list of (int, bool)
        For each channel the one that it is taken from, and whether that is negated.

    Examples
    --------
    A quarter turn counter-clockwise reverses y after a transposition:

    >>> from cellpost.augment.channels import turned_channels
    >>> turned_channels(("y", "x", "logit"), transposed=True, reverse_y=True, reverse_x=False)
    [(1, True), (0, False), (2, False)]
    """
    places = {axis: [i for i, kind in enumerate(kinds) if kind == axis] for axis in "yx"}
    sources = list(range(len(kinds)))
    if transposed:
        for y, x in zip(places["y"], places["x"], strict=True):
            sources[y], sources[x] = x, y
    reversed_ = {"y": reverse_y, "x": reverse_x}
    return [
        (source, reversed_.get(kind, False)) for source, kind in zip(sources, kinds, strict=True)
    ]
