"""Static pages: a blinded user study and its tally, and a gallery of samples.

A page is one folder that a browser opens from the file system, without a server and
without network. What it shows is written into it as JSON; its HTML, CSS and JavaScript
lie in ``static`` as a person would write them, and nothing is built from them.
"""
