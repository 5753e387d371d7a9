"""Files and streams: whole files, JSON lines, captions, media, progress, errors."""
