"""Test-time views of an image, and the way back for what is found in them.

A network sees an image several times: resized, mirrored, turned. `View` is one such way to see it
and `Views` several. The maps, boxes and mask crops that the network puts out for each view are
mapped back before they are averaged or fused. Array code only: nothing leaves its device.
"""

from cellpost.augment.view import View

# The function `views` hides the module of this name; it must be imported together with the module,
# which would hide the function else.
from cellpost.augment.views import Views, views

__all__ = ["View", "Views", "views"]
