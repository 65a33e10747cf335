"""MONAI's post-processing of HoVer maps, ``monai.apps.pathology.transforms.post``, made faster.

All its transforms are here, array and dictionary versions, with its names and arguments: change the
import and keep the rest. `Watershed`, `GenerateWatershedMask`, `GenerateInstanceBorder`,
`GenerateWatershedMarkers`, `HoVerNetInstanceMapPostProcessing` and
`HoVerNetNuclearTypePostProcessing` run cellpost's kernels; the others are MONAI's own. They are
subclasses of MONAI's, which must be installed, with scikit-image.

Results are MONAI's (1.6), ids, dtypes and containers included, but for these:

- Labels differ at pixels where equal energies meet, which noisy maps hardly ever have: scikit-image
  leaves the order open among markers of equal energy, here raster order decides
  (see `cellpost.watershed`).
- Borders may differ by 4e-7 of their range where PyTorch convolves in another order: images below
  some 250 pixels a side, or kernels above 21. A label differs only where one hangs on that.
- Objects of exactly `min_object_size` pixels stay, as MONAI's documentation says; with scikit-image
  0.26 MONAI removes them, too.
- Ids that `dtype` cannot hold raise OverflowError; in MONAI they wrap, and nuclei become one (the
  dictionary versions of the single steps have uint8 as default: up to 255).
- ``type_prob`` is in float64; MONAI rounds it to float32.
- A NaN in a HoVer map counts as 0 and to no range; in MONAI all of the result is NaN.
- `HoVerNetInstanceMapPostProcessing` of a HoVer map without extent (an empty tile) is empty; MONAI
  raises, as `GenerateInstanceBorder` alone does here, too.

``"centroid"`` of `HoVerNetInstanceMapPostProcessing` is MONAI's, too, whose value is wrong: it adds
the box's column to the row, and its row to the column. `cellpost.instance_table` has the right one.

Inputs that the kernels are not made for (several channels, float64 HoVer maps, a `connectivity`
that is an array, a `marker_postprocess_fn` of one's own) go the way through MONAI's code.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from cellpost.integrations._monai_hover import (
    GenerateInstanceBorder,
    GenerateWatershedMarkers,
    GenerateWatershedMask,
    HoVerNetInstanceMapPostProcessing,
    HoVerNetNuclearTypePostProcessing,
    Watershed,
    take_over,
)

__all__ = [
    "GenerateDistanceMap",
    "GenerateDistanceMapD",
    "GenerateDistanceMapDict",
    "GenerateDistanceMapd",
    "GenerateInstanceBorder",
    "GenerateInstanceBorderD",
    "GenerateInstanceBorderDict",
    "GenerateInstanceBorderd",
    "GenerateInstanceCentroid",
    "GenerateInstanceCentroidD",
    "GenerateInstanceCentroidDict",
    "GenerateInstanceCentroidd",
    "GenerateInstanceContour",
    "GenerateInstanceContourD",
    "GenerateInstanceContourDict",
    "GenerateInstanceContourd",
    "GenerateInstanceType",
    "GenerateInstanceTypeD",
    "GenerateInstanceTypeDict",
    "GenerateInstanceTyped",
    "GenerateSuccinctContour",
    "GenerateSuccinctContourD",
    "GenerateSuccinctContourDict",
    "GenerateSuccinctContourd",
    "GenerateWatershedMarkers",
    "GenerateWatershedMarkersD",
    "GenerateWatershedMarkersDict",
    "GenerateWatershedMarkersd",
    "GenerateWatershedMask",
    "GenerateWatershedMaskD",
    "GenerateWatershedMaskDict",
    "GenerateWatershedMaskd",
    "HoVerNetInstanceMapPostProcessing",
    "HoVerNetInstanceMapPostProcessingD",
    "HoVerNetInstanceMapPostProcessingDict",
    "HoVerNetInstanceMapPostProcessingd",
    "HoVerNetNuclearTypePostProcessing",
    "HoVerNetNuclearTypePostProcessingD",
    "HoVerNetNuclearTypePostProcessingDict",
    "HoVerNetNuclearTypePostProcessingd",
    "Watershed",
    "WatershedD",
    "WatershedDict",
    "Watershedd",
]

_array = importlib.import_module("monai.apps.pathology.transforms.post.array")
_dictionary = importlib.import_module("monai.apps.pathology.transforms.post.dictionary")

GenerateDistanceMap = _array.GenerateDistanceMap
GenerateInstanceCentroid = _array.GenerateInstanceCentroid
GenerateInstanceContour = _array.GenerateInstanceContour
GenerateInstanceType = _array.GenerateInstanceType
GenerateSuccinctContour = _array.GenerateSuccinctContour


def _of_items(name: str) -> Any:
    """MONAI's dictionary version, with the transform of this module inside."""
    theirs = getattr(_dictionary, name)

    @functools.wraps(theirs.__init__)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        theirs.__init__(self, *args, **kwargs)
        take_over(self)

    doc = f"`{name[:-1]}` of the items of a dictionary; arguments as MONAI's ``{name}``."
    return type(name, (theirs,), {"__init__": __init__, "__doc__": doc, "__module__": __name__})


Watershedd = WatershedD = WatershedDict = _of_items("Watershedd")
GenerateWatershedMaskd = GenerateWatershedMaskD = GenerateWatershedMaskDict = _of_items(
    "GenerateWatershedMaskd"
)
GenerateInstanceBorderd = GenerateInstanceBorderD = GenerateInstanceBorderDict = _of_items(
    "GenerateInstanceBorderd"
)
GenerateWatershedMarkersd = GenerateWatershedMarkersD = GenerateWatershedMarkersDict = _of_items(
    "GenerateWatershedMarkersd"
)
HoVerNetInstanceMapPostProcessingd = HoVerNetInstanceMapPostProcessingD = (
    HoVerNetInstanceMapPostProcessingDict
) = _of_items("HoVerNetInstanceMapPostProcessingd")
HoVerNetNuclearTypePostProcessingd = HoVerNetNuclearTypePostProcessingD = (
    HoVerNetNuclearTypePostProcessingDict
) = _of_items("HoVerNetNuclearTypePostProcessingd")

GenerateDistanceMapd = GenerateDistanceMapD = GenerateDistanceMapDict = (
    _dictionary.GenerateDistanceMapd
)
GenerateInstanceCentroidd = GenerateInstanceCentroidD = GenerateInstanceCentroidDict = (
    _dictionary.GenerateInstanceCentroidd
)
GenerateInstanceContourd = GenerateInstanceContourD = GenerateInstanceContourDict = (
    _dictionary.GenerateInstanceContourd
)
GenerateInstanceTyped = GenerateInstanceTypeD = GenerateInstanceTypeDict = (
    _dictionary.GenerateInstanceTyped
)
GenerateSuccinctContourd = GenerateSuccinctContourD = GenerateSuccinctContourDict = (
    _dictionary.GenerateSuccinctContourd
)
