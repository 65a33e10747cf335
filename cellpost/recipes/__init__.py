"""Published systems as one call each: an image and networks in, its label image out.

Each recipe is a composition of public functions, with the system's own numbers for defaults. What
cellpost does better than the system did (no seams, no id twice, tiles by the size of cells) is on;
``paper=True`` does as the paper did, so that the difference can be measured.
"""

from cellpost.recipes.hovernet import hovernet_weak
from cellpost.recipes.mediar import mediar
from cellpost.recipes.sartorius import sartorius
from cellpost.recipes.train4ever import train4ever
from cellpost.recipes.vsm import vsm

__all__ = ["hovernet_weak", "mediar", "sartorius", "train4ever", "vsm"]
