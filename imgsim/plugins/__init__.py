"""The built-in stages, registered through the same hooks as anyone's."""
