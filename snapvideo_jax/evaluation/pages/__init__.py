"""Static pages: a blinded user study and its tally, and a gallery of samples.

A page is a folder that a browser opens from the file system, without server or network.
Its data are embedded as JSON; HTML, CSS and JavaScript are in ``static``, without a
build step.
"""
