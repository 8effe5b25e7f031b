"""Clients that push to one server, each a program: PORT AUTHORITY COUNT IN_FLIGHT; JSON on stdout."""
