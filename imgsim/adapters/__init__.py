"""Everything that touches a library or the outside. An adapter is chosen by the scheme of a URL in the settings."""
