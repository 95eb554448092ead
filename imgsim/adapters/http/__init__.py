"""The HTTP side: a Litestar app over the services."""
