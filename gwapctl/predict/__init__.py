"""Images in, boxes out: the Python API, the stream behind ``gwapctl localize``, and the folder that it writes."""
