"""The service on the GPU server."""
