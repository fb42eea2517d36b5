"""Neighbours for whoever asks: a question on the command line, an HTTP service, and pages for people.

query       one question, in Python and from the command line
service     a live index, an encoder and the answers that are kept; it knows nothing of HTTP
http/       the service's paths, its limits, and the socket
explorer/   the pages
"""
