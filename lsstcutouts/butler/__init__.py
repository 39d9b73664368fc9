"""Everything that is asked of a Butler: dimension records and locations, in bulk and in one thread.

One Butler shared by several threads answers "no such dataset" for datasets that exist, and a remote one does
not pickle: so a `Repository` is opened where a plan is made, asked, and closed; readers get plain values.
"""

from .files import LocatedFile
from .repository import Repository, as_names

__all__ = ["LocatedFile", "Repository", "as_names"]
