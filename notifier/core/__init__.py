"""The pure side: standard library and msgspec only. No Twisted, no clock, no socket, no await."""
