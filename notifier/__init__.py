"""A self-hosted real-time notification server on Twisted."""

__version__ = "0.1.0"
