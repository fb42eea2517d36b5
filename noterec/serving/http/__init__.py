"""The service as HTTP: paths, limits, the socket."""
