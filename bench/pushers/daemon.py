"""twistd with another bound on the connections of a pool, for which there is no setting: CONNECTIONS ARGUMENTS..."""

import sys

from twisted.scripts.twistd import run

from notifier.edge.http2 import pool

SIZES = pool.Sizes(most=int(sys.argv.pop(1)), grow_every=0.05)

pool.Sizes = lambda: SIZES  # type: ignore[assignment,misc]  # what a pool takes that is not told its sizes
run()  # type: ignore[no-untyped-call]  # untyped in Twisted
