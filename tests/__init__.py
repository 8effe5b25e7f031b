"""The tests; a package, so that `from tests.servers import Valkey` is never somebody else's `tests`."""
