"""Classes that are known no more: one that a newer version of its file has replaced, or whose file no task file names.

A class counts as known by being a subclass, and Python forgets none as long as anybody holds it.
"""

from weakref import WeakSet

RETIRED: WeakSet[type] = WeakSet()
