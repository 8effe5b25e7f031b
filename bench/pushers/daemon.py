"""twistd with a bound on the connections of a pool that opens them quickly: CONNECTIONS ARGUMENTS..."""

import sys

from twisted.scripts.twistd import run

from notifier.edge.http2 import pool

SIZES = pool.Sizes(most=int(sys.argv.pop(1)), grow_every=0.05)

pool.Sizes = lambda **_: SIZES  # type: ignore[assignment,misc]  # how soon a pool grows is no setting: only a bench wants it at once
run()  # type: ignore[no-untyped-call]  # untyped in Twisted
