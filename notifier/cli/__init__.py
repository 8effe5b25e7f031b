"""The `notifier` command."""
