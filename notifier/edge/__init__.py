"""The outside side: one file for each outside thing, on Twisted."""
