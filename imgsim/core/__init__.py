"""The domain: models, ports, errors and services. Imports the standard library and numpy only."""
