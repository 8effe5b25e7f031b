"""Fake APNs and FCM that speak real HTTP/2 over TLS, for demos and tests: scripted answers, and phones to look at."""
