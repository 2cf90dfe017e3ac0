"""What the processes of `tests.processes` have loaded when they begin."""

import gc

import tests.worlds  # noqa: F401

gc.freeze()  # what is shared stays shared, and the collector never looks at it
