"""The photo API: a small photo-sharing service whose likes, comments and follows become notifications."""
