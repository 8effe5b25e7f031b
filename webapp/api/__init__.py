"""The HTTP API: what comes in, what goes out. What is done is the work of the modules around it."""
